"""What tables of samples know of right hands, as arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mesh_lib import tables
from mesh_lib.body.joints import MANO16, RIGHT_HAND21, JointSet

RIGHT = 1
"""In MANO's columns the left hand comes first."""


def hand_columns(table: pa.Table, joint_set: JointSet, *, weak: bool) -> dict[str, np.ndarray]:
    """The unaugmented truth of a table of samples as HandTruth has it, as cutter.truth_columns gives that of bodies.

    What is not finite is not known. A sample that knows nothing of its right hand in 3D is weak.
    """
    rows = len(table)

    def keypoints(name: str, channels: int) -> np.ndarray:
        values = tables.numpy_column(table, name, missing=0.0).reshape(rows, len(joint_set), channels)
        values = RIGHT_HAND21.take_from(values.astype(np.float32), joint_set)
        return np.where(np.isfinite(values).all(axis=2, keepdims=True), values, np.float32(0))

    def mano(name: str, numbers: int) -> tuple[np.ndarray, np.ndarray]:
        values = tables.numpy_column(table, f"mano_{name}").reshape(rows, 2, numbers)[:, RIGHT].astype(np.float32)
        return np.nan_to_num(values), np.asarray(np.isfinite(values).all(axis=1))

    pose, posed = mano("pose", len(MANO16) * 3)
    betas, shaped = mano("betas", 10)
    transl_m, placed = mano("transl_m", 3)
    valid = tables.numpy_column(table, "mano_valid", missing=0.0).reshape(rows, 2)[:, RIGHT].astype(bool)
    valid = valid & posed & shaped
    points_m = keypoints("keypoints_3d_m", 4)
    shown = np.full(rows, not weak)
    return {
        "sample_key": table.column("sample_key").to_numpy(),
        "keypoints_2d_px": keypoints("keypoints_2d_px", 3),
        "keypoints_3d_m": points_m * shown[:, None, None],
        "mano_rotvec": pose.reshape(rows, len(MANO16), 3) * (valid & shown)[:, None, None],
        "mano_betas": betas * (valid & shown)[:, None],
        "mano_transl_m": transl_m * (valid & shown)[:, None],
        "mano_transl_valid": placed & valid & shown,
        "mano_valid": valid & shown,
        **tables.camera_columns(table),
        "weak": weak | ~(valid | (points_m[..., 3] > 0).any(axis=1)),
    }
