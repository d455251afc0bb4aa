"""A training step of f against the bare forward and backward of its network, on the GPU where there is one.

With a body file it needs mesh_lib alone:  python -m tests.bench.bench_step [OPEN_SMPL_LOW.npz]
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from mesh_lib.body.files import load_body
from mesh_lib.body.joints import BODY33
from mesh_lib.losses.pose2pose import Pose2PoseLossConfig, annotator_losses
from mesh_lib.nets.annotator import Annotator
from mesh_lib.nets.pose2pose import Pose2Pose, Pose2PoseConfig
from mesh_lib.nets.vposer import VPoserV2
from mesh_lib.supervision import Truth, make_targets
from tests.bench.table import machine, markdown, paired


def main(body: str | None = None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch, rounds = (192, 30) if device.type == "cuda" else (8, 5)
    torch.manual_seed(0)
    if body is None:
        from pipelines.bodies import cached_body  # needs anny, which a machine with no more than torch has not

        body = str(cached_body("low"))
    f = Annotator(Pose2PoseConfig(), body=load_body(body), vposer=VPoserV2()).to(device)
    bare = Pose2Pose(Pose2PoseConfig()).to(device)
    pixels = torch.randint(0, 255, (batch, 256, 192, 3), dtype=torch.uint8, device=device)
    truth = random_truth(batch, device)
    optimizer = torch.optim.Adam([p for p in f.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def image() -> torch.Tensor:
        return pixels.permute(0, 3, 1, 2).float().div_(255)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            answer = f(image())
        targets = make_targets(truth, keypoints=f.keypoints)
        losses = annotator_losses(answer, targets, model=f.config, config=Pose2PoseLossConfig())
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    def forward_backward() -> None:
        bare.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            out = bare(image())
        (out.joints_hm.sum() + out.root_6d.sum() + out.pose.sum() + out.betas.sum() + out.camera_raw.sum()).backward()

    work = {"bare forward and backward": forward_backward, "step of f: losses, body, Adam": step}
    seconds = paired({name: finished(run, device) for name, run in work.items()}, rounds=rounds)
    first = seconds["bare forward and backward"]
    rows = [[name, f"{batch / s:.0f}", f"{first / s:.2f}"] for name, s in seconds.items()]
    where = torch.cuda.get_device_name() if device.type == "cuda" else machine()
    header = [f"ResNet-50, 256×192, batch {batch}, bfloat16", "samples/s", "of the bare"]
    sys.stdout.write(f"{where}; torch {torch.__version__}\n\n{markdown(header, rows)}\n")


def finished(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The same, until the device is done."""

    def run() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def random_truth(batch: int, device: torch.device) -> Truth:
    """Half of the samples with all truth, half with 2D alone."""
    weak = torch.arange(batch, device=device) % 2 == 1
    joints = len(BODY33)
    return Truth(
        keypoints_2d_px=torch.rand(batch, joints, 3, device=device) * 200,
        keypoints_3d_m=torch.rand(batch, joints, 4, device=device),
        smpl_rotvec=torch.randn(batch, 24, 3, device=device) * 0.3,
        smpl_betas=torch.randn(batch, 10, device=device),
        smpl_transl_m=torch.tensor([0.0, 0.0, 5.0], device=device).expand(batch, 3),
        smpl_valid=~weak,
        focal_px=torch.full((batch, 2), 1000.0, device=device),
        princpt_px=torch.full((batch, 2), 100.0, device=device),
        affine=torch.tensor([[1.0, 0, 0], [0, 1, 0]], device=device).expand(batch, 2, 3),
        flip=weak,
        rotation_rad=torch.zeros(batch, device=device),
        weak=weak,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
