"""BVH motion capture, retargeted to the SMPL skeleton.

Reads any BVH hierarchy; retargets the dialects in which the CMU recordings (mocap.cs.cmu.edu, free for all uses)
are passed around: MotionBuilder, Daz and 3dsMax. They name joints differently ("LeftHip" in one is "LeftUpLeg" in
another), rest differently (arms out or down, legs astride), and two of them open with an inserted T-pose row.
World frame: y up, as in the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mesh_lib.body.joints import SMPL24, SMPL_PARENTS
from mesh_lib.world.poses import Poses
from mesh_lib.world.skeleton import (
    euler_to_quat,
    quat_to_rotmat,
    quat_to_rotvec,
    rotmat_to_quat,
    rotvec_to_rotmat,
)

METRES_PER_UNIT = {"CMU units": 0.0254 / 0.45, "centimetres": 0.01, "metres": 1.0, "inches": 0.0254}
LEG_M = (0.55, 1.15)
"""Thigh and shin of an adult; tells in which unit a file is."""


@dataclass(frozen=True)
class BvhJoint:
    """One node of the hierarchy; end sites have no channels."""

    name: str
    parent: int
    offset: tuple[float, float, float]
    channels: tuple[str, ...]
    first_channel: int


@dataclass(frozen=True)
class BvhMotion:
    """A BVH file as it stands: file units, degrees, file joint names."""

    path: Path
    joints: tuple[BvhJoint, ...]
    frame_time_s: float
    values: Float[np.ndarray, "frames channels"]

    def index(self, name: str) -> int:
        return next(i for i, joint in enumerate(self.joints) if joint.name == name)


def parse_bvh(path: Path) -> BvhMotion:
    """Parse a BVH file. Raises ValueError that names the file and the line for anything broken."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read BVH file {path}: {error}") from error
    reader = _Lines(Path(path), lines)
    joints = _read_hierarchy(reader)
    frames, frame_time_s = _read_motion_header(reader)
    channels = sum(len(joint.channels) for joint in joints)
    rows = []
    for frame in range(frames):
        words = reader.next(f"frame {frame + 1} of {frames}")
        if len(words) != channels:
            raise reader.error(f"{len(words)} numbers in frame {frame + 1}; the hierarchy has {channels} channels")
        rows.append(reader.numbers(words))
    return BvhMotion(Path(path), tuple(joints), frame_time_s, np.array(rows).reshape(frames, channels))


class _Lines:
    """The non-empty lines of a file, and where we are in it."""

    def __init__(self, path: Path, lines: list[str]) -> None:
        self.path, self.number, self._lines = path, 0, lines

    def next(self, wanted: str) -> list[str]:
        while self.number < len(self._lines):
            words = self._lines[self.number].split()
            self.number += 1
            if words:
                return words
        raise self.error(f"the file ends where {wanted} should be")

    def error(self, what: str) -> ValueError:
        return ValueError(f"broken BVH file {self.path}, line {self.number}: {what}")

    def numbers(self, words: list[str]) -> list[float]:
        try:
            values = [float(word) for word in words]
        except ValueError as error:
            raise self.error(str(error)) from error
        if not np.isfinite(values).all():
            raise self.error("a number is NaN or infinite")
        return values


CHANNELS = {f"{axis}{kind}" for axis in "XYZ" for kind in ("position", "rotation")}


def _read_hierarchy(reader: _Lines) -> list[BvhJoint]:
    if reader.next("HIERARCHY")[0].upper() != "HIERARCHY":
        raise reader.error("a BVH file starts with HIERARCHY")
    joints: list[BvhJoint] = []
    open_joints: list[int] = []
    words = reader.next("ROOT")
    if words[0].upper() != "ROOT":
        raise reader.error(f"expected ROOT, found {words[0]!r}")
    channels = 0
    while True:
        if words[0].upper() in ("ROOT", "JOINT", "END"):
            joint = _read_joint(reader, words, open_joints[-1] if open_joints else -1, channels)
            channels += len(joint.channels)
            open_joints.append(len(joints))
            joints.append(joint)
        elif words[0] == "}":
            open_joints.pop()
            if not open_joints:
                return joints
        else:
            raise reader.error(f"expected JOINT, End Site or }}, found {words[0]!r}")
        words = reader.next("the rest of the hierarchy")


def _read_joint(reader: _Lines, words: list[str], parent: int, first_channel: int) -> BvhJoint:
    is_end = words[0].upper() == "END"
    if len(words) < 2:
        raise reader.error(f"{words[0]} without a name")
    name = f"{parent}:end" if is_end else words[1]
    if reader.next("{") != ["{"]:
        raise reader.error(f"expected {{ after {name}")
    words = reader.next(f"the OFFSET of {name}")
    if words[0].upper() != "OFFSET" or len(words) != 4:
        raise reader.error(f"expected OFFSET and three numbers for {name}")
    x, y, z = reader.numbers(words[1:])
    if is_end:
        return BvhJoint(name, parent, (x, y, z), (), first_channel)
    words = reader.next(f"the CHANNELS of {name}")
    channels = tuple(words[2:])
    if (
        words[0].upper() != "CHANNELS"
        or len(words) < 2
        or words[1] != str(len(channels))
        or not {*channels} <= CHANNELS
    ):
        raise reader.error(f"expected CHANNELS, their number and their names for {name}")
    return BvhJoint(name, parent, (x, y, z), channels, first_channel)


def _read_motion_header(reader: _Lines) -> tuple[int, float]:
    if reader.next("MOTION")[0].upper() != "MOTION":
        raise reader.error("expected MOTION after the hierarchy")
    words = reader.next("Frames: and their number")
    if words[0] != "Frames:" or len(words) != 2 or not words[1].isdigit():
        raise reader.error("expected 'Frames:' and a whole number")
    frames = int(words[1])
    words = reader.next("Frame Time: and seconds")
    if words[:2] != ["Frame", "Time:"] or len(words) != 3:
        raise reader.error("expected 'Frame Time:' and seconds")
    (seconds,) = reader.numbers(words[2:])
    if seconds <= 0 or not frames:
        raise reader.error("a clip needs at least one frame and a frame time above zero")
    return frames, seconds


def forward_kinematics(
    motion: BvhMotion,
) -> tuple[Float[np.ndarray, "frames joints 3 3"], Float[np.ndarray, "frames joints 3"]]:
    """World rotation of every joint's frame, and its position in file units."""
    frames, count = len(motion.values), len(motion.joints)
    rotations = np.empty((frames, count, 3, 3))
    positions = np.empty((frames, count, 3))
    for i, joint in enumerate(motion.joints):
        values = motion.values[:, joint.first_channel : joint.first_channel + len(joint.channels)]
        turns = [c for c, name in enumerate(joint.channels) if name.endswith("rotation")]
        moves = [c for c, name in enumerate(joint.channels) if name.endswith("position")]
        local = np.broadcast_to(np.eye(3), (frames, 3, 3))
        if turns:
            axes = np.array(["XYZ".index(joint.channels[c][0]) for c in turns])
            local = quat_to_rotmat(euler_to_quat(np.deg2rad(values[:, turns]), axes))
        offset = np.tile(np.array(joint.offset), (frames, 1))
        for c in moves:  # a joint that has position channels states its place, root or not
            offset[:, "XYZ".index(joint.channels[c][0])] = values[:, c]
        if joint.parent < 0:
            rotations[:, i], positions[:, i] = local, offset
        else:
            parent = rotations[:, joint.parent]
            rotations[:, i] = parent @ local
            positions[:, i] = positions[:, joint.parent] + (parent @ offset[..., None])[..., 0]
    return rotations, positions


_SIDED = ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist")


def _dialect(trunk: tuple[str, ...], limb: Callable[[str], tuple[str, ...]]) -> dict[str, str]:
    names = dict(zip(("pelvis", "spine1", "spine2", "spine3", "neck", "head"), trunk, strict=True))
    for side in ("left", "right"):
        names |= {f"{side}_{part}": name for part, name in zip(_SIDED, limb(side.capitalize()), strict=True)}
    return names


DIALECTS = {
    "MotionBuilder or Daz": _dialect(
        ("Hips", "LowerBack", "Spine", "Spine1", "Neck1", "Head"),
        lambda side: tuple(
            side + part for part in ("UpLeg", "Leg", "Foot", "ToeBase", "Shoulder", "Arm", "ForeArm", "Hand")
        ),
    ),
    "3dsMax": _dialect(
        ("Hips", "lowerback", "Chest", "Chest2", "Neck", "Head"),
        lambda side: tuple(
            side + part for part in ("Hip", "Knee", "Ankle", "Toe", "Collar", "Shoulder", "Elbow", "Wrist")
        ),
    ),
}
"""SMPL joint -> BVH joint that moves the same bone."""


def find_dialect(motion: BvhMotion) -> dict[str, str]:
    """The joint table that fits. Raises ValueError naming the joints that the nearest one lacks."""
    have = {joint.name for joint in motion.joints}
    lacking = {name: sorted(set(table.values()) - have) for name, table in DIALECTS.items()}
    nearest = min(lacking, key=lambda name: len(lacking[name]))
    if lacking[nearest]:
        raise ValueError(
            f"unknown skeleton in {motion.path}: nearest to {nearest}, but it has no {', '.join(lacking[nearest])}\n"
            "  why: joints are matched by the names of the CMU conversions\n"
            "  fix: rename the joints, or pass CMU clips in the MotionBuilder, Daz or 3dsMax dialect"
        )
    return DIALECTS[nearest]


def retarget(motion: BvhMotion, *, every: int = 1) -> Poses:
    """The clip (each `every`-th frame) on the SMPL skeleton; an inserted T-pose row is left out."""
    table = find_dialect(motion)
    start = 1 if opens_with_t_pose(motion) else 0
    motion = BvhMotion(motion.path, motion.joints, motion.frame_time_s, motion.values[start::every])
    rotations, positions = forward_kinematics(motion)
    world = np.empty((len(motion.values), 24, 3, 3))
    for joint, name in enumerate(SMPL24.names):
        if name.endswith("_hand"):  # the files have fingers, SMPL a rigid hand
            world[:, joint] = world[:, SMPL_PARENTS[joint]]
        else:
            turn = rest_turn(name, lambda tip: motion.joints[motion.index(table[tip])].offset)
            world[:, joint] = rotations[:, motion.index(table[name])] @ turn
    return poses_of(world, positions[:, motion.index(table["pelvis"])] * metres_per_unit(motion, table))


def poses_of(world: Float[np.ndarray, "frames 24 3 3"], pelvis_m: Float[np.ndarray, "frames 3"]) -> Poses:
    """A clip from the world rotation of every SMPL joint's bones."""
    local = world.copy()
    local[:, 1:] = world[:, SMPL_PARENTS[1:]].swapaxes(-1, -2) @ world[:, 1:]
    rotvec = quat_to_rotvec(rotmat_to_quat(local)).astype(np.float32)
    return Poses(rotvec[:, 1:], rotvec[:, 0], np.full(len(rotvec), "mocap"), pelvis_m.astype(np.float32))


def read_bvh(path: Path, *, every: int = 1) -> Poses:
    """Read and retarget one clip."""
    return retarget(parse_bvh(path), every=every)


def opens_with_t_pose(motion: BvhMotion) -> bool:
    """True where the first row is the inserted T-pose: nearly all of its rotations are exactly zero."""
    if len(motion.values) < 2:
        return False
    turns = [
        joint.first_channel + c
        for joint in motion.joints
        for c, name in enumerate(joint.channels)
        if name.endswith("rotation")
    ]
    first, second = np.count_nonzero(motion.values[:2, turns], axis=1)
    return bool(first <= second / 4)


def metres_per_unit(motion: BvhMotion, table: dict[str, str]) -> float:
    """Length unit of the file, known from the legs. Raises ValueError where no unit gives a person."""
    offsets = [motion.joints[motion.index(table[name])].offset for name in ("left_knee", "left_ankle")]
    leg = sum(float(np.linalg.norm(offset)) for offset in offsets)
    for scale in METRES_PER_UNIT.values():
        if LEG_M[0] <= leg * scale <= LEG_M[1]:
            return scale
    raise ValueError(
        f"{motion.path}: legs of {leg:g} units are no adult's in {', '.join(METRES_PER_UNIT)}\n"
        "  fix: scale the file's offsets and root positions to metres"
    )


# which BVH joint's offset runs along the bone that an SMPL joint moves, and that bone's way in the SMPL T-pose
_BONES = {
    "hip": ("knee", (0, -1, 0)), "knee": ("ankle", (0, -1, 0)),
    "ankle": ("ankle", (0, -1, 0)), "foot": ("ankle", (0, -1, 0)),
    "shoulder": ("elbow", (1, 0, 0)), "elbow": ("wrist", (1, 0, 0)), "wrist": ("wrist", (1, 0, 0)),
}  # fmt: skip


def rest_turn(joint: str, bone_to: Callable[[str], Sequence[float]]) -> Float[np.ndarray, "3 3"]:
    """Turn from SMPL's T-pose to a file's rest pose, for one bone: smallest that lines the bones up.

    `bone_to` gives the file's bone that ends in a joint, at rest. Feet turn with their shins (the files splay the
    whole leg); the trunk rests upright in both.
    """
    side, _, part = joint.partition("_")
    if part not in _BONES:
        return np.eye(3)
    tip, direction = _BONES[part]
    smpl = np.array(direction, float) * (-1 if side == "right" and direction[0] else 1)
    file = np.array(bone_to(f"{side}_{tip}"))
    file = file / np.linalg.norm(file)
    axis = np.cross(smpl, file)
    sin = np.linalg.norm(axis)
    angle = np.arctan2(sin, smpl @ file)
    return rotvec_to_rotmat(axis / max(float(sin), 1e-12) * angle)
