from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.metrics import joints


@pytest.fixture
def target_m() -> Tensor:
    return torch.randn(5, 14, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_pa_mpjpe_is_zero_for_a_rotated_scaled_shifted_copy(target_m: Tensor) -> None:
    turn = rotvec_to_rotmat(torch.tensor([0.3, -2.0, 0.5], dtype=torch.float64))
    moved = 1.7 * target_m @ turn.mT + torch.tensor([1.0, -2.0, 30.0], dtype=torch.float64)
    assert joints.pa_mpjpe_mm(predicted_m=moved, target_m=target_m).max() < 1e-9


def test_pa_mpjpe_does_not_mirror(target_m: Tensor) -> None:
    mirrored = target_m * torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    assert joints.pa_mpjpe_mm(predicted_m=mirrored, target_m=target_m).min() > 100


def test_mpjpe_of_one_joint_off_by_14_mm_is_1_mm(target_m: Tensor) -> None:
    off = target_m.clone()
    off[:, 3, 1] += 0.014
    assert joints.mpjpe_mm(predicted_m=off, target_m=target_m).tolist() == pytest.approx([1.0] * 5)


def test_reprojection_counts_visible_joints_only() -> None:
    predicted = torch.tensor([[[3.0, 4.0], [0, 0]], [[1, 1], [0, 0]]])
    target = torch.tensor([[[0.0, 0.0], [float("nan"), 0]], [[1, 1], [9, 9]]])
    visible = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    error = joints.reprojection_px(predicted_px=predicted, target_px=target, visible=visible)
    assert error[0] == 5
    assert error[1].isnan()
