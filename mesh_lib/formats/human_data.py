"""MMHuman3D's HumanData .npz: one row a person.

`smpl` is a dict of arrays (global_orient, body_pose, betas, transl), `bbox_xywh` has a fifth number, the confidence,
and keypoints lie in 190 slots of which only those that the mask names are stored. We write the mesh's joints, projected
and in 3D, as `keypoints2d_smpl` and `keypoints3d_smpl`, and the given ones as `keypoints2d_original`. A dict in an .npz
is a pickled object, as the format wants it: load such files only from people you trust.
"""

from __future__ import annotations

import numpy as np

from mesh_lib.body.joints import BODY33
from mesh_lib.formats.batch import Labels

SLOTS = 190
_FINGERS = {"index": 25, "middle": 28, "ring": 34, "pinky": 31}
SLOT = {
    "pelvis": 0, "left_hip": 1, "right_hip": 2, "left_knee": 4, "right_knee": 5, "left_ankle": 7, "right_ankle": 8,
    "neck": 12, "left_shoulder": 16, "right_shoulder": 17, "left_elbow": 18, "right_elbow": 19, "left_wrist": 20,
    "right_wrist": 21, "nose": 55, "right_eye": 56, "left_eye": 57, "right_ear": 58, "left_ear": 59,
    "left_big_toe": 60, "left_small_toe": 61, "left_heel": 62, "right_big_toe": 63, "right_small_toe": 64,
    "right_heel": 65,
    **{f"left_{finger}1": slot for finger, slot in _FINGERS.items()},
    **{f"right_{finger}1": slot + 15 for finger, slot in _FINGERS.items()},
}  # fmt: skip
"""Slot of each of our joints among HumanData's 190."""
_ORDER = sorted(range(len(BODY33)), key=lambda i: SLOT[BODY33.names[i]])


def mask() -> np.ndarray:
    """(190,) 1 where a slot is stored."""
    stored = np.zeros(SLOTS, np.uint8)
    stored[[SLOT[name] for name in BODY33.names]] = 1
    return stored


def columns(labels: Labels) -> dict[str, np.ndarray]:
    """The arrays of a batch; keypoints in the order of the stored slots."""
    sure = np.ones((*labels.joints_2d_px.shape[:2], 1))
    return {
        "image_path": np.array(labels.file_name, object),
        "bbox_xywh": np.concatenate([labels.bbox_xywh_px, np.ones((len(labels), 1))], axis=1),
        "keypoints2d_smpl": np.concatenate([labels.joints_2d_px, sure], axis=2)[:, _ORDER],
        "keypoints3d_smpl": np.concatenate([labels.joints_3d_m, sure], axis=2)[:, _ORDER],
        "keypoints2d_original": labels.keypoints_2d_px[:, _ORDER],
        "sample_id": np.array(labels.sample_id, object),
        "smpl.global_orient": labels.rotvec[:, 0],
        "smpl.body_pose": labels.rotvec[:, 1:],
        "smpl.betas": labels.betas,
        "smpl.transl": labels.transl_m,
        "cam_param.focal": labels.focal_px,
        "cam_param.princpt": labels.princpt_px,
    }
