"""AMASS files, made here in their published layout (the data itself may not be passed on)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mesh_lib.datasets.amass import find_clips, read_amass
from mesh_lib.world.skeleton import rotvec_to_rotmat


def write_clip(
    path: Path, *, width: int = 156, rate_name: str = "mocap_framerate", arrays: dict[str, object] | None = None
) -> Path:
    """Someone who stands upright in AMASS' z-up world, faces -y, and walks along x."""
    poses = np.zeros((24, width))
    poses[:, 0] = np.pi / 2
    poses[:, 3:] = np.linspace(0, 0.5, width - 3)
    trans = np.zeros((24, 3))
    trans[:, 0], trans[:, 2] = np.linspace(0, 2, 24), 0.9
    clip = {"poses": poses, "trans": trans, rate_name: np.array(120.0), "gender": np.array("female")}
    np.savez(path, **{key: value for key, value in (clip | (arrays or {})).items() if value is not None})  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("name", "width", "rate_name"),
    [("a_poses.npz", 156, "mocap_framerate"), ("a_stageii.npz", 165, "mocap_frame_rate")],
)
def test_z_up_becomes_y_up_and_hands_stay_at_rest(name: str, width: int, rate_name: str, tmp_path: Path) -> None:
    poses = read_amass(write_clip(tmp_path / name, width=width, rate_name=rate_name))
    up = rotvec_to_rotmat(poses.global_orient_rotvec)[:, :, 1]
    assert np.allclose(up, [0, 1, 0], atol=1e-6), "upright in a y-up world"
    assert poses.root_world_m is not None
    assert np.allclose(poses.root_world_m[:, 1], 0.9) and np.isclose(poses.root_world_m[-1, 0], 2)
    wanted = np.linspace(0, 0.5, width - 3)[:63].reshape(21, 3)
    assert np.allclose(poses.body_pose_rotvec[0, :21], wanted, atol=1e-6)
    assert not poses.body_pose_rotvec[:, 21:].any()


def test_a_clip_is_thinned_to_the_wanted_rate(tmp_path: Path) -> None:
    assert len(read_amass(write_clip(tmp_path / "a_poses.npz"), frames_per_s=10.0)) == 2


def test_only_motions_are_found(tmp_path: Path) -> None:
    for name in ("b_poses.npz", "a_stageii.npz", "shape.npz", "neutral_stagei.npz"):
        write_clip(tmp_path / name)
    assert [path.name for path in find_clips(tmp_path)] == ["a_stageii.npz", "b_poses.npz"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"trans": None}, "no trans in it"),
        ({"poses": np.zeros((24, 60))}, "expected"),
        ({"poses": np.full((24, 156), np.nan)}, "not finite"),
        ({"poses": np.array([{"run": "me"}], dtype=object)}, "not a readable AMASS clip"),
    ],
)
def test_a_file_that_is_no_clip_is_refused(changes: dict[str, object], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_amass(write_clip(tmp_path / "a_poses.npz", arrays=changes))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a_poses.npz")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a readable AMASS clip"):
        read_amass(path)
