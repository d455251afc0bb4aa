"""BVH clips: retargeted limbs point where the file's own limbs point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mesh_lib.body.joints import SMPL24
from mesh_lib.datasets.bvh import (
    DIALECTS,
    find_dialect,
    forward_kinematics,
    opens_with_t_pose,
    parse_bvh,
    read_bvh,
    retarget,
)
from mesh_lib.world.poses import Poses
from mesh_lib.world.skeleton import joint_positions, rotvec_to_rotmat

WALKS = ("bvh_motionbuilder/02_01", "bvh_motionbuilder/07_01", "bvh_3dsmax/12_01", "bvh_3dsmax/35_28")
ONE_OF_EACH = (*WALKS, "asf_amc/01_01", "bvh_motionbuilder/05_06")

TINY = """HIERARCHY
ROOT Hips
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Yrotation Xrotation Zrotation
  JOINT Arm
  {
    OFFSET 1 0 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 2 0 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.01
0 0 0 0 0 0 0 0 0
10 20 30 90 0 0 90 0 0
"""


def points(poses: Poses) -> dict[str, np.ndarray]:
    rotvecs = np.concatenate([poses.global_orient_rotvec[:, None], poses.body_pose_rotvec], 1)
    at = joint_positions(rotvec_to_rotmat(rotvecs.astype(np.float64)))
    return {name: at[:, i] for i, name in enumerate(SMPL24.names)}


def written(folder: Path, text: str) -> Path:
    path = folder / "clip.bvh"
    path.write_text(text)
    return path


def test_forward_kinematics_of_a_hand_worked_clip(tmp_path: Path) -> None:
    _, at = forward_kinematics(parse_bvh(written(tmp_path, TINY)))
    assert np.allclose(at[0], [[0, 0, 0], [1, 0, 0], [3, 0, 0]])
    # turned 90° about y, the arm leaves along -z; its own 90° about z lifts its tip by 2
    assert np.allclose(at[1], [[10, 20, 30], [10, 20, 29], [10, 22, 29]])


@pytest.mark.parametrize("clip", ONE_OF_EACH)
def test_retargeted_limbs_point_where_the_files_limbs_point(clip: str, samples_dir: Path) -> None:
    motion = parse_bvh(samples_dir / "cmu_mocap" / f"{clip}.bvh")
    table = find_dialect(motion)
    _, file_at = forward_kinematics(motion)
    skip = int(opens_with_t_pose(motion))
    poses = retarget(motion)
    at = points(poses)
    assert len(poses) == len(motion.values) - skip
    for side in ("left", "right"):
        for top, tip in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist")):
            ends = [file_at[skip:, motion.index(table[f"{side}_{part}"])] for part in (top, tip)]
            theirs, ours = ends[1] - ends[0], at[f"{side}_{tip}"] - at[f"{side}_{top}"]
            cosine = (theirs * ours).sum(1) / np.linalg.norm(theirs, axis=1) / np.linalg.norm(ours, axis=1)
            assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 0.5, (side, top)
    trunk = file_at[skip:, motion.index(table["neck"])] - file_at[skip:, motion.index(table["spine1"])]
    ours = at["neck"] - at["spine1"]
    cosine = (trunk * ours).sum(1) / np.linalg.norm(trunk, axis=1) / np.linalg.norm(ours, axis=1)
    # vertebrae differ in length, so a strongly bent back agrees less than a straight limb
    assert np.percentile(np.degrees(np.arccos(cosine)), 90) < 15


@pytest.mark.parametrize("clip", WALKS)
def test_walking_looks_like_walking(clip: str, samples_dir: Path) -> None:
    poses = read_bvh(samples_dir / "cmu_mocap" / f"{clip}.bvh")
    assert poses.root_world_m is not None
    way = poses.root_world_m[-1] - poses.root_world_m[0]
    assert np.linalg.norm(way[[0, 2]]) > 1.5, "they get somewhere"
    assert 0.6 < np.median(poses.root_world_m[:, 1]) < 1.2, "the pelvis is at leg height, in metres"
    facing = rotvec_to_rotmat(poses.global_orient_rotvec)[:, :, 2]
    assert np.median(facing @ (way / np.linalg.norm(way))) > 0.8, "they face where they go"
    at = points(poses)
    assert (at["head"][:, 1] > 0.4).all() and (at["left_ankle"][:, 1] < -0.4).all(), "upright"
    forward = {side: (at[f"{side}_ankle"] * facing).sum(1) for side in ("left", "right")}
    assert np.corrcoef(forward["left"], forward["right"])[0, 1] < -0.6, "the legs alternate"
    assert np.mean(at["left_wrist"][:, 1] < at["left_shoulder"][:, 1]) > 0.95, "arms hang"
    knee = rotvec_to_rotmat(poses.body_pose_rotvec[:, SMPL24.index("left_knee") - 1])
    assert np.median((knee @ np.array([0, -1, 0]))[:, 2]) < 0, "knees bend backwards"


def test_only_the_dialects_with_an_inserted_t_pose_lose_their_first_row(samples_dir: Path) -> None:
    for clip, inserted in (("bvh_motionbuilder/02_01", True), ("asf_amc/01_01", True), ("bvh_3dsmax/12_01", False)):
        assert opens_with_t_pose(parse_bvh(samples_dir / "cmu_mocap" / f"{clip}.bvh")) is inserted


def test_an_unknown_skeleton_names_the_joints_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown skeleton.*LeftUpLeg"):
        find_dialect(parse_bvh(written(tmp_path, TINY)))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("10 20 30 90 0 0 90 0 0\n", "", "line 19: the file ends where frame 2 of 2"),
        ("10 20 30 90", "10 20 nan 90", "line 20: a number is NaN"),
        ("10 20 30 90", "20 30 90", "line 20: 8 numbers in frame 2; the hierarchy has 9 channels"),
        ("10 20 30 90", "10 20 abc 90", "line 20: could not convert"),
        ("OFFSET 1 0 0", "OFFSET 1 0", "line 8: expected OFFSET"),
        ("CHANNELS 3 Z", "CHANNELS 4 Z", "line 9: expected CHANNELS"),
        ("Frames: 2", "Frames: two", "line 17: expected 'Frames:'"),
        ("HIERARCHY", "<html>", "line 1: a BVH file starts with"),
    ],
)
def test_a_broken_file_names_the_line(old: str, new: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_bvh(written(tmp_path, TINY.replace(old, new)))


def test_both_dialect_tables_cover_every_joint_but_the_hands() -> None:
    for table in DIALECTS.values():
        assert set(table) == {name for name in SMPL24.names if not name.endswith("_hand")}
