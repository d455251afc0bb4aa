"""SPIN's losses: published weights, and what each kind of sample feels."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from mesh_lib.body.joints import BODY33
from mesh_lib.losses.hmr import HmrLossConfig, hmr_losses
from mesh_lib.nets.hmr import HmrAnswer, HmrConfig
from mesh_lib.supervision import Targets

BATCH, MODEL = 2, HmrConfig()


def perfect() -> tuple[HmrAnswer, Targets]:
    torch.manual_seed(0)
    joints, pixels, turns = (
        torch.rand(BATCH, 33, 3),
        torch.rand(BATCH, 33, 2) * 224,
        torch.eye(3).expand(BATCH, 24, 3, 3),
    )
    answer = HmrAnswer(
        rotmats=turns, betas=torch.zeros(BATCH, 10), camera=torch.tensor([[0.9, 0.0, 0.0]] * BATCH),
        transl_m=torch.zeros(BATCH, 3), joints_m=joints, joints_crop_px=pixels,
    )  # fmt: skip
    known, one = torch.ones(BATCH, 33), torch.ones(BATCH)
    targets = Targets(
        keypoints_crop_px=pixels, keypoints_valid=known, joints_rel_m=joints - joints[:, :1], joints_rel_valid=known,
        mesh_crop_px=pixels, mesh_crop_valid=one, mesh_rel_m=joints - joints[:, :1], mesh_valid=one, rotmats=turns,
        betas=torch.zeros(BATCH, 10), weak=torch.zeros(BATCH),
    )  # fmt: skip
    return answer, targets


def losses(answer: HmrAnswer, targets: Targets) -> dict[str, float]:
    found = hmr_losses(answer, targets, model=MODEL, config=HmrLossConfig())
    return {name: value.item() for name, value in found.items()}


def test_a_perfect_answer_costs_its_camera_alone() -> None:
    expected = {"keypoints_2d": 0, "keypoints_3d": 0, "pose": 0, "shape": 0, "camera": 60 * math.exp(-9) ** 2}
    assert losses(*perfect()) == pytest.approx(expected, abs=1e-9)


def test_the_published_weights() -> None:
    answer, targets = perfect()
    apart = torch.where(torch.arange(33) < 20, 0.0, 0.1)[:, None] * torch.tensor([1.0, 0, 0])  # not the hips
    moved = dataclasses.replace(
        answer, joints_crop_px=answer.joints_crop_px + 11.2, joints_m=answer.joints_m + apart, betas=answer.betas + 2,
        rotmats=answer.rotmats + 0.5,
    )  # fmt: skip
    found = losses(moved, targets)
    assert found["keypoints_2d"] == pytest.approx(60 * 5 * 0.1**2, rel=1e-4), "11.2 px are a tenth of [-1, 1]'s half"
    assert found["keypoints_3d"] == pytest.approx(60 * 5 * 0.1**2 * 13 / 33 / 3, rel=1e-4)
    assert found["pose"] == pytest.approx(60 * 0.25, rel=1e-4) and found["shape"] == pytest.approx(60 * 0.001 * 4)


def test_3d_is_compared_from_the_middle_of_the_hips() -> None:
    answer, targets = perfect()
    found = losses(dataclasses.replace(answer, joints_m=answer.joints_m + torch.tensor([5.0, -3, 40])), targets)
    assert found["keypoints_3d"] == pytest.approx(0, abs=1e-6)
    assert {"left_hip", "right_hip"} <= set(BODY33.names[:20])


def test_a_sample_of_2d_alone_feels_2d_alone_nan_included() -> None:
    answer, targets = perfect()
    weak = dataclasses.replace(
        targets, joints_rel_m=torch.full((BATCH, 33, 3), torch.nan), joints_rel_valid=torch.zeros(BATCH, 33),
        mesh_valid=torch.zeros(BATCH), rotmats=torch.full((BATCH, 24, 3, 3), torch.nan),
    )  # fmt: skip
    joints, turns = answer.joints_m.clone().requires_grad_(), answer.rotmats.clone().requires_grad_()
    pixels = (answer.joints_crop_px + 1).requires_grad_()
    moved = dataclasses.replace(answer, joints_m=joints, rotmats=turns, joints_crop_px=pixels)
    terms = hmr_losses(moved, weak, model=MODEL, config=HmrLossConfig())
    assert terms["keypoints_2d"] > 0 and all(terms[name] == 0 for name in ("keypoints_3d", "pose", "shape"))
    torch.stack(list(terms.values())).sum().backward()
    assert joints.grad is not None and turns.grad is not None and not joints.grad.any() and not turns.grad.any()


def test_samples_without_3d_do_not_dilute_those_with() -> None:
    """Means run over the samples that know (2D: over all, by confidence)."""
    answer, targets = perfect()
    half = torch.tensor([1.0, 0.0])
    known = dataclasses.replace(targets, mesh_valid=half, joints_rel_valid=half[:, None].expand(BATCH, 33))
    moved = dataclasses.replace(answer, betas=answer.betas + 2, joints_m=answer.joints_m * 2)
    assert losses(moved, known)["shape"] == pytest.approx(60 * 0.001 * 4)
    assert losses(moved, known)["keypoints_3d"] > 0
    confident = dataclasses.replace(targets, keypoints_valid=half[:, None].expand(BATCH, 33))
    shifted = dataclasses.replace(answer, joints_crop_px=answer.joints_crop_px + 11.2)
    assert losses(shifted, confident)["keypoints_2d"] == pytest.approx(60 * 5 * 0.1**2 / 2, rel=1e-4)


def test_a_body_behind_the_camera_costs_dearly() -> None:
    answer, targets = perfect()
    behind = dataclasses.replace(answer, camera=torch.tensor([[-0.1, 0.0, 0.0]] * BATCH))
    assert losses(behind, targets)["camera"] == pytest.approx(60 * math.exp(1) ** 2, rel=1e-5)
