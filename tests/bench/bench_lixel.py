"""What I2L-MeshNet's fast form saves: time and peak memory of inference and of a training step, beside the plain form.

python -m tests.bench.bench_lixel [rounds]

"plain" builds the Gaussians' volume and keeps every activation, as published. "fast" convolves them without it, has
backbones in channels-last and its first deconvolutions as matrix products; "folded" also has batch norms in its
weights, backbones packed (for_inference); "recomputed" also keeps the inputs of blocks alone (training).

Times are CPU time of one thread, which other work on the machine changes little. The depth branch's batch norms cannot
learn from one person, so a training step on one keeps norms frozen. Peak memory is what a process of its own reaches
above the built network, gradients allocated, so: activations and temporaries. All with SMPL's 6,890 vertices, 256×256
crops, ResNet-50, float32.
"""

from __future__ import annotations

import ctypes
import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mesh_lib.nets.lixel import I2LMeshNet, LixelConfig
from mesh_lib.nets.lixel_heads import HeadConfig
from tests.bench.table import machine, markdown
from tests.mesh_lib.nets.test_lixel import SMPL

PLAIN = LixelConfig(form="plain", head=HeadConfig(recompute=False))
FAST = dataclasses.replace(PLAIN, form="fast")
TRAINING = {"plain": PLAIN, "fast": FAST, "fast, recomputed": LixelConfig()}
INFERENCE = {"plain": PLAIN, "fast": FAST, "fast, folded": FAST}
WORK = {"inference": INFERENCE, "training": TRAINING}


def prepare(work: str, form: str) -> Callable[[Tensor], object]:
    torch.manual_seed(0)
    net = I2LMeshNet(WORK[work][form], body=SMPL)
    norms = [module for module in net.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]

    def learn(image: Tensor) -> None:
        for norm in norms:
            norm.train(len(image) > 1)
        out = net(image)
        (out.mesh.mean() + out.joints.mean() + out.mesh_joints.mean()).backward()

    if work == "training":
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        return learn
    net.eval()
    return torch.inference_mode()(net.for_inference() if "folded" in form else net)


def peak_mb(work: str, form: str, batch: int) -> float:
    """In a process of its own, since a process's peak only ever grows."""
    command = [sys.executable, "-m", "tests.bench.bench_lixel", "peak", work, form, str(batch)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(answer.stdout)


def tell_peak(work: str, form: str, batch: int) -> None:
    torch.set_num_threads(1)
    run = prepare(work, form)
    image = torch.rand(batch, 3, 256, 256)
    ctypes.CDLL(None).malloc_trim(0)  # hand back what building the network has left free
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident_mb("VmRSS")
    run(image)
    sys.stdout.write(f"{resident_mb('VmHWM') - before:.1f}\n")


def resident_mb(which: str) -> float:
    """Of this process: what it holds (VmRSS), or the most it held (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


def cpu_seconds(work: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Median CPU seconds of each piece of work, taken in turns, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(1 + rounds):
        for name, run in work.items():
            start = time.process_time()
            run()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    rows = []
    for work, forms in WORK.items():
        runs = {form: prepare(work, form) for form in forms}
        for batch in (1, 16):
            image = torch.rand(batch, 3, 256, 256)
            turns = {form: (lambda run=run, image=image: run(image)) for form, run in runs.items()}
            times = cpu_seconds(turns, rounds=rounds if batch == 1 else max(rounds // 3, 1))
            peaks = {form: peak_mb(work, form, batch) for form in forms}
            for form in forms:
                rows.append(
                    [work, str(batch), form, f"{times[form] * 1e3:,.0f}", f"{times['plain'] / times[form]:.2f}×",
                     f"{peaks[form]:,.0f}", f"{peaks[form] / peaks['plain']:.2f}"]
                )  # fmt: skip
                sys.stderr.write(" ".join(rows[-1]) + "\n")
    header = ["work", "batch", "form", "CPU ms", "faster", "peak MB", "of plain"]
    sys.stdout.write(f"{machine()}, torch {torch.__version__}\n\n{markdown(header, rows)}\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        tell_peak(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 9)
