"""Joints have names; a joint set is an ordered tuple of them. Left is the person's left.

Nothing in this project addresses a joint by a bare index: sets are converted into one another by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class JointSet:
    """An ordered set of joint names, such as a dataset's keypoints or a body model's joints."""

    name: str
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        assert len(set(self.names)) == len(self.names), self.name

    def __len__(self) -> int:
        return len(self.names)

    def index(self, joint: str) -> int:
        """Position of `joint` in this set. Raises ValueError, naming the set, where it is absent."""
        if joint not in self._position:
            raise ValueError(f"joint set {self.name} has no joint {joint!r}; it has {', '.join(self.names)}")
        return self._position[joint]

    def indices(self, joints: Sequence[str]) -> list[int]:
        return [self.index(joint) for joint in joints]

    @cached_property
    def _position(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def mirror(self) -> tuple[int, ...]:
        """For each joint the index of its left-right partner (itself on the midline)."""
        return tuple(self.index(mirror_name(name)) for name in self.names)

    def take_from(self, values: np.ndarray, source: JointSet, *, missing: float = 0.0) -> np.ndarray:
        """Rearrange (…, source joints, C) into (…, own joints, C) by name; absent joints are `missing`."""
        out = np.full((*values.shape[:-2], len(self), values.shape[-1]), missing, dtype=values.dtype)
        shared = [name for name in self.names if name in source._position]
        out[..., self.indices(shared), :] = values[..., source.indices(shared), :]
        return out


def mirror_name(name: str) -> str:
    """left_knee <-> right_knee; names without a side are their own mirror."""
    for side, other in (("left_", "right_"), ("right_", "left_")):
        if name.startswith(side):
            return other + name.removeprefix(side)
    return name


SMPL24 = JointSet(
    "smpl24",
    (
        "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
        "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
        "left_hand", "right_hand",
    ),
)  # fmt: skip
SMPL_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
"""Parent of each SMPL24 joint (Loper et al., 2015); -1 marks the root."""

VPOSER21 = JointSet("vposer21", SMPL24.names[1:22])
"""The body joints that VPoser knows: all but the root and the two hands (Pavlakos et al., 2019)."""

COCO17 = JointSet(
    "coco17",
    (
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
        "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
        "right_knee", "left_ankle", "right_ankle",
    ),
)  # fmt: skip

POSE2POSE25 = JointSet(
    "pose2pose25",
    (
        "pelvis", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "neck",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
        "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel",
        "left_ear", "right_ear", "left_eye", "right_eye", "nose",
    ),
)  # fmt: skip
"""What Pose2Pose's position net predicts (Moon et al., 2022)."""

BODY33 = JointSet(
    "body33",
    (
        *POSE2POSE25.names,
        "left_index1", "left_middle1", "left_ring1", "left_pinky1",
        "right_index1", "right_middle1", "right_ring1", "right_pinky1",
    ),
)  # fmt: skip
"""What Pose2Pose is supervised on: its 25 joints and four knuckles (MCP) a hand."""

LSP14 = JointSet(
    "lsp14",
    (
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist",
        "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head",
    ),
)  # fmt: skip
"""The 14 joints on which PA-MPJPE is usually scored, here taken from the body model by name."""

OPENPOSE25 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe",
    "right_heel",
)  # fmt: skip
"""OpenPose's BODY_25."""

FINGERS = ("thumb", "index", "middle", "ring", "pinky")


def hand_joints(side: str, *, root: str = "wrist") -> tuple[str, ...]:
    """21 names of a hand: its root, then each finger from its base (1) to its tip (4)."""
    return (f"{side}_{root}", *(f"{side}_{finger}{i}" for finger in FINGERS for i in range(1, 5)))


_EYE = ("outer_corner", "upper_outer", "upper_inner", "inner_corner", "lower_inner", "lower_outer")
_MIRRORED_EYE = [_EYE[i] for i in (3, 2, 1, 0, 5, 4)]
FACE68 = JointSet(
    "face68",
    (
        *(f"right_jaw{i}" for i in range(1, 9)), "chin", *(f"left_jaw{i}" for i in range(8, 0, -1)),
        *(f"right_eyebrow{i}" for i in range(1, 6)), *(f"left_eyebrow{i}" for i in range(5, 0, -1)),
        "nose_bridge1", "nose_bridge2", "nose_bridge3", "nose_tip",
        "right_nostril1", "right_nostril2", "nose_bottom", "left_nostril2", "left_nostril1",
        *(f"right_eye_{part}" for part in _EYE), *(f"left_eye_{part}" for part in _MIRRORED_EYE),
        "right_mouth_corner", "right_upper_lip1", "right_upper_lip2", "upper_lip", "left_upper_lip2",
        "left_upper_lip1", "left_mouth_corner", "left_lower_lip1", "left_lower_lip2", "lower_lip",
        "right_lower_lip2", "right_lower_lip1",
        "right_inner_mouth_corner", "right_inner_upper_lip", "inner_upper_lip", "left_inner_upper_lip",
        "left_inner_mouth_corner", "left_inner_lower_lip", "inner_lower_lip", "right_inner_lower_lip",
    ),
)  # fmt: skip
"""iBUG's 68 landmarks of a face. Their order runs from the person's right to the left."""

RIGHT_HAND21 = JointSet("right_hand21", hand_joints("right"))

MANO_FINGERS = ("index", "middle", "pinky", "ring", "thumb")
MANO16 = JointSet("mano16", ("right_wrist", *(f"right_{finger}{i}" for finger in MANO_FINGERS for i in (1, 2, 3))))
"""MANO's own joints, in its order (Romero et al., 2017); a left hand's are named alike here."""
MANO_TIPS = {
    "right_thumb4": 745, "right_index4": 317, "right_middle4": 445, "right_ring4": 556, "right_pinky4": 673,
}  # fmt: skip
"""Vertices of MANO's 778 that stand for fingertips, as I2L-MeshNet and Pose2Pose use them."""

JOINT_SETS = {s.name: s for s in (SMPL24, VPOSER21, COCO17, POSE2POSE25, BODY33, LSP14)}


def to_body33(keypoints: np.ndarray, source: JointSet) -> np.ndarray:
    """(…, joints, C+1) of any joint set as BODY33 by name; the last channel is confidence or validity.

    Where the source has no pelvis it is the middle of the hips, valid when both are (Pose2Pose's COCO reader).
    """
    out = BODY33.take_from(keypoints, source)
    names = set(source.names)
    if "pelvis" not in names and {"left_hip", "right_hip"} <= names:
        left, right = keypoints[..., source.index("left_hip"), :], keypoints[..., source.index("right_hip"), :]
        pelvis = (left + right) / 2
        pelvis[..., -1] = left[..., -1] * right[..., -1]
        out[..., BODY33.index("pelvis"), :] = pelvis
    return out
