"""From the annotator's answer to a label: parameters, whole-image camera, reprojection, quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mesh_lib.body.joints import BODY33
from mesh_lib.geometry.cameras import crop_to_image_camera, project
from mesh_lib.geometry.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from mesh_lib.metrics.joints import reprojection_px
from mesh_lib.nets.annotator import Annotation, Annotator

HIGH_REPROJECTION = 0.1
"""Of the box's longer side: at half a head's length the mesh is no longer on the person."""
IMPLAUSIBLE_SHAPE = 3.0
IMPLAUSIBLE_POSE = 8.0
"""Norm of z; a standard normal in 32 dimensions has 5.7 ± 0.7."""
FEW_KEYPOINTS = 6


def make_labels(
    annotator: Annotator,
    answer: Annotation,
    *,
    box_xywh_px: Float[Tensor, "batch 4"],
    bbox_xywh_px: Float[Tensor, "batch 4"],
    keypoints_2d_px: Float[Tensor, "batch 33 3"],
) -> dict[str, np.ndarray]:
    """Columns of the pseudo_gt table (docs/data.md) for a batch of crops; one without values (batch, 0) is null.

    box is the crop's box in the picture, bbox the person's, keypoints the given 2D truth in BODY33 order
    (confidence 0 where unknown). All arithmetic behind the network is float64, so that labels do not round.
    """
    input_size = annotator.config.input_size
    box = box_xywh_px.double()
    camera = crop_to_image_camera(box, input_size=input_size)
    scale = box[:, 2:] / box.new_tensor(input_size)
    joints_2d_px = answer.joints_crop_px.double() * scale[:, None] + box[:, None, :2]

    rotvec = rotmat_to_rotvec(answer.rotmats.double()).float()
    stored_m = annotator.keypoints(rotmats=rotvec_to_rotmat(rotvec), betas=answer.betas)
    stored_m = stored_m.double() + answer.transl_m.double()[:, None]
    again_px = project(stored_m, focal_px=camera.focal_px, princpt_px=camera.princpt_px)

    side = bbox_xywh_px[:, 2:].double().amax(dim=1)
    target, visible = keypoints_2d_px[..., :2].double(), keypoints_2d_px[..., 2].double()
    error_px = reprojection_px(predicted_px=joints_2d_px, target_px=target, visible=visible)
    seen = visible > 0
    near = ((joints_2d_px - target).norm(dim=-1) < HIGH_REPROJECTION * side[:, None]) & seen
    columns = {
        "global_orient": rotvec[:, 0],
        "body_pose": rotvec[:, 1:].flatten(1),
        "betas": answer.betas,
        "vposer_z": answer.z,
        "crop_camera": answer.camera_raw,
        "crop_box_xywh_px": box_xywh_px,
        "transl_m": answer.transl_m,
        "focal_px": camera.focal_px,
        "princpt_px": camera.princpt_px,
        "joints_2d_px": joints_2d_px.flatten(1),
        "joints_3d_m": answer.joints_m.flatten(1),
        "camera_self_check_px": (again_px - joints_2d_px).norm(dim=-1).amax(dim=1),
        "reprojection_error_px": error_px,
        "reprojection_error_box": error_px / side,
        "keypoints_used": seen.sum(dim=1),
        "pose_prior_norm": answer.z.norm(dim=1) if answer.z.shape[1] else answer.z,
        "shape_norm": answer.betas.norm(dim=1),
        "confidence": near.sum(dim=1) / seen.sum(dim=1).clamp_min(1),
    }
    return {name: value.detach().cpu().numpy() for name, value in columns.items()}


def failure(label: dict[str, np.ndarray], row: int) -> str | None:
    """Why a network's answer is no label: the QUARANTINE reason, or None."""
    # Finiteness first: NaN compares False, so the depth check would let it through.
    names = ("global_orient", "body_pose", "betas", "transl_m", "joints_2d_px", "joints_3d_m")
    if not all(np.isfinite(label[name][row]).all() for name in names):
        return "not_finite"
    depth = label["joints_3d_m"][row].reshape(len(BODY33), 3)[:, 2]
    return "behind_camera" if (depth <= 0).any() else None


def flags(label: dict[str, np.ndarray], row: int, *, image_size: Sequence[int]) -> list[str]:
    """What a reader may want to filter on; a flagged label is still a label."""
    x, y, w, h = label["crop_box_xywh_px"][row]
    found: dict[str, Any] = {
        "high_reprojection": label["reprojection_error_box"][row] > HIGH_REPROJECTION,
        "implausible_pose": (label["pose_prior_norm"][row] > IMPLAUSIBLE_POSE).any(),
        "implausible_shape": np.abs(label["betas"][row]).max() > IMPLAUSIBLE_SHAPE,
        "few_keypoints": label["keypoints_used"][row] < FEW_KEYPOINTS,
        "crop_leaves_image": x < 0 or y < 0 or x + w > image_size[0] or y + h > image_size[1],
    }
    return [name for name, is_so in found.items() if is_so]
