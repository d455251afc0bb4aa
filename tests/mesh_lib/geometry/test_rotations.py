from __future__ import annotations

import math

import pytest
import torch

from mesh_lib.geometry import rotations


def test_the_six_numbers_are_two_columns_read_by_rows() -> None:
    """Pose2Pose: view (3, 2); a1 = numbers 0, 2, 4."""
    six = torch.tensor([0.0, -1, 1, 0, 0, 0])  # a1 = y, a2 = -x: a quarter turn about z
    quarter = rotations.rotvec_to_rotmat(torch.tensor([0.0, 0, math.pi / 2]))
    assert torch.allclose(rotations.rot6d_to_rotmat(six), quarter, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-4, 1.0, 3.0, math.pi - 1e-4])
def test_rotation_vectors_survive_the_round_trip(angle: float) -> None:
    vector = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64) * angle
    again = rotations.rotmat_to_rotvec(rotations.rotvec_to_rotmat(vector))
    assert torch.allclose(again, vector, atol=1e-7)


def test_gradients_are_finite_at_zero() -> None:
    vector = torch.zeros(4, 3, requires_grad=True)
    rotations.rotvec_to_rotmat(vector).sum().backward()
    assert vector.grad is not None
    assert torch.isfinite(vector.grad).all()


def test_the_mean_of_opposite_turns_is_no_turn() -> None:
    turns = rotations.rotvec_to_rotmat(torch.tensor([[0.0, 0.7, 0], [0.0, -0.7, 0]]))
    assert torch.allclose(rotations.mean_rotation(turns), torch.eye(3), atol=1e-6)
