"""ASF/AMC: hand-worked kinematics, the legs of the BVH of the same take, limbs that point where they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mesh_lib.body.joints import SMPL24
from mesh_lib.datasets import bvh
from mesh_lib.datasets.asf_amc import forward_kinematics, parse_amc, parse_asf, read_asf_amc
from mesh_lib.world.skeleton import joint_positions, rotvec_to_rotmat

ASF = """# made by hand
:version 1.10
:units
  mass 1.0
  length 0.45
  angle deg
:root
  order TX TY TZ RX RY RZ
  axis XYZ
  position 0 0 0
:bonedata
  begin
    id 1
    name arm
    direction 1 0 0
    length 2
    axis 0 0 90 XYZ
    dof rx rz
    limits (-10 10)
           (-20 20)
  end
  begin
    id 2
    name hand
    direction 0 1 0
    length 1
    axis 0 0 0 XYZ
  end
:hierarchy
  begin
    root arm
    arm hand
  end
"""
AMC = "# a comment\n:FULLY-SPECIFIED\n:DEGREES\n1\nroot 1 2 3 0 0 0\narm 0 90\n2\nroot 0 0 0 0 90 0\narm 90 0\n"


def written(folder: Path, asf: str = ASF, amc: str = AMC, ends: str = "\r\n") -> Path:
    (folder / "07.asf").write_bytes(asf.replace("\n", ends).encode())
    (folder / "07_01.amc").write_bytes(amc.replace("\n", ends).encode())
    return folder / "07_01.amc"


def test_forward_kinematics_of_a_hand_worked_motion(tmp_path: Path) -> None:
    path = written(tmp_path)
    skeleton = parse_asf(tmp_path / "07.asf")
    _, ends = forward_kinematics(skeleton, parse_amc(path, skeleton))
    # Frame 1: 90° about the arm's z, which its axis leaves as z: it points up, and the hand, up at rest, to -x.
    np.testing.assert_allclose(ends["arm"][0], [1, 4, 3], atol=1e-9)
    np.testing.assert_allclose(ends["hand"][0], [0, 4, 3], atol=1e-9)
    # Frame 2: the arm's own x is the world's y (turned by 90° about z): the arm points to -z; then all turn about y.
    np.testing.assert_allclose(ends["arm"][1], [-2, 0, 0], atol=1e-9)
    np.testing.assert_allclose(ends["hand"][1], [-2, 1, 0], atol=1e-9)
    assert skeleton.metres_per_unit == pytest.approx(0.056444, abs=1e-6)


@pytest.mark.parametrize(
    ("asf", "amc", "said"),
    [
        (ASF.replace(":hierarchy", ":other"), AMC, "no :hierarchy"),
        (ASF.replace("angle deg", "angle rad"), AMC, "only degrees"),
        (ASF.replace("direction 1 0 0", "direction 1 x 0"), AMC, "line 21"),
        (ASF.replace("root arm", "root leg"), AMC, "arm is not in the hierarchy"),
        (ASF.replace("root arm\n    arm hand", "root hand\n    hand arm\n    arm root"), AMC, "two parents"),
        (ASF, AMC.replace("arm 0 90", "arm 0"), "line 6"),
        (ASF, AMC.replace("arm 0 90", "leg 0 90"), "leg does not move"),
        (ASF, AMC.replace("arm 90 0\n", ""), "frame 2 lacks arm"),
        (ASF, AMC.replace("arm 0 90", "arm 0 nan"), "NaN"),
        (ASF, ":DEGREES\n", "no whole AMC"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, asf: str, amc: str, said: str) -> None:
    path = written(tmp_path, asf, amc, "\n")
    with pytest.raises(ValueError, match="07") as error:
        parse_amc(path, parse_asf(tmp_path / "07.asf"))
    assert said in str(error.value)


def test_another_skeleton_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(ValueError, match=r"unknown skeleton .*lfemur"):
        read_asf_amc(path)
    (tmp_path / "07.asf").rename(tmp_path / "08.asf")
    (tmp_path / "09.asf").write_text(ASF)
    with pytest.raises(ValueError, match=r"looked for .*07\.asf"):
        read_asf_amc(path)


@pytest.mark.samples
def test_the_legs_are_those_of_the_bvh_of_the_same_take(samples_dir: Path) -> None:
    folder = samples_dir / "cmu_mocap" / "asf_amc"
    skeleton = parse_asf(folder / "01.asf")
    _, ends = forward_kinematics(skeleton, parse_amc(folder / "01_01.amc", skeleton))
    motion = bvh.parse_bvh(folder / "01_01.bvh")
    _, theirs = bvh.forward_kinematics(motion)
    theirs = theirs[1:]  # its first row is an inserted T-pose
    for bone, joint in (("ltibia", "LeftFoot"), ("rfemur", "RightLeg"), ("rtibia", "RightFoot")):
        np.testing.assert_allclose(
            ends[bone][: len(theirs)], theirs[:, motion.index(joint)][: len(ends[bone])], atol=2e-3
        )


@pytest.mark.samples
def test_retargeted_limbs_point_where_the_files_bones_point(samples_dir: Path) -> None:
    path = samples_dir / "cmu_mocap" / "asf_amc" / "01_01.amc"
    poses = read_asf_amc(path, every=12)
    skeleton = parse_asf(path.with_name("01.asf"))
    _, ends = forward_kinematics(skeleton, parse_amc(path, skeleton))
    rotvecs = np.concatenate([poses.global_orient_rotvec[:, None], poses.body_pose_rotvec], 1).astype(np.float64)
    at = joint_positions(rotvec_to_rotmat(rotvecs))
    for side in ("left", "right"):
        for top, tip, start, end in (
            ("hip", "knee", "hipjoint", "femur"), ("knee", "ankle", "femur", "tibia"),
            ("shoulder", "elbow", "clavicle", "humerus"), ("elbow", "wrist", "humerus", "radius"),
        ):  # fmt: skip
            ours = at[:, SMPL24.index(f"{side}_{tip}")] - at[:, SMPL24.index(f"{side}_{top}")]
            theirs = (ends[side[0] + end] - ends[side[0] + start])[::12]
            cos = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
            assert cos.min() > np.cos(np.deg2rad(3)), (side, tip)
    assert poses.root_world_m is not None
    assert 0.7 < np.median(poses.root_world_m[:, 1]) < 1.3  # metres above the floor
