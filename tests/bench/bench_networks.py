"""How many people a second each network estimates: alone, and at its best batch; as torch runs it, and as we do.

python -m tests.bench.bench_networks [THREADS]      on a GPU where there is one; needs mesh_lib alone

The published sizes: ResNet-50, Pose2Pose 256×192, HMR 224×224, I2L-MeshNet 256×256; the body has SMPL's 6,890 vertices,
and no shape. From crops in memory to meshes, float32 (on a GPU also in half precision).
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mesh_lib.body.joints import BODY33
from mesh_lib.nets.estimators import EstimatorConfig, Mesher, View, build_estimator
from mesh_lib.nets.hmr import HmrConfig
from mesh_lib.nets.lixel import LIXEL29, LixelConfig
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from tests.bench.table import machine, markdown
from tests.mesh_lib.nets.test_lixel import SMPL

NETWORKS: dict[str, EstimatorConfig] = {
    "Pose2Pose": Pose2PoseConfig(pose_head="rot6d"),
    "HMR": HmrConfig(),
    "I2L-MeshNet": LixelConfig(),
    "I2L-MeshNet, plain Gaussians": LixelConfig(form="plain"),
}
BATCHES = {"cpu": (1, 8), "cuda": (1, 32, 128, 256)}
SHORTEST_S = 2.0
SINGLE = (*BODY33.names, *LIXEL29.names)
BODY = dataclasses.replace(SMPL, keypoint_vertices={name: 100 + i for i, name in enumerate(SINGLE)})


def main(threads: str = "2") -> None:
    torch.set_num_threads(int(threads))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for name, config in NETWORKS.items():
        torch.manual_seed(0)
        network = build_estimator(config, body=BODY).eval()
        forms: dict[str, nn.Module] = {"as torch runs it": network, "ready for inference": network.for_inference()}
        for form, net in forms.items():
            if form != "as torch runs it" and "plain" in name:
                continue
            mesher = Mesher(net, BODY).to(device)  # pyright: ignore[reportArgumentType]
            for half in (False, True) if device == "cuda" else (False,):
                rates = {batch: people_per_s(mesher, config, batch, device, half=half) for batch in BATCHES[device]}
                best = max(rates, key=lambda batch: rates[batch])
                precision = "bfloat16" if half else "float32"
                rows.append([name, form, precision, f"{rates[1]:.1f}", f"{rates[best]:.1f}", str(best)])
                sys.stderr.write(" ".join(rows[-1]) + "\n")
    header = ["network", "form", "precision", "people/s, one by one", "at its best batch", "which is"]
    where = torch.cuda.get_device_name() if device == "cuda" else f"{threads} threads"
    sys.stdout.write(f"{machine()}, {where}, torch {torch.__version__}\n\n{markdown(header, rows)}\n")


def people_per_s(mesher: Mesher, config: EstimatorConfig, batch: int, device: str, *, half: bool) -> float:
    width, height = config.input_size
    image = torch.rand(batch, 3, height, width, device=device)
    view = View(
        affine=torch.eye(2, 3, device=device).expand(batch, 2, 3),
        focal_px=torch.full((batch, 2), 500.0, device=device),
        princpt_px=torch.full((batch, 2), 128.0, device=device),
        root_depth_m=torch.full((batch,), 5.0, device=device),
    )  # fmt: skip
    return batch / seconds(lambda: answer(mesher, image, view, half=half), device)


@torch.inference_mode()
def answer(mesher: Mesher, image: Tensor, view: View, *, half: bool) -> Tensor:
    with torch.autocast(image.device.type, torch.bfloat16, enabled=half):
        return mesher(image, view).vertices_m


def seconds(run: Callable[[], object], device: str) -> float:
    """Median of rounds that together take a while, after one that does not count."""
    times: list[float] = []
    run()
    while len(times) < 3 or sum(times) < SHORTEST_S:
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main(*sys.argv[1:])
