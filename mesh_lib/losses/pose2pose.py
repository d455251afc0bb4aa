"""Losses of the annotation network f: Pose2Pose's, and the L2 regulariser of the third recipe.

All are L1 with weight 1 but the regulariser (squares, weight 1e-2). 2D terms are in heatmap bins (1/32 of a crop
pixel), 3D terms in metres: that sets the balance between 2D and 3D supervision. Three Recipes §2.2, NeuralAnnot
eq. 2; targets and masks as Pose2Pose was released.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mesh_lib.body.joints import BODY33, POSE2POSE25
from mesh_lib.geometry.rotations import rotmat_to_rotvec
from mesh_lib.nets.annotator import Annotation
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.resnet import STRIDE
from mesh_lib.supervision import Targets

BODY_BOX_M = 2.0
"""Depth range of the position net's heatmap (Pose2Pose: 2 m for bodies)."""


@dataclass(frozen=True, kw_only=True)
class Pose2PoseLossConfig:
    """The published losses; each choice is named in docs/fidelity.md."""

    l2_weight: float = 1e-2
    """Weight of z² (or, without VPoser, of the pose) and betas² on samples that only 2D supervises (Table A)."""
    pose_space: Literal["axis_angle", "rotmat"] = "axis_angle"
    """Where smpl_pose is compared: rotation vectors as released, or matrices, which have no jump at π."""
    normalise_by: Literal["all", "valid"] = "all"
    """One mean over the whole batch, masked zeros included (released), or over the valid entries."""


def annotator_losses(
    answer: Annotation, targets: Targets, *, model: Pose2PoseConfig, config: Pose2PoseLossConfig
) -> dict[str, Tensor]:
    """Weighted terms by name, each a scalar; their sum is the loss."""

    def mean(error: Tensor, mask: Tensor) -> Tensor:
        mask = mask.expand_as(error)
        error = torch.where(mask > 0, error * mask, 0.0)
        return error.mean() if config.normalise_by == "all" else error.sum() / mask.sum().clamp_min(1.0)

    def l1(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return mean((predicted - target).abs(), mask)

    pelvis = BODY33.index("pelvis")
    joints25 = BODY33.indices(POSE2POSE25.names)
    mesh_valid = targets.mesh_valid[:, None].expand(-1, len(BODY33))
    rel_m = answer.joints_m - answer.joints_m[:, pelvis, None]

    keypoints_hm = targets.keypoints_crop_px / STRIDE
    in_crop = inside(keypoints_hm, model) * targets.keypoints_valid
    rel_valid = targets.joints_rel_valid
    image_hm, image_mask = _position_target(keypoints_hm, targets.joints_rel_m, rel_valid, in_crop, model)
    mesh_hm = targets.mesh_crop_px / STRIDE
    mesh_in_crop = inside(mesh_hm, model) * targets.mesh_crop_valid[:, None]
    mesh_image_hm, mesh_image_mask = _position_target(mesh_hm, targets.mesh_rel_m, mesh_valid, mesh_in_crop, model)

    losses = {
        "smpl_pose": _pose_loss(answer, targets, config, l1),
        "smpl_shape": l1(answer.betas, targets.betas, targets.mesh_valid[:, None]),
        "joint_proj": l1(answer.joints_crop_px / STRIDE, keypoints_hm, image_mask[..., :1]),
        "joint_cam": l1(rel_m, targets.joints_rel_m, rel_valid[..., None]),
        "smpl_joint_cam": l1(rel_m, targets.mesh_rel_m, mesh_valid[..., None]),
    }
    if answer.joints_hm.shape[1]:  # NeuralAnnot's regressor has no position net
        losses["joint_img"] = l1(answer.joints_hm, image_hm[:, joints25], image_mask[:, joints25])
        losses["smpl_joint_img"] = l1(answer.joints_hm, mesh_image_hm[:, joints25], mesh_image_mask[:, joints25])
    if config.l2_weight:
        pose = answer.z if answer.z.shape[1] else rotmat_to_rotvec(answer.rotmats[:, 1:22]).flatten(1)
        losses["l2_pose"] = config.l2_weight * mean(pose.square(), targets.weak[:, None])
        losses["l2_shape"] = config.l2_weight * mean(answer.betas.square(), targets.weak[:, None])
    return losses


def inside(points_hm: Float[Tensor, "batch joints 2"], model: Pose2PoseConfig) -> Float[Tensor, "batch joints"]:
    """1 where a point lies in the heatmap."""
    size = points_hm.new_tensor(model.heatmap_size[:2])
    return ((points_hm >= 0) & (points_hm < size)).all(dim=-1).float()


def _position_target(
    points_hm: Tensor, rel_m: Tensor, rel_valid: Tensor, in_crop: Tensor, model: Pose2PoseConfig
) -> tuple[Tensor, Tensor]:
    """Target and mask of the position net: z = (z_rel / (2 m / 2) + 1) / 2 · 8; a joint out of depth is masked."""
    depth = model.heatmap_size[2]
    z_hm = (rel_m[..., 2] / (BODY_BOX_M / 2) + 1) / 2 * depth
    z_inside = ((z_hm >= 0) & (z_hm < depth)).float()
    mask = in_crop * torch.where(rel_valid > 0, z_inside, 1.0)
    return torch.cat([points_hm, z_hm[..., None]], dim=-1), torch.stack([mask, mask, mask * rel_valid], dim=-1)


def _pose_loss(answer: Annotation, targets: Targets, config: Pose2PoseLossConfig, l1) -> Tensor:
    mask = targets.mesh_valid[:, None]
    if config.pose_space == "rotmat":
        return l1(answer.rotmats.flatten(1), targets.rotmats.flatten(1), mask)
    predicted, target = rotmat_to_rotvec(answer.rotmats), rotmat_to_rotvec(targets.rotmats)
    return l1(predicted.flatten(1), target.flatten(1), mask)
