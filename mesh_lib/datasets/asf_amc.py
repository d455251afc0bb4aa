"""CMU motion capture as its owners ship it: a skeleton (.asf) and its motions (.amc), retargeted to the SMPL skeleton.

mocap.cs.cmu.edu: free for all uses, but the data itself may not be sold; credit mocap.cs.cmu.edu, NSF EIA-0196217.
A motion NN_TT.amc moves the skeleton NN.asf beside it. Angles are degrees, turned about each bone's own axes, which the
skeleton gives (C M C⁻¹); lengths are inches over 0.45; y is up; the rate is not stored: 120 frames a second, in nearly
all takes. The conversions to BVH drop the length of the thorax: this is the faithful source.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mesh_lib.body.joints import SMPL24, SMPL_PARENTS
from mesh_lib.datasets.bvh import poses_of, rest_turn
from mesh_lib.world.poses import Poses
from mesh_lib.world.skeleton import euler_to_quat, quat_to_rotmat

FRAMES_PER_S = 120.0
INCH_M = 0.0254
ROOT = "root"
_TRUNK = {
    "pelvis": ROOT, "spine1": "lowerback", "spine2": "upperback", "spine3": "thorax", "neck": "lowerneck",
    "head": "head",
}  # fmt: skip
_SIDED = {
    "hip": "femur", "knee": "tibia", "ankle": "foot", "foot": "toes", "collar": "clavicle", "shoulder": "humerus",
    "elbow": "radius", "wrist": "hand",
}  # fmt: skip
BONES = _TRUNK | {f"{side}_{joint}": side[0] + bone for side in ("left", "right") for joint, bone in _SIDED.items()}
"""SMPL joint -> the bone that it moves."""
_ENDS = {"knee": "femur", "ankle": "tibia", "elbow": "humerus", "wrist": "radius"}
"""SMPL joint -> the bone that ends there."""


@dataclass(frozen=True)
class Bone:
    """One bone; it starts where its parent ends."""

    name: str
    parent: str
    offset: np.ndarray
    """(3,) from its start to its end, at rest, in file units."""
    axes: np.ndarray
    """(3, 3) C: the axes that its angles turn about."""
    dof: tuple[str, ...]
    """Of rx, ry, rz, those that the motion gives, in their order."""


@dataclass(frozen=True)
class Skeleton:
    """An .asf file; bones come after their parents."""

    path: Path
    bones: tuple[Bone, ...]
    root_order: tuple[str, ...]
    metres_per_unit: float


def parse_asf(path: Path) -> Skeleton:
    """Parse a skeleton. Raises ValueError that names the file and the line for anything broken."""
    lines = _Lines(path)
    sections: dict[str, list[tuple[int, list[str]]]] = {}
    name = ""
    for number, words in lines:
        if words[0].startswith(":"):
            name = words[0].lower()
            sections[name] = [(number, words)]
        else:
            sections.setdefault(name, []).append((number, words))
    if lacking := sorted({":units", ":root", ":bonedata", ":hierarchy"} - sections.keys()):
        raise ValueError(f"{path} is no ASF skeleton: it has no {', '.join(lacking)}")
    units = {words[0]: words[-1] for _, words in sections[":units"][1:]}
    if units.get("angle", "deg") != "deg":
        raise ValueError(f"{path}: angles in {units['angle']}; only degrees are read")
    length = lines.numbers(sections[":units"][0][0], [units.get("length", "1")])[0]
    order = next((words[1:] for _, words in sections[":root"] if words[0] == "order"), [])
    if sorted(word.upper() for word in order) != ["RX", "RY", "RZ", "TX", "TY", "TZ"]:
        raise ValueError(f"{path}: the root's order is {' '.join(order) or 'not given'}; expected TX TY TZ RX RY RZ")
    parents = _parents(lines, sections[":hierarchy"])
    bones = _bones(lines, sections[":bonedata"], parents)
    ordered: list[Bone] = []
    placed = {ROOT}
    while len(ordered) < len(bones):
        ready = [bone for bone in bones if bone.name not in placed and bone.parent in placed]
        if not ready:
            raise ValueError(f"{path}: bones without a way to the root: {', '.join(b.name for b in bones)}")
        ordered += ready
        placed |= {bone.name for bone in ready}
    return Skeleton(Path(path), tuple(ordered), tuple(word.upper() for word in order), INCH_M / length)


class _Lines:
    """The lines of a file that say something, numbered."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self.lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        for number, line in enumerate(self.lines, 1):
            words = line.split()
            if words and not words[0].startswith("#"):
                yield number, words

    def error(self, number: int, what: str) -> ValueError:
        return ValueError(f"broken file {self.path}, line {number}: {what}")

    def numbers(self, number: int, words: list[str]) -> list[float]:
        try:
            values = [float(word) for word in words]
        except ValueError as error:
            raise self.error(number, str(error)) from error
        if not np.isfinite(values).all():
            raise self.error(number, "a number is NaN or infinite")
        return values


def _parents(lines: _Lines, section: list[tuple[int, list[str]]]) -> dict[str, str]:
    parents: dict[str, str] = {}
    for number, words in section[1:]:
        if words[0] in ("begin", "end"):
            continue
        for child in words[1:]:
            if child in parents or child == ROOT:
                raise lines.error(number, f"{child} has two parents")
            parents[child] = words[0]
    return parents


def _bones(lines: _Lines, section: list[tuple[int, list[str]]], parents: dict[str, str]) -> list[Bone]:
    bones: list[Bone] = []
    found: dict[str, list[str]] = {}
    for number, words in section[1:]:
        if words[0] == "begin":
            found = {}
        elif words[0] != "end":
            found.setdefault(words[0].lower(), words[1:])  # later limits stand on lines of their own: "(-70 70)"
        else:
            if lacking := {"name", "direction", "length", "axis"} - found.keys():
                raise lines.error(number, f"a bone has no {', '.join(sorted(lacking))}")
            name = found["name"][0]
            if name not in parents:
                raise lines.error(number, f"bone {name} is not in the hierarchy")
            direction = np.array(lines.numbers(number, found["direction"]))
            axis = np.array(lines.numbers(number, found["axis"][:3]))
            if direction.shape != (3,) or axis.shape != (3,) or [w.upper() for w in found["axis"][3:]] != ["XYZ"]:
                raise lines.error(number, f"bone {name}: direction and axis are three numbers each, axis ends in XYZ")
            length = lines.numbers(number, found["length"])[0]
            dof = tuple(word.lower() for word in found.get("dof", []))
            if not {*dof} <= {"rx", "ry", "rz"}:
                raise lines.error(number, f"bone {name}: degrees of freedom {' '.join(dof)}; only rotations are read")
            bones.append(Bone(name, parents[name], direction * length, _turn(axis[None], ("rx", "ry", "rz"))[0], dof))
    return bones


def _turn(degrees: np.ndarray, order: tuple[str, ...]) -> np.ndarray:
    """(frames, angles) → (frames, 3, 3): x first, then y, then z, about fixed axes (R = Rz Ry Rx)."""
    axes = np.array(["xyz".index(name[-1].lower()) for name in order])
    return quat_to_rotmat(euler_to_quat(np.deg2rad(degrees[:, ::-1]), axes[::-1]))


def parse_amc(path: Path, skeleton: Skeleton) -> dict[str, Float[np.ndarray, "frames values"]]:
    """The motion's values by bone. Raises ValueError that names the file and the line for anything broken."""
    lines = _Lines(path)
    width = {bone.name: len(bone.dof) for bone in skeleton.bones if bone.dof} | {ROOT: 6}
    values: dict[str, list[list[float]]] = {name: [] for name in width}
    frame = 0
    for number, words in lines:
        if words[0].startswith(":"):
            if words[0].upper() == ":RADIANS":
                raise lines.error(number, "angles in radians; only degrees are read")
            continue
        if len(words) == 1 and words[0].isdigit():
            frame += 1
            continue
        if words[0] not in width:
            raise lines.error(number, f"bone {words[0]} does not move in {skeleton.path}")
        if len(words) - 1 != width[words[0]]:
            raise lines.error(number, f"{len(words) - 1} values of {words[0]}; the skeleton has {width[words[0]]}")
        values[words[0]].append(lines.numbers(number, words[1:]))
        if len(values[words[0]]) != frame:
            raise lines.error(number, f"{words[0]} comes twice in a frame, or was missing in one before")
    if not frame or any(len(rows) != frame for rows in values.values()):
        short = [name for name, rows in values.items() if len(rows) != frame]
        raise ValueError(f"{path} is no whole AMC motion: frame {frame} lacks {', '.join(short) or 'everything'}")
    return {name: np.array(rows) for name, rows in values.items()}


def forward_kinematics(
    skeleton: Skeleton, values: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """World rotation (frames, 3, 3) of every bone, and where it ends (frames, 3), in file units."""
    root = values[ROOT]
    turns = [i for i, name in enumerate(skeleton.root_order) if name.startswith("R")]
    moves = [skeleton.root_order.index(f"T{axis}") for axis in "XYZ"]
    rotations = {ROOT: _turn(root[:, turns], tuple(skeleton.root_order[i] for i in turns))}
    ends = {ROOT: root[:, moves]}
    for bone in skeleton.bones:
        turn = rotations[bone.parent]
        if bone.dof:
            turn = turn @ (bone.axes @ _turn(values[bone.name], bone.dof) @ bone.axes.T)
        rotations[bone.name] = turn
        ends[bone.name] = ends[bone.parent] + turn @ bone.offset
    return rotations, ends


def read_asf_amc(path: Path, *, every: int = 1) -> Poses:
    """Each `every`-th frame of a motion on the SMPL skeleton. Raises ValueError where its skeleton is not there."""
    skeleton = parse_asf(find_skeleton(path))
    if lacking := sorted({*BONES.values()} - {ROOT} - {bone.name for bone in skeleton.bones}):
        raise ValueError(f"unknown skeleton in {skeleton.path}: it has no {', '.join(lacking)}")
    values = {name: rows[::every] for name, rows in parse_amc(path, skeleton).items()}
    rotations, ends = forward_kinematics(skeleton, values)
    offsets = {bone.name: bone.offset for bone in skeleton.bones}
    world = np.empty((len(values[ROOT]), 24, 3, 3))
    for joint, name in enumerate(SMPL24.names):
        if name.endswith("_hand"):
            world[:, joint] = world[:, SMPL_PARENTS[joint]]
        else:
            turn = rest_turn(name, lambda tip: offsets[tip[0] + _ENDS[tip.partition("_")[2]]].tolist())
            world[:, joint] = rotations[BONES[name]] @ turn
    return poses_of(world, ends[ROOT] * skeleton.metres_per_unit)


def find_skeleton(path: Path) -> Path:
    """The .asf of a motion: the subject's, NN.asf beside NN_TT.amc, else the folder's only one."""
    path = Path(path)
    own = path.with_name(f"{path.stem.partition('_')[0]}.asf")
    if own.is_file():
        return own
    others = sorted(path.parent.glob("*.asf"))
    if len(others) == 1:
        return others[0]
    raise ValueError(
        f"no skeleton for {path}: looked for {own}\n  fix: put the subject's .asf beside its .amc files, as CMU does"
    )
