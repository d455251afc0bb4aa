"""OpenPose's JSON: what it found of a person in a picture, as 137 joints by our names.

Pixels of the whole picture, y down. Traps. OpenPose's neck is the middle of the shoulders and its MidHip the middle of
the hips; they take the names `neck` and `pelvis` that come closest, as the field does (SMPLify-X). A hand's root is
apart from the body's wrist: `{side}_hand_root`. Joints that it did not find are (0, 0) with confidence 0. BODY_25B has
25 joints too, in another order: nothing tells it apart. --keypoint_scale may give coordinates from 0 or -1 to 1: they
are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mesh_lib.body.joints import FACE68, OPENPOSE25, JointSet, hand_joints

COCO18 = JointSet("openpose_coco18", tuple(name for name in OPENPOSE25[:19] if name != "pelvis"))
OPENPOSE137 = JointSet(
    "openpose137",
    (
        *OPENPOSE25,
        *hand_joints("left", root="hand_root"),
        *hand_joints("right", root="hand_root"),
        *FACE68.names,
        "right_pupil",
        "left_pupil",
    ),
)
"""BODY_25, hands and face; COCO-18's joints are among them."""
PARTS = (("hand_left_keypoints_2d", 21), ("hand_right_keypoints_2d", 21), ("face_keypoints_2d", 70))
"""What follows the body in the set: field, joints."""


def detection(found: Any, *, where: str) -> np.ndarray:
    """(137, 3) of one person that OpenPose found. Raises ValueError for what it does not write."""
    if not isinstance(found, dict):
        raise ValueError(f"{where} is no object: it is not OpenPose's")
    body = _triples(found.get("pose_keypoints_2d"), where=f"{where}: pose_keypoints_2d")
    if len(body) not in (25, 18, 0):
        raise ValueError(f"{where}: pose_keypoints_2d has {len(body)} joints; BODY_25 has 25, COCO-18 has 18")
    if len(body) == len(COCO18):
        body = JointSet("body25", OPENPOSE25).take_from(body, COCO18)
    parts = [body if len(body) else np.zeros((25, 3))]
    for name, count in PARTS:
        part = _triples(found.get(name) or [], where=f"{where}: {name}")
        if len(part) not in (count, 0):
            raise ValueError(f"{where}: {name} has {len(part)} joints; OpenPose has {count}")
        parts.append(part if len(part) else np.zeros((count, 3)))
    keypoints = np.concatenate(parts)
    # What is no number stays, for annotate to quarantine: it counts as labelled.
    keypoints[:, 2] = np.where(np.isnan(keypoints[:, 2]), 1.0, np.clip(keypoints[:, 2], 0.0, 1.0))
    seen = keypoints[keypoints[:, 2] > 0, :2]
    if len(seen) > 3 and np.abs(seen).max() <= 1:
        raise ValueError(f"{where}: coordinates lie between -1 and 1\n  fix: run OpenPose with --keypoint_scale 0")
    return keypoints


def _triples(values: Any, *, where: str) -> np.ndarray:
    try:
        return np.asarray(values, np.float64).reshape(-1, 3)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where} is no list of x, y, confidence") from None
