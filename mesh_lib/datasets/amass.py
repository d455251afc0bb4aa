"""AMASS motion capture (`*_poses.npz` with SMPL+H, `*_stageii.npz` with SMPL-X), as SMPL body poses.

AMASS (Mahmood et al., 2019; amass.is.tue.mpg.de) must be fetched by its user: its licence forbids passing it on.
Its world is z-up; ours is y-up. Hands are dropped: SMPL's two hand joints stay at rest. Nothing in a file is executed:
pickled arrays are refused, and no array that we need is one.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from mesh_lib.world.poses import Poses
from mesh_lib.world.skeleton import quat_multiply, quat_to_rotvec, rotvec_to_quat

SUFFIXES = ("_poses.npz", "_stageii.npz")
BODY_VALUES = 66
"""Root and 21 body joints: the same in SMPL+H (156 values) and SMPL-X (165)."""
_Y_UP_FROM_Z_UP = np.array([np.cos(np.pi / 4), -np.sin(np.pi / 4), 0.0, 0.0])


def find_clips(folder: Path) -> list[Path]:
    """Every motion below a folder, sorted (shape.npz and neutral_stagei.npz hold no motion)."""
    return sorted(path for path in Path(folder).rglob("*.npz") if path.name.endswith(SUFFIXES))


def read_amass(path: Path, *, frames_per_s: float | None = None) -> Poses:
    """One clip, thinned to about `frames_per_s` where given. Raises ValueError for a file that is no AMASS clip.

    `root_world_m` is AMASS' `trans`: the pelvis up to the shape's own constant offset.
    """
    poses, trans, rate = _read(Path(path))
    step = max(1, round(rate / frames_per_s)) if frames_per_s else 1
    poses, trans = poses[::step], trans[::step]
    root = quat_to_rotvec(quat_multiply(_Y_UP_FROM_Z_UP, rotvec_to_quat(poses[:, :3])))
    body = np.zeros((len(poses), 23, 3), np.float32)
    body[:, :21] = poses[:, 3:BODY_VALUES].reshape(-1, 21, 3)
    return Poses(
        body_pose_rotvec=body,
        global_orient_rotvec=root.astype(np.float32),
        activity=np.full(len(poses), "mocap"),
        root_world_m=np.stack([trans[:, 0], trans[:, 2], -trans[:, 1]], 1).astype(np.float32),
    )


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, float]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            names = set(file.files)
            rate_name = next((n for n in ("mocap_framerate", "mocap_frame_rate") if n in names), "mocap_framerate")
            if lacking := sorted({"poses", "trans", rate_name} - names):
                raise ValueError(f"no {', '.join(lacking)} in it (it has {', '.join(sorted(names))})")
            poses, trans = np.asarray(file["poses"], np.float64), np.asarray(file["trans"], np.float64)
            rate = float(file[rate_name])
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is not a readable AMASS clip: {error}\n"
            "  fix: pass the folder of *_poses.npz or *_stageii.npz files as AMASS ships them"
        ) from error
    if poses.ndim != 2 or poses.shape[1] < BODY_VALUES or trans.shape != (len(poses), 3):
        raise ValueError(
            f"{path} is not an AMASS clip: poses {poses.shape}, trans {trans.shape}; expected (F, 156 or 165), (F, 3)"
        )
    if not (np.isfinite(poses).all() and np.isfinite(trans).all() and rate > 0):
        raise ValueError(f"{path}: poses, trans or the frame rate are not finite numbers")
    return poses, trans, rate
