"""Joint limits: known angles, poses that keep them, and the nearest allowed turn by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from mesh_lib.body.joints import SMPL24, VPOSER21
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.metrics.joint_limits import joint_limit_excess_deg, joint_limit_violations_percent
from mesh_lib.world.poses import JOINT_LIMITS, sample_poses


def person(**degrees: tuple[float, float, float]) -> Tensor:
    """Anatomical angles by joint; the arms hang, for a T-pose's are out of range."""
    rotmats = torch.eye(3, dtype=torch.float64).repeat(24, 1, 1)
    hanging = {"left_shoulder": (0.0, -70.0, 0.0), "right_shoulder": (0.0, 70.0, 0.0)}
    for joint, angles in (hanging | degrees).items():
        turn = Rotation.from_euler(JOINT_LIMITS[joint].axes.upper(), angles, degrees=True)
        rotmats[SMPL24.index(joint)] = torch.from_numpy(turn.as_matrix())
    return rotmats


def at(excess: Tensor, joint: str) -> float:
    return excess[..., VPOSER21.index(joint)].item()


def test_no_generated_pose_violates_its_limits() -> None:
    poses = sample_poses(500, seed=3)
    rotvec = torch.from_numpy(np.concatenate([poses.global_orient_rotvec[:, None], poses.body_pose_rotvec], axis=1))
    rotmats = rotvec_to_rotmat(rotvec)
    assert rotmats.dtype == torch.float32
    assert joint_limit_excess_deg(rotmats).max() == 0 and joint_limit_violations_percent(rotmats).max() == 0


@pytest.mark.parametrize(
    ("joint", "angles", "excess"),
    [
        ("left_knee", (-60, 0, 0), 60),  # bent forwards
        ("right_knee", (170, 0, 0), 20),
        ("left_elbow", (40, 0, 0), 40),  # bent backwards
        ("right_elbow", (-40, 0, 0), 40),
        ("head", (90, 0, 0), 50),
        ("left_knee", (90, 0, 0), 0),
        ("left_hip", (-120, 50, 0), 0),
    ],
)
def test_a_joint_is_out_by_the_angle_that_brings_it_back(
    joint: str, angles: tuple[float, float, float], excess: float
) -> None:
    found = joint_limit_excess_deg(person(**{joint: angles}))
    assert at(found, joint) == pytest.approx(excess, abs=0.05)
    assert found.sum().item() == pytest.approx(excess, abs=0.05), "and no other joint is"


def test_violations_are_a_share_of_21_joints_beyond_the_tolerance() -> None:
    rotmats = person(left_knee=(-4, 0, 0), right_knee=(-30, 0, 0), head=(80, 0, 0))
    assert joint_limit_violations_percent(rotmats).item() == pytest.approx(100 * 2 / 21)
    assert joint_limit_violations_percent(rotmats, tolerance_deg=3.0).item() == pytest.approx(100 * 3 / 21)
    t_pose = torch.eye(3).repeat(24, 1, 1)
    assert at(joint_limit_excess_deg(t_pose), "left_shoulder") == pytest.approx(4, abs=0.05)
    assert joint_limit_violations_percent(t_pose) == 0


def test_the_root_and_the_hands_have_no_limits() -> None:
    rotmats = person()
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    for joint in ("pelvis", "left_hand", "right_hand"):
        rotmats[SMPL24.index(joint)] = half_turn
    assert joint_limit_excess_deg(rotmats).max() == 0


@pytest.mark.parametrize("joint", VPOSER21.names)
def test_no_allowed_turn_is_nearer_and_one_is_as_near(joint: str) -> None:
    """Against every turn of a fine grid of the three angles: never further than the best, nor much nearer."""
    rng = np.random.default_rng(VPOSER21.index(joint))
    wild = Rotation.random(12, rng=rng).as_matrix()
    rotmats = torch.eye(3, dtype=torch.float64).repeat(12, 24, 1, 1)
    rotmats[:, SMPL24.index(joint)] = torch.from_numpy(wild)
    found = joint_limit_excess_deg(rotmats)[:, VPOSER21.index(joint)].numpy()
    ranges = JOINT_LIMITS[joint].ranges_deg
    step = max(max(high - low for low, high in ranges) / 24, 0.5)
    grids = [np.linspace(low, high, int(np.ceil((high - low) / step)) + 1) for low, high in ranges]
    angles = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, 3)
    allowed = Rotation.from_euler(JOINT_LIMITS[joint].axes.upper(), angles, degrees=True).as_matrix()
    trace = wild.reshape(-1, 9) @ allowed.reshape(-1, 9).T
    brute = np.degrees(np.arccos(np.clip((trace.max(axis=1) - 1) / 2, -1, 1)))
    assert (found <= brute + 0.05).all()
    assert (found >= brute - 1.5 * step).all()


def test_float32_float64_batches_and_matrices_that_are_no_numbers() -> None:
    wild = torch.from_numpy(Rotation.random(5 * 24, rng=np.random.default_rng(9)).as_matrix()).reshape(5, 24, 3, 3)
    whole = joint_limit_excess_deg(wild)
    single = joint_limit_excess_deg(wild.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), whole, atol=0.05, rtol=0)
    torch.testing.assert_close(joint_limit_excess_deg(wild[3]), whole[3])
    torch.testing.assert_close(joint_limit_excess_deg(wild[None, :, None])[0, :, 0], whole)
    spoilt = wild.clone()
    spoilt[2, 4] = torch.nan
    found = joint_limit_excess_deg(spoilt)
    assert found[2].isnan().sum() == 1 and at(found[2], "left_knee") != at(found[2], "left_knee")
    torch.testing.assert_close(found[[0, 1, 3, 4]], whole[[0, 1, 3, 4]])
    assert joint_limit_violations_percent(spoilt).isnan().tolist() == [False, False, True, False, False]
    assert joint_limit_violations_percent(wild[:0]).shape == (0,)
