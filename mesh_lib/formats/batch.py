"""Labels as the formats of others take them: arrays of a batch, whatever table they came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mesh_lib.body.joints import BODY33

Arrays = Callable[[str], np.ndarray | None]
"""The arrays of a file by name; None for one that it lacks."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels of a batch of people, and what their samples know of them. Camera frame, metres, whole-picture pixels."""

    sample_id: Sequence[str]
    image_id: Sequence[str]
    person_id: Sequence[str]
    """What formats with ids of annotations call the person."""
    file_name: Sequence[str]
    """Of the picture, below the dataset's folder."""
    picture: Sequence[str]
    """What tells the picture from all others: two of one file name have two of these."""
    rotvec: np.ndarray
    """(N, 24, 3) global_orient, then body_pose."""
    betas: np.ndarray
    """(N, 10)"""
    transl_m: np.ndarray
    """(N, 3)"""
    focal_px: np.ndarray
    """(N, 2)"""
    princpt_px: np.ndarray
    """(N, 2)"""
    joints_2d_px: np.ndarray
    """(N, 33, 2) of the label's mesh."""
    joints_3d_m: np.ndarray
    """(N, 33, 3) of the label's mesh, camera frame, translation included."""
    keypoints_2d_px: np.ndarray
    """(N, 33, 3) given with the sample: x, y, confidence."""
    bbox_xywh_px: np.ndarray
    """(N, 4) the person's box."""
    image_size: np.ndarray
    """(N, 2) width, height."""

    def __len__(self) -> int:
        return len(self.sample_id)


def plain(values: Any) -> Any:
    """Arrays as JSON lists of float32's shortest decimals."""
    return [float(f"{v:.9g}") for v in np.asarray(values, np.float64).ravel()]


def annotation_id(value: str) -> int | str:
    """COCO's ids are whole numbers; those of other datasets stay as they are."""
    return int(value) if value.isdecimal() and str(int(value)) == value else value


def project(points_m: np.ndarray, labels: Labels) -> np.ndarray:
    """(N, P, 3) camera-frame points → (N, P, 2) pixels through the labels' own cameras."""
    return points_m[..., :2] / points_m[..., 2:] * labels.focal_px[:, None] + labels.princpt_px[:, None]


def furthest_px(ours_px: np.ndarray, theirs_px: np.ndarray) -> np.ndarray:
    """(N,) largest distance of a joint between two projections."""
    return np.linalg.norm(ours_px - theirs_px, axis=-1).max(axis=-1)


SPIN24 = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
    "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", None, "pelvis", None, None, None, None,
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
)  # fmt: skip
"""SPIN's 24 joints of ground truth by our names; None (head top, thorax, spine, jaw, head) where we have none."""


def arrange(keypoints: np.ndarray, names: Sequence[str | None]) -> np.ndarray:
    """(N, 33, C) of BODY33 in the order of `names`; zero where there is none."""
    out = np.zeros((len(keypoints), len(names), keypoints.shape[2]))
    for i, name in enumerate(names):
        if name is not None:
            out[:, i] = keypoints[:, BODY33.index(name)]
    return out
