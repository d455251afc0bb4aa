"""A stick figure of average proportions and the small rotations it needs, in numpy.

Pose generation and retargeting need rough joint positions for tens of thousands of poses a second and no
particular body. World frame: y up, the T-pose faces +z, the person's left is +x. Metres and radians.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from mesh_lib.body.joints import SMPL24, SMPL_PARENTS, mirror_name

_LEFT_OFFSETS_M = {
    "pelvis": (0.0, 0.0, 0.0),
    "left_hip": (0.07, -0.09, 0.0),
    "left_knee": (0.0, -0.40, 0.0),
    "left_ankle": (0.0, -0.41, 0.0),
    "left_foot": (0.0, -0.05, 0.13),
    "spine1": (0.0, 0.11, -0.01),
    "spine2": (0.0, 0.13, 0.0),
    "spine3": (0.0, 0.06, 0.0),
    "neck": (0.0, 0.21, -0.02),
    "head": (0.0, 0.09, 0.03),
    "left_collar": (0.07, 0.12, -0.02),
    "left_shoulder": (0.11, 0.03, 0.0),
    "left_elbow": (0.26, 0.0, 0.0),
    "left_wrist": (0.25, 0.0, 0.0),
    "left_hand": (0.09, 0.0, 0.0),
}


def _offset_m(joint: str) -> tuple[float, float, float]:
    if joint in _LEFT_OFFSETS_M:
        return _LEFT_OFFSETS_M[joint]
    x, y, z = _LEFT_OFFSETS_M[mirror_name(joint)]
    return -x, y, z


REST_OFFSETS_M = np.array([_offset_m(joint) for joint in SMPL24.names], np.float32)
"""Each SMPL24 joint's rest position relative to its parent; limbs lie exactly along the axes."""


def euler_to_quat(
    angles_rad: Float[np.ndarray, "*batch steps"], axes: Int[np.ndarray, "*axes steps"]
) -> Float[np.ndarray, "*batch 4"]:
    """Product of rotations about coordinate axes (0 x, 1 y, 2 z), first one outermost, as (w, x, y, z)."""
    half = angles_rad / 2
    cos, sin = np.cos(half), np.sin(half)
    out = _axis_quat(cos[..., 0], sin[..., 0], axes[..., 0])
    for step in range(1, angles_rad.shape[-1]):
        out = quat_multiply(out, _axis_quat(cos[..., step], sin[..., step], axes[..., step]))
    return out


def _axis_quat(cos: np.ndarray, sin: np.ndarray, axis: np.ndarray) -> np.ndarray:
    one_hot = np.eye(3, dtype=sin.dtype)[axis]
    return np.concatenate([cos[..., None], sin[..., None] * one_hot], -1)


def quat_multiply(a: Float[np.ndarray, "*#batch 4"], b: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 4"]:
    aw, ax, ay, az = np.moveaxis(a, -1, 0)
    bw, bx, by, bz = np.moveaxis(b, -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by + ay * bw + az * bx - ax * bz,
            aw * bz + az * bw + ax * by - ay * bx,
        ],
        -1,
    )


def quat_to_rotvec(quat: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 3"]:
    """Rotation vector with angle in [0, π]."""
    quat = np.where(quat[..., :1] < 0, -quat, quat)
    sin = np.linalg.norm(quat[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sin, quat[..., :1])
    return quat[..., 1:] * np.where(sin > 1e-8, angle / np.maximum(sin, 1e-8), 2.0)


def quat_to_rotmat(quat: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 3 3"]:
    w, x, y, z = np.moveaxis(quat, -1, 0)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return np.stack(rows, -1).reshape(*quat.shape[:-1], 3, 3)


def rotvec_to_quat(rotvec: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 4"]:
    angle = np.linalg.norm(rotvec, axis=-1, keepdims=True)
    scale = 0.5 * np.sinc(angle / (2 * np.pi))  # sin(angle / 2) / angle, smooth at zero
    return np.concatenate([np.cos(angle / 2), rotvec * scale], -1)


def rotvec_to_rotmat(rotvec: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    return quat_to_rotmat(rotvec_to_quat(rotvec))


def rotmat_to_quat(rotmat: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 4"]:
    """(w, x, y, z) by the best-conditioned of the four classical formulas (Shepperd, 1978)."""
    r = rotmat
    trace = np.trace(r, axis1=-2, axis2=-1)
    sums = np.stack([trace, r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]], -1)
    zy, xz, yx = (r[..., i, j] - r[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0)))
    sxy, sxz, syz = (r[..., i, j] + r[..., j, i] for i, j in ((0, 1), (0, 2), (1, 2)))
    diagonal = 1 + 2 * sums - trace[..., None]
    candidates = np.stack(
        [
            np.stack([1 + trace, zy, xz, yx], -1),
            np.stack([zy, diagonal[..., 1], sxy, sxz], -1),
            np.stack([xz, sxy, diagonal[..., 2], syz], -1),
            np.stack([yx, sxz, syz, diagonal[..., 3]], -1),
        ],
        -2,
    )
    best = np.take_along_axis(candidates, sums.argmax(-1)[..., None, None], -2)[..., 0, :]
    return best / np.linalg.norm(best, axis=-1, keepdims=True)


def joint_positions(
    rotmats: Float[np.ndarray, "n 24 3 3"], joints: Sequence[str] = SMPL24.names
) -> Float[np.ndarray, "n joints 3"]:
    """Positions of the named joints of the stick figure, pelvis at the origin. Parents are added as needed."""
    rotation: dict[int, np.ndarray] = {}
    position: dict[int, np.ndarray] = {}

    def visit(joint: int) -> None:
        if joint in position:
            return
        parent = SMPL_PARENTS[joint]
        if parent < 0:
            rotation[joint] = rotmats[:, joint]
            position[joint] = np.zeros((len(rotmats), 3), rotmats.dtype)
            return
        visit(parent)
        rotation[joint] = rotation[parent] @ rotmats[:, joint]
        position[joint] = position[parent] + rotation[parent] @ REST_OFFSETS_M[joint]

    wanted = SMPL24.indices(joints)
    for joint in wanted:
        visit(joint)
    return np.stack([position[joint] for joint in wanted], 1)
