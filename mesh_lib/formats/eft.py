"""EFT's JSON (Joo et al., 2021): {"ver", "data": [one entry a person]}.

`parm_pose` is 24 rotation matrices, `parm_shape` 10 numbers, `parm_cam` (s, t_x, t_y) of a weak-perspective camera:
u = s · x + t in [-1, 1] of a square box of 200 · `bbox_scale` pixels about `bbox_center`. Weak perspective has no
depth: what a pinhole camera sees of a body two arms deep, it cannot repeat to the pixel.

`annotId` is COCO's id of the annotation; files of other datasets (MPII, LSPET) have none, or 0 throughout. `imageName`
is the picture's file name, without folders in the published files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from mesh_lib.body.joints import OPENPOSE25
from mesh_lib.formats import spin
from mesh_lib.formats.batch import SPIN24, Labels, annotation_id, arrange, furthest_px, plain
from mesh_lib.formats.spin import BOX_PX, INPUT_PX
from mesh_lib.geometry.cameras import CROP_FOCAL_PX

VERSION = 0.1


def entries(labels: Labels) -> list[dict[str, Any]]:
    """An entry for each label of a batch."""
    center, side = spin.boxes(labels)
    cam = weak_perspective(labels, center, side)
    rotmats = Rotation.from_rotvec(labels.rotvec.reshape(-1, 3)).as_matrix().reshape(-1, 24, 3, 3)
    keypoints = np.concatenate(
        [arrange(labels.keypoints_2d_px, OPENPOSE25), arrange(labels.keypoints_2d_px, SPIN24)], axis=1
    )
    return [
        {
            "parm_pose": [[plain(row) for row in joint] for joint in rotmats[i]],
            "parm_shape": plain(labels.betas[i]),
            "parm_cam": plain(cam[i]),
            "bbox_scale": float(side[i] / BOX_PX),
            "bbox_center": plain(center[i]),
            "gt_keypoint_2d": [plain(point) for point in keypoints[i]],
            "joint_validity_openpose18": [bool(v > 0) for v in keypoints[i, :18, 2]],
            "smpltype": "smpl",
            "annotId": annotation_id(labels.person_id[i]),
            "imageName": labels.file_name[i],
            "subjectId": labels.sample_id[i],
        }
        for i in range(len(labels))
    ]


def weak_perspective(labels: Labels, center: np.ndarray, side: np.ndarray) -> np.ndarray:
    """(N, 3) cameras (s, t_x, t_y) that come nearest to where the labels show their joints: least squares."""
    body = labels.joints_3d_m[..., :2] - labels.transl_m[:, None, :2]
    seen = (labels.joints_2d_px - center[:, None]) / (side / 2)[:, None, None]
    x, u = body - body.mean(axis=1, keepdims=True), seen - seen.mean(axis=1, keepdims=True)
    scale = (x * u).sum(axis=(1, 2)) / (x * x).sum(axis=(1, 2))
    return np.concatenate([scale[:, None], seen.mean(axis=1) - scale[:, None] * body.mean(axis=1)], axis=1)


def project(body_m: np.ndarray, *, cam: np.ndarray, center: np.ndarray, side: np.ndarray) -> np.ndarray:
    """(N, P, 3) points of the body, untranslated → (N, P, 2) pixels of the picture, as EFT's camera shows them."""
    seen = cam[:, None, :1] * body_m[..., :2] + cam[:, None, 1:]
    return seen * (side / 2)[:, None, None] + center[:, None]


def moved_px(labels: Labels) -> np.ndarray:
    """(N,) how far, at most, EFT's camera shows a joint of the mesh from where the label has it."""
    center, side = spin.boxes(labels)
    cam = weak_perspective(labels, center, side)
    return furthest_px(
        labels.joints_2d_px,
        project(labels.joints_3d_m - labels.transl_m[:, None], cam=cam, center=center, side=side),
    )


def read_entry(entry: Any, *, where: str) -> dict[str, Any]:
    """One entry as parameters and our camera, `person_id` "" where it has no annotId.

    Raises ValueError for one that is not EFT's.
    """
    try:
        rotmats = np.asarray(entry["parm_pose"], np.float64).reshape(24, 3, 3)
        betas = np.asarray(entry["parm_shape"], np.float64).reshape(10)
        cam = np.asarray(entry["parm_cam"], np.float64).reshape(3)
        center = np.asarray(entry["bbox_center"], np.float64).reshape(2)
        side = float(entry["bbox_scale"]) * BOX_PX
        name, person = str(entry["imageName"]), entry.get("annotId")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: an entry of `data` is not EFT's: {error!r}") from None
    finite = all(np.isfinite(values).all() for values in (rotmats, betas, cam, center)) and np.isfinite(side)
    if not finite or not cam[0] > 0 or not side > 0 or not (np.linalg.det(rotmats) > 0).all():
        rotvec = np.full((24, 3), np.nan)
    else:  # orthonormal up to rounding: from_matrix takes the nearest rotation
        rotvec = Rotation.from_matrix(rotmats).as_rotvec()
    return {
        "person_id": "" if person is None else str(person),
        "file_name": name,
        "rotvec": rotvec,
        "betas": betas,
        "transl_m": np.array([cam[1] / cam[0], cam[2] / cam[0], 2 * CROP_FOCAL_PX / (INPUT_PX * cam[0])])
        if cam[0] > 0
        else np.full(3, np.nan),
        "focal_px": np.full(2, CROP_FOCAL_PX * side / INPUT_PX),
        "princpt_px": center,
        "box": np.array([*center, side]),
    }
