"""People in everyday postures: a vectorised, joint-limited pose generator that needs no motion capture.

Angles are set in anatomical terms (degrees; the same sign means the same movement on both sides), kept inside
one table of joint limits, and only then turned into SMPL rotation vectors. World frame: y up; a person with
zero rotation stands in T-pose and faces +z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mesh_lib.body.joints import SMPL24, mirror_name
from mesh_lib.world import postures
from mesh_lib.world.skeleton import euler_to_quat, joint_positions, quat_to_rotmat, quat_to_rotvec

ACTIVITIES = tuple(postures.POSTURES)
"""stand, walk, sit, crouch, reach, jump, lie, twist; motion capture comes as `mocap`."""


@dataclass(frozen=True)
class JointLimits:
    """How far a joint turns, in degrees, as a product of turns about its axes (first one outermost)."""

    axes: str
    ranges_deg: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


_SPINE = JointLimits("xzy", ((-14, 30), (-14, 14), (-18, 18)))
_LIMITS = {
    # x: positive bends forwards; z: positive to the right; y: positive turns left
    "spine1": _SPINE,
    "spine2": _SPINE,
    "spine3": _SPINE,
    "neck": JointLimits("yxz", ((-40, 40), (-25, 30), (-18, 18))),
    "head": JointLimits("yxz", ((-40, 40), (-25, 30), (-18, 18))),
    # the left side; the right one mirrors it. Hip x: negative lifts the thigh forwards; z: outwards; y: toes out
    "left_hip": JointLimits("xzy", ((-130, 30), (-25, 55), (-40, 60))),
    "left_knee": JointLimits("xzy", ((0, 150), (-4, 4), (-12, 12))),
    "left_ankle": JointLimits("xzy", ((-35, 50), (-20, 20), (-15, 15))),
    "left_foot": JointLimits("xzy", ((-40, 10), (-3, 3), (-3, 3))),
    "left_collar": JointLimits("zyx", ((-10, 32), (-20, 20), (-10, 10))),
    # first x: negative swings the arm forwards and up; z: -90 is the sagittal plane, 0 straight out; last x: twist
    "left_shoulder": JointLimits("xzx", ((-180, 55), (-125, -4), (-85, 85))),
    "left_elbow": JointLimits("yzx", ((-150, 0), (-6, 6), (-85, 85))),
    "left_wrist": JointLimits("zyx", ((-65, 55), (-25, 25), (-10, 10))),
    "left_hand": JointLimits("xyz", ((0, 0), (0, 0), (0, 0))),
}


def _mirrored(limits: JointLimits) -> JointLimits:
    turned = [r if axis == "x" else (-r[1], -r[0]) for axis, r in zip(limits.axes, limits.ranges_deg, strict=True)]
    return JointLimits(limits.axes, (turned[0], turned[1], turned[2]))


JOINT_LIMITS = {
    joint: _LIMITS[joint] if joint in _LIMITS else _mirrored(_LIMITS[mirror_name(joint)]) for joint in SMPL24.names[1:]
}
"""The one table of joint limits, by joint name. Every generated sample keeps to it."""

_AXES = np.array([["xyz".index(axis) for axis in limits.axes] for limits in JOINT_LIMITS.values()])
_LOW_DEG, _HIGH_DEG = np.array([limits.ranges_deg for limits in JOINT_LIMITS.values()], np.float32).transpose(2, 0, 1)
_RIGHT = np.array([joint.startswith("right_") for joint in SMPL24.names[1:]])
_FLIPPED = np.where(_RIGHT[:, None] & (_AXES != 0), -1, 1).astype(np.float32)
"""Anatomical to signed angles: turns about y and z change sign on the right side."""


@dataclass(frozen=True)
class Poses:
    """N people under the SMPL skeleton, world frame (y up)."""

    body_pose_rotvec: Float[np.ndarray, "n 23 3"]
    """Joints 1 to 23 of SMPL24, each relative to its parent."""
    global_orient_rotvec: Float[np.ndarray, "n 3"]
    """The pelvis relative to the world: heading and the posture's own tilt (someone who lies is turned over)."""
    activity: np.ndarray
    """(n,) names from ACTIVITIES, or `mocap`."""
    root_world_m: Float[np.ndarray, "n 3"] | None = None
    """Where the pelvis was recorded; generated people have no place yet."""

    def __len__(self) -> int:
        return len(self.body_pose_rotvec)


def sample_poses(count: int, *, seed: int | tuple[int, ...]) -> Poses:
    """`count` independent people; the same count and seed give the same people."""
    rng = np.random.default_rng(seed)
    choice = rng.choice(len(ACTIVITIES), count, p=postures.WEIGHTS)
    angles_deg = np.zeros((count, 24, 3), np.float32)
    tilt_deg = np.zeros((count, 4), np.float32)
    for index, posture in enumerate(postures.POSTURES.values()):
        chosen = np.flatnonzero(choice == index)
        if len(chosen):
            angles_deg[chosen], tilt_deg[chosen] = posture(rng, len(chosen))
    signed_deg = _to_limits(angles_deg[:, 1:])
    signed_deg = _keep_hands_out_of_the_trunk(signed_deg, rng)
    signed_deg, tilt_deg = _mirror_half(signed_deg, tilt_deg, rng)
    quat = euler_to_quat(np.deg2rad(signed_deg), _AXES)
    tilt_deg[:, 0] += rng.uniform(-180, 180, count)
    root = euler_to_quat(np.deg2rad(tilt_deg), np.array([1, 0, 1, 2]))
    return Poses(
        body_pose_rotvec=quat_to_rotvec(quat).astype(np.float32),
        global_orient_rotvec=quat_to_rotvec(root).astype(np.float32),
        activity=np.array(ACTIVITIES)[choice],
    )


def _to_limits(anatomical_deg: Float[np.ndarray, "n 23 3"]) -> Float[np.ndarray, "n 23 3"]:
    return np.clip(anatomical_deg * _FLIPPED, _LOW_DEG, _HIGH_DEG)


_SIDES = ("left", "right")
_ARM = {side: SMPL24.indices([f"{side}_{part}" for part in ("collar", "shoulder", "elbow")]) for side in _SIDES}


def _keep_hands_out_of_the_trunk(signed_deg: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw again the arms that pass through the chest or the belly; let them hang at the third failure."""
    for attempt in range(3):
        for side in _SIDES:
            bad = np.flatnonzero(_arm_in_trunk(signed_deg, side))
            if not len(bad):
                continue
            fresh = np.zeros((len(bad), 24, 3), np.float32)
            postures.set_arms(fresh, rng, "hang" if attempt == 2 else None)
            rows = np.array(_ARM[side]) - 1
            signed_deg[bad[:, None], rows] = _to_limits(fresh[:, 1:])[:, rows]
    return signed_deg


def _arm_in_trunk(signed_deg: np.ndarray, side: str) -> np.ndarray:
    arm = _ARM[side]
    rotmats = np.broadcast_to(np.eye(3, dtype=np.float32), (len(signed_deg), 24, 3, 3)).copy()
    rows = np.array(arm) - 1
    rotmats[:, arm] = quat_to_rotmat(euler_to_quat(np.deg2rad(signed_deg[:, rows]), _AXES[rows]))
    elbow, wrist, hand = joint_positions(rotmats, [f"{side}_elbow", f"{side}_wrist", f"{side}_hand"]).swapaxes(0, 1)
    inside = np.zeros(len(signed_deg), bool)
    for point in (elbow, (elbow + wrist) / 2, wrist, hand):
        x, y, z = point.T
        in_torso = (np.square(x / 0.19) + np.square((z - 0.01) / 0.145) < 1) & (y > -0.2) & (y < 0.5)
        in_head = np.square(x / 0.10) + np.square((y - 0.72) / 0.15) + np.square((z - 0.03) / 0.12) < 1
        inside |= in_torso | in_head
    return inside


_SWAP = np.array([SMPL24.mirror[joint] - 1 for joint in range(1, 24)])
_MIRROR = np.where(_AXES == 0, 1, -1).astype(np.float32)


def _mirror_half(
    signed_deg: np.ndarray, tilt_deg: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mirror a random half of the people, so that left and right have the same statistics."""
    flip = rng.random(len(signed_deg)) < 0.5
    mirrored = signed_deg[:, _SWAP] * _MIRROR
    sign = np.where(flip[:, None], np.array([-1, 1, -1, -1], np.float32), np.float32(1))
    return np.where(flip[:, None, None], mirrored, signed_deg), tilt_deg * sign
