"""The pose generator: anatomy by table, postures by known geometry."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mesh_lib.body.joints import SMPL24
from mesh_lib.world.poses import ACTIVITIES, JOINT_LIMITS, Poses, sample_poses
from mesh_lib.world.skeleton import (
    joint_positions,
    quat_to_rotvec,
    rotmat_to_quat,
    rotvec_to_rotmat,
)


@pytest.fixture(scope="module")
def poses() -> Poses:
    return sample_poses(4000, seed=7)


def positions_m(poses: Poses) -> dict[str, np.ndarray]:
    """World positions by joint name, pelvis at the origin."""
    rotvecs = np.concatenate([poses.global_orient_rotvec[:, None], poses.body_pose_rotvec], 1)
    points = joint_positions(rotvec_to_rotmat(rotvecs))
    return {name: points[:, i] for i, name in enumerate(SMPL24.names)}


@pytest.mark.parametrize("joint", JOINT_LIMITS)
def test_every_sample_keeps_every_joint_inside_the_table(joint: str, poses: Poses) -> None:
    limits = JOINT_LIMITS[joint]
    rotvec = poses.body_pose_rotvec[:, SMPL24.index(joint) - 1].astype(np.float64)
    angles = Rotation.from_rotvec(rotvec).as_euler(limits.axes.upper(), degrees=True)
    low, high = np.array(limits.ranges_deg).T
    if limits.axes[0] == limits.axes[2]:  # proper Euler angles: scipy's middle angle is positive, ours may not be
        angles = np.where(high[1] <= 0, angles * [1, -1, 1] + [180, 0, 180], angles)
    centre = (low + high) / 2
    angles = centre + (angles - centre + 180) % 360 - 180
    assert (angles > low - 0.1).all() and (angles < high + 0.1).all()


def test_knees_bend_backwards_and_elbows_forwards(poses: Poses) -> None:
    for side in ("left", "right"):
        knee = rotvec_to_rotmat(poses.body_pose_rotvec[:, SMPL24.index(f"{side}_knee") - 1])
        assert ((knee @ np.array([0, -1, 0]))[:, 2] <= 1e-3).all()  # the foot never goes before the thigh's line
        elbow = rotvec_to_rotmat(poses.body_pose_rotvec[:, SMPL24.index(f"{side}_elbow") - 1])
        out = np.array([1 if side == "left" else -1, 0, 0])
        assert ((elbow @ out)[:, 2] >= -1e-3).all()


def test_the_same_seed_gives_the_same_people_and_another_seed_others() -> None:
    first, again, other = (sample_poses(64, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.body_pose_rotvec, again.body_pose_rotvec)
    assert np.array_equal(first.activity, again.activity)
    assert not np.array_equal(first.body_pose_rotvec, other.body_pose_rotvec)


def test_all_activities_occur_and_most_arms_are_down(poses: Poses) -> None:
    assert set(poses.activity) == set(ACTIVITIES)
    at = positions_m(poses)
    upright = np.isin(poses.activity, ("stand", "walk"))
    down = at["left_wrist"][upright, 1] < at["left_shoulder"][upright, 1]
    assert down.mean() > 0.75


def test_standing_people_have_both_feet_near_the_same_ground_and_the_head_above(poses: Poses) -> None:
    at, rows = positions_m(poses), poses.activity == "stand"
    assert np.abs(at["left_ankle"][rows, 1] - at["right_ankle"][rows, 1]).max() < 0.25
    assert (at["head"][rows, 1] > 0.4).all() and (at["left_ankle"][rows, 1] < -0.6).all()


def test_sitting_people_have_level_thighs_and_low_hips(poses: Poses) -> None:
    at, rows = positions_m(poses), poses.activity == "sit"
    thigh = at["left_knee"][rows] - at["left_hip"][rows]
    assert (np.abs(thigh[:, 1]) < 0.30).mean() > 0.95
    assert (np.linalg.norm(thigh[:, [0, 2]], axis=1) > 0.25).mean() > 0.95


def test_people_who_lie_are_level_and_all_others_upright(poses: Poses) -> None:
    at = positions_m(poses)
    trunk = at["neck"] / np.linalg.norm(at["neck"], axis=1, keepdims=True)
    lies = poses.activity == "lie"
    assert np.abs(trunk[lies, 1]).max() < 0.45
    assert trunk[np.isin(poses.activity, ("stand", "walk", "sit", "twist")), 1].min() > 0.6


def test_left_and_right_have_the_same_statistics(poses: Poses) -> None:
    mirrored = poses.body_pose_rotvec[:, np.array(SMPL24.mirror[1:]) - 1] * np.array([1, -1, -1])
    difference = poses.body_pose_rotvec.mean(0) - mirrored.mean(0)
    standard_error = poses.body_pose_rotvec.std(0) * np.sqrt(2 / len(poses))
    assert (np.abs(difference) < 5 * standard_error + 1e-6).all()


def test_people_face_every_way(poses: Poses) -> None:
    facing = rotvec_to_rotmat(poses.global_orient_rotvec[poses.activity == "stand"])[..., 2]
    assert np.linalg.norm(facing[:, [0, 2]].mean(0)) < 0.15


def test_matrix_to_rotation_vector_round_trip_holds_for_half_turns_too() -> None:
    rng = np.random.default_rng(0)
    axes = rng.standard_normal((500, 3))
    rotvec = axes / np.linalg.norm(axes, axis=1, keepdims=True) * rng.choice((0, 1e-7, 1, 3.14159), (500, 1))
    assert np.allclose(quat_to_rotvec(rotmat_to_quat(rotvec_to_rotmat(rotvec))), rotvec, atol=1e-6)
