"""From the annotator's answer to a label: parameters, whole-image camera, reprojection, quality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from mesh_lib import tables
from mesh_lib.body.joints import BODY33
from mesh_lib.body.layer import KeypointLayer
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
SELF_CHECK_PX = 0.5
"""A label whose mesh is not seen where it says is none."""


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
        "pose_prior_norm": answer.z.norm(dim=1) if answer.z.shape[1] else answer.z,
        "shape_norm": answer.betas.norm(dim=1),
        **_residuals(joints_2d_px, bbox_xywh_px=bbox_xywh_px, keypoints_2d_px=keypoints_2d_px),
    }
    return {name: value.detach().cpu().numpy() for name, value in columns.items()}


def labels_of(
    keypoints: KeypointLayer,
    *,
    rotvec: Float[Tensor, "batch 24 3"],
    betas: Float[Tensor, "batch 10"],
    transl_m: Float[Tensor, "batch 3"],
    focal_px: Float[Tensor, "batch 2"],
    princpt_px: Float[Tensor, "batch 2"],
    bbox_xywh_px: Float[Tensor, "batch 4"],
    keypoints_2d_px: Float[Tensor, "batch 33 3"],
) -> dict[str, np.ndarray]:
    """Columns of the pseudo_gt table for parameters that somebody else found; keypoints is BODY33 of their body.

    What only our own network knows (z, its camera output, its box) is null.
    """
    joints_m = keypoints(rotmats=rotvec_to_rotmat(rotvec.double()).to(betas.dtype), betas=betas).double()
    joints_m = joints_m + transl_m.double()[:, None]
    joints_2d_px = project(joints_m, focal_px=focal_px.double(), princpt_px=princpt_px.double())
    columns = {
        "global_orient": rotvec[:, 0],
        "body_pose": rotvec[:, 1:].flatten(1),
        "betas": betas,
        "transl_m": transl_m,
        "focal_px": focal_px,
        "princpt_px": princpt_px,
        "joints_2d_px": joints_2d_px.flatten(1),
        "joints_3d_m": joints_m.flatten(1),
        "camera_self_check_px": torch.where(joints_2d_px.isfinite().all(dim=(1, 2)), 0.0, torch.nan),
        "shape_norm": betas.norm(dim=1),
        **_residuals(joints_2d_px, bbox_xywh_px=bbox_xywh_px, keypoints_2d_px=keypoints_2d_px),
    }
    return {name: value.detach().cpu().numpy() for name, value in columns.items()}


def _residuals(
    joints_2d_px: Float[Tensor, "batch 33 2"],
    *,
    bbox_xywh_px: Float[Tensor, "batch 4"],
    keypoints_2d_px: Float[Tensor, "batch 33 3"],
) -> dict[str, Tensor]:
    """How far a label's joints lie from the given keypoints."""
    side = bbox_xywh_px[:, 2:].double().amax(dim=1)
    target, visible = keypoints_2d_px[..., :2].double(), keypoints_2d_px[..., 2].double()
    error_px = reprojection_px(predicted_px=joints_2d_px, target_px=target, visible=visible)
    seen = visible > 0
    near = ((joints_2d_px - target).norm(dim=-1) < HIGH_REPROJECTION * side[:, None]) & seen
    return {
        "reprojection_error_px": error_px,
        "reprojection_error_box": error_px / side,
        "keypoints_used": seen.sum(dim=1),
        "confidence": near.sum(dim=1) / seen.sum(dim=1).clamp_min(1),
    }


def failures(label: Mapping[str, np.ndarray]) -> np.ndarray:
    """Why a network's answers are no labels: for each row a QUARANTINE reason, or `ok`."""
    names = ("global_orient", "body_pose", "betas", "transl_m", "joints_2d_px", "joints_3d_m")
    finite = np.all([np.isfinite(label[name]).all(axis=1) for name in names], axis=0)
    depth = label["joints_3d_m"].reshape(-1, len(BODY33), 3)[..., 2]
    # Finiteness first: NaN compares False, so the depth check would let it through.
    found = [~finite, (depth <= 0).any(axis=1), ~(label["camera_self_check_px"] < SELF_CHECK_PX)]
    return np.select(found, ["not_finite", "behind_camera", "camera_inconsistent"], tables.OK).astype(object)


def flags(label: Mapping[str, np.ndarray], *, image_size: np.ndarray) -> list[list[str]]:
    """What a reader may want to filter on, for each row; a flagged label is still a label. image_size: (rows, 2)."""
    rows = len(image_size)
    x, y, w, h = label.get("crop_box_xywh_px", np.zeros((rows, 4))).T
    width, height = image_size.T
    prior = label.get("pose_prior_norm", np.zeros((rows, 0))).reshape(rows, -1)
    found = {
        "high_reprojection": label["reprojection_error_box"] > HIGH_REPROJECTION,
        "implausible_pose": (prior > IMPLAUSIBLE_POSE).any(axis=1),
        "implausible_shape": np.abs(label["betas"]).max(axis=1) > IMPLAUSIBLE_SHAPE,
        "few_keypoints": label["keypoints_used"] < FEW_KEYPOINTS,
        "crop_leaves_image": (x < 0) | (y < 0) | (x + w > width) | (y + h > height),
    }
    return [[name for name, is_so in found.items() if is_so[row]] for row in range(rows)]


def labels_table(
    identity: Mapping[str, Any], *, status: np.ndarray, label: Mapping[str, np.ndarray], image_size: np.ndarray
) -> pa.Table:
    """A pseudo_gt table: labels where `status` is ok, nulls where it names a reason.

    A measure that is not finite (an error over no keypoint) is null too.
    """
    good = status == tables.OK
    columns = {
        **{name: pa.array(values, tables.PSEUDO_GT.field(name).type) for name, values in identity.items()},
        "status": pa.array(status.tolist(), pa.string()),
        "flags": pa.array(
            [found if ok else None for found, ok in zip(flags(label, image_size=image_size), good, strict=True)],
            pa.list_(pa.string()),
        ),
    }
    for field in tables.PSEUDO_GT:
        values = label.get(field.name)
        if field.name in columns:
            continue
        if values is None or not values.size:
            columns[field.name] = pa.nulls(len(status), field.type)
        elif pa.types.is_fixed_size_list(field.type):
            flat = pa.array(values.reshape(-1), field.type.value_type, safe=False)
            columns[field.name] = pa.FixedSizeListArray.from_arrays(flat, type=field.type, mask=pa.array(~good))
        else:
            columns[field.name] = pa.array(values, field.type, mask=~good | ~np.isfinite(values), safe=False)
    return pa.table([columns[name] for name in tables.PSEUDO_GT.names], schema=tables.PSEUDO_GT)
