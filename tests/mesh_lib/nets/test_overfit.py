"""Each network for g learns a few samples by heart with its own losses: forward, losses and gradients fit together."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mesh_lib.body.files import Body
from mesh_lib.body.joints import BODY33
from mesh_lib.body.layer import BodyLayer, KeypointLayer
from mesh_lib.geometry.cameras import project_to_crop
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.losses.hmr import HmrLossConfig, hmr_losses
from mesh_lib.losses.lixel import LixelLossConfig, LixelTargets, Surface, lixel_losses
from mesh_lib.nets.hmr import HmrConfig, HmrEstimator
from mesh_lib.nets.lixel import I2LMeshNet, LixelConfig
from mesh_lib.nets.lixel_heads import HeadConfig
from mesh_lib.supervision import Targets

PEOPLE, SIZE = 3, 64


def people() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures of noise, and a pose and a shape for each, upright before the camera."""
    torch.manual_seed(0)
    rotvec = torch.randn(PEOPLE, 24, 3) * 0.2
    rotmats = rotvec_to_rotmat(rotvec)
    rotmats[:, 0] = torch.diag(torch.tensor([1.0, -1, -1])) @ rotmats[:, 0]
    return torch.rand(PEOPLE, 3, SIZE, SIZE), rotmats, torch.randn(PEOPLE, 10) * 0.5


def learn(
    net: torch.nn.Module, losses: Callable[[], dict[str, torch.Tensor]], *, steps: int, rate: float
) -> tuple[float, float]:
    """The loss of the first step and of the last."""
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    seen = []
    for _ in range(steps):
        loss = torch.stack(list(losses().values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        seen.append(loss.item())
    return seen[0], seen[-1]


def test_i2l_meshnet_learns_three_people_by_heart(body: Body) -> None:
    """To a bin and a half (of 150 mm in these small heatmaps) a vertex: how far sixty steps come depends on the last
    bits, and so on the machine. (To 15 mm: tests/pipelines/test_by_heart.py.)"""
    config = LixelConfig(backbone=18, input_width=SIZE, input_height=SIZE, depth_bins=16, head=HeadConfig(channels=32))
    image, rotmats, betas = people()
    net = I2LMeshNet(config, body=body)
    vertices_m = BodyLayer(body)(rotmats=rotmats, betas=betas).vertices_m
    joints_m = net.regressor @ vertices_m
    root = joints_m[:, :1]

    def to_lixels(points_m: torch.Tensor) -> torch.Tensor:
        rel_m = points_m - root
        return config.space.from_crop(SIZE / 2 + rel_m[..., :2] * SIZE / 2.4, rel_m[..., 2])

    joints, mesh = to_lixels(joints_m), to_lixels(vertices_m)
    one = torch.ones(PEOPLE)
    targets = LixelTargets(
        joints_orig=joints, joints_orig_valid=config.space.inside(joints), depth_valid=one, joints_fit=joints,
        joints_fit_valid=config.space.inside(joints), mesh_fit=mesh, mesh_fit_valid=config.space.inside(mesh),
        fit_valid=one,
    )  # fmt: skip
    assert targets.mesh_fit_valid.all(), "everybody fits into the heatmaps"
    surface = Surface.of(body.faces)
    first, last = learn(
        net, lambda: lixel_losses(net(image), targets, surface=surface, config=LixelLossConfig()), steps=60, rate=8e-3
    )
    off = (net(image).mesh - mesh).norm(dim=2).mean().item()
    assert last < first / 4 and off < 1.5, (first, last, off)


def test_hmr_learns_three_people_by_heart(body: Body) -> None:
    config = HmrConfig(backbone=18, input_width=SIZE, input_height=SIZE, width=256, dropout=0.0)
    image, rotmats, betas = people()
    joints_m = KeypointLayer(body, BODY33)(rotmats=rotmats, betas=betas)
    rel_m = joints_m - joints_m[:, BODY33.index("pelvis"), None]
    shown_m = joints_m + torch.tensor([0.0, 0.0, 2 * 5000 / (SIZE * 0.9)])
    pixels = project_to_crop(shown_m, input_size=config.input_size)
    known, one = torch.ones(PEOPLE, 33), torch.ones(PEOPLE)
    targets = Targets(
        keypoints_crop_px=pixels, keypoints_valid=known, joints_rel_m=rel_m, joints_rel_valid=known,
        mesh_crop_px=pixels, mesh_crop_valid=one, mesh_rel_m=rel_m, mesh_valid=one, rotmats=rotmats, betas=betas,
        weak=torch.zeros(PEOPLE),
    )  # fmt: skip
    net = HmrEstimator(config, body=body)
    loss = HmrLossConfig()
    first, last = learn(net, lambda: hmr_losses(net(image), targets, model=config, config=loss), steps=40, rate=1e-3)
    answer = net(image)
    found_m = answer.joints_m - answer.joints_m[:, BODY33.index("pelvis"), None]
    error_mm = (found_m - rel_m).norm(dim=2).mean().item() * 1000
    assert last < first / 10 and error_mm < 60, (first, last, error_mm)
