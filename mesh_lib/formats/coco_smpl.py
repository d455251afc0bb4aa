"""COCO's JSON with an `smpl` group in each annotation: for tools that read COCO and want the body beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from mesh_lib.body.joints import BODY33, COCO17
from mesh_lib.formats.batch import Labels, annotation_id, plain

CATEGORY = {
    "id": 1, "name": "person", "supercategory": "person", "keypoints": list(COCO17.names),
    "skeleton": [[16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9], [8, 10],
                 [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7]],
}  # fmt: skip
"""The skeleton counts from 1, as COCO's does."""


def images(labels: Labels) -> list[tuple[str, dict[str, Any]]]:
    """(image id, entry) for each label's picture; a picture of several people comes several times."""
    return [
        (
            labels.image_id[i],
            {"id": annotation_id(labels.image_id[i]), "file_name": labels.file_name[i],
             "width": int(labels.image_size[i, 0]), "height": int(labels.image_size[i, 1])},
        )
        for i in range(len(labels))
    ]  # fmt: skip


def person_records(labels: Labels) -> list[dict[str, Any]]:
    """An annotation for each label of a batch; keypoints are those given with the sample (v = 2 where known)."""
    keypoints = COCO17.take_from(labels.keypoints_2d_px, BODY33)
    known = keypoints[..., 2:] > 0
    flat = np.where(known, np.concatenate([keypoints[..., :2], np.full_like(keypoints[..., :1], 2)], axis=2), 0.0)
    return [
        {
            "id": annotation_id(labels.person_id[i]),
            "image_id": annotation_id(labels.image_id[i]),
            "category_id": 1,
            "iscrowd": 0,
            "bbox": plain(labels.bbox_xywh_px[i]),
            "area": float(labels.bbox_xywh_px[i, 2] * labels.bbox_xywh_px[i, 3]),
            "num_keypoints": int(known[i].sum()),
            "keypoints": plain(flat[i]),
            "smpl": {
                "global_orient": plain(labels.rotvec[i, 0]),
                "body_pose": plain(labels.rotvec[i, 1:]),
                "betas": plain(labels.betas[i]),
                "transl": plain(labels.transl_m[i]),
                "focal_px": plain(labels.focal_px[i]),
                "princpt_px": plain(labels.princpt_px[i]),
            },
        }
        for i in range(len(labels))
    ]
