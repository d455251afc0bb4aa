"""WebDataset tars with the keys of 4D-Humans' training data (Goel et al., 2023): a picture and its person.

4D-Humans pickles its `data.pyd`; nothing here is pickled: `<key>.data.npz` holds the same arrays, `<key>.json` the
rest. Pixels are those of the picture in the tar. `scale` is the box's width and height over 200. The 44 keypoints are
OpenPose's 25 and SPIN's 19 others. Beside 4D-Humans' own keys stand `transl_m`, `focal_px` and `princpt_px`: the
label's camera.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from mesh_lib.body.joints import OPENPOSE25
from mesh_lib.formats import spin
from mesh_lib.formats.batch import SPIN24, Labels, arrange

KEYPOINTS44 = (*OPENPOSE25, *SPIN24[:19])


def members(labels: Labels, *, crop_to_image: np.ndarray) -> list[dict[str, bytes]]:
    """`data.npz` and `json` for each label; crop_to_image (N, 2, 3) takes the tar's pixels to the whole picture's."""
    scale, shift = crop_to_image[:, [0, 1], [0, 1]], crop_to_image[:, :, 2]
    center, side = spin.boxes(labels)
    keypoints = arrange(labels.keypoints_2d_px, KEYPOINTS44)
    keypoints[..., :2] = np.where(keypoints[..., 2:] > 0, (keypoints[..., :2] - shift[:, None]) / scale[:, None], 0.0)
    joints = arrange(
        np.concatenate([labels.joints_3d_m, np.ones((*labels.joints_3d_m.shape[:2], 1))], axis=2), KEYPOINTS44
    )
    out = []
    for i in range(len(labels)):
        arrays: dict[str, Any] = {
            "keypoints_2d": keypoints[i].astype(np.float32),
            "keypoints_3d": joints[i].astype(np.float32),
            "center": (center[i] - shift[i]) / scale[i],
            "scale": side[i] / scale[i] / spin.BOX_PX,
            "body_pose": labels.rotvec[i].reshape(72).astype(np.float32),
            "betas": labels.betas[i].astype(np.float32),
            "has_body_pose": np.float32(1),
            "has_betas": np.float32(1),
            "transl_m": labels.transl_m[i],
            "focal_px": labels.focal_px[i] / scale[i],
            "princpt_px": (labels.princpt_px[i] - shift[i]) / scale[i],
        }
        packed = io.BytesIO()
        np.savez(packed, **arrays)
        about = {"sample_id": labels.sample_id[i], "image": labels.file_name[i], "person": labels.person_id[i]}
        out.append({"data.npz": packed.getvalue(), "json": json.dumps(about).encode()})
    return out
