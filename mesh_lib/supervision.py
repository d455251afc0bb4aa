"""From samples to training targets: the truth of a sample, moved into the frame of its augmented crop.

Data workers only decode and warp pictures; the geometry of all targets is here, once, for a whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mesh_lib.body.joints import BODY33, SMPL24, JointSet
from mesh_lib.body.layer import KeypointLayer
from mesh_lib.geometry.cameras import project
from mesh_lib.geometry.rotations import rotvec_to_rotmat

MAX_BETA = 3.0
"""A body with a shape coefficient beyond this is taken for a failed fit, its betas for zero (Pose2Pose)."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """How the pictures of a batch were taken, cut and augmented, whoever they show."""

    focal_px: Float[Tensor, "batch 2"]
    """0 where the camera is unknown."""
    princpt_px: Float[Tensor, "batch 2"]
    affine: Float[Tensor, "batch 2 3"]
    """Image pixels to crop pixels, augmentation included."""
    flip: Bool[Tensor, " batch"]
    rotation_rad: Float[Tensor, " batch"]
    weak: Bool[Tensor, " batch"]
    """True where only 2D supervises the sample (in the wild)."""


@dataclass(frozen=True, kw_only=True)
class Truth(Shot):
    """What a batch of samples knows, unaugmented, in whole-image pixels and the camera frame; BODY33 order.

    Absent values are zero with a validity of zero.
    """

    keypoints_2d_px: Float[Tensor, "batch 33 3"]
    keypoints_3d_m: Float[Tensor, "batch 33 4"]
    smpl_rotvec: Float[Tensor, "batch 24 3"]
    smpl_betas: Float[Tensor, "batch 10"]
    smpl_transl_m: Float[Tensor, "batch 3"]
    smpl_valid: Bool[Tensor, " batch"]


@dataclass(frozen=True)
class Targets:
    """What the losses compare with, in the frame of the crop."""

    keypoints_crop_px: Float[Tensor, "batch 33 2"]
    keypoints_valid: Float[Tensor, "batch 33"]
    joints_rel_m: Float[Tensor, "batch 33 3"]
    """Dataset's 3D joints relative to their pelvis."""
    joints_rel_valid: Float[Tensor, "batch 33"]
    mesh_crop_px: Float[Tensor, "batch 33 2"]
    """Joints of the truth's mesh, projected."""
    mesh_crop_valid: Float[Tensor, " batch"]
    """0 too where the camera is unknown, so that nothing can be projected."""
    mesh_rel_m: Float[Tensor, "batch 33 3"]
    mesh_valid: Float[Tensor, " batch"]
    rotmats: Float[Tensor, "batch 24 3 3"]
    betas: Float[Tensor, "batch 10"]
    weak: Float[Tensor, " batch"]


def make_targets(truth: Truth, *, keypoints: KeypointLayer) -> Targets:
    """Apply each sample's flip, rotation and crop to all it knows."""
    pelvis = BODY33.index("pelvis")
    valid_2d, valid_3d = truth.keypoints_2d_px[..., 2] > 0, truth.keypoints_3d_m[..., 3] > 0
    valid_3d = valid_3d & valid_3d[:, pelvis, None] & ~truth.weak[:, None]
    joints_rel_m = truth.keypoints_3d_m[..., :3] - truth.keypoints_3d_m[:, pelvis, None, :3]

    mesh_valid = truth.smpl_valid & ~truth.weak
    rotmats = rotvec_to_rotmat(truth.smpl_rotvec)
    betas = torch.where(truth.smpl_betas.abs().amax(dim=1, keepdim=True) > MAX_BETA, 0.0, truth.smpl_betas)
    with torch.no_grad():
        mesh_m = keypoints(rotmats=rotmats, betas=betas)
    in_camera_m = mesh_m + truth.smpl_transl_m[:, None]
    # Without a mesh there is nothing to project: any depth before the camera will do, the mask removes it.
    in_camera_m = torch.where(mesh_valid[:, None, None], in_camera_m, torch.ones_like(in_camera_m))
    mesh_px = project(in_camera_m, focal_px=truth.focal_px, princpt_px=truth.princpt_px)

    return Targets(
        keypoints_crop_px=swap(warp_points(truth.keypoints_2d_px[..., :2], truth), truth.flip, BODY33),
        keypoints_valid=swap(valid_2d.float()[..., None], truth.flip, BODY33)[..., 0],
        joints_rel_m=swap(turn_points(joints_rel_m, truth), truth.flip, BODY33),
        joints_rel_valid=swap(valid_3d.float()[..., None], truth.flip, BODY33)[..., 0],
        mesh_crop_valid=mesh_valid.float() * (truth.focal_px > 0).all(dim=1),
        mesh_crop_px=swap(warp_points(mesh_px, truth), truth.flip, BODY33),
        mesh_rel_m=swap(turn_points(mesh_m - mesh_m[:, pelvis, None], truth), truth.flip, BODY33),
        mesh_valid=mesh_valid.float(),
        rotmats=turn_pose(rotmats, truth),
        betas=betas,
        weak=truth.weak.float(),
    )


def warp_points(points_px: Float[Tensor, "batch points 2"], shot: Shot) -> Float[Tensor, "batch points 2"]:
    """Image pixels to crop pixels."""
    return points_px @ shot.affine[:, :, :2].mT + shot.affine[:, None, :, 2]


def turn_points(points_m: Float[Tensor, "batch points 3"], shot: Shot) -> Float[Tensor, "batch points 3"]:
    """Mirror (x → -x) and turn root-relative points about the optical axis, as the picture was."""
    mirror, turn = _mirror_and_turn(shot)
    return points_m @ (turn @ mirror).mT


def unturn_points(points_m: Float[Tensor, "batch points 3"], shot: Shot) -> Float[Tensor, "batch points 3"]:
    """The inverse of turn_points: from the frame of the augmented crop to that of the camera."""
    mirror, turn = _mirror_and_turn(shot)
    return points_m @ (turn @ mirror)


def turn_pose(rotmats: Float[Tensor, "batch 24 3 3"], truth: Truth) -> Float[Tensor, "batch 24 3 3"]:
    """The SMPL pose of the mirrored and turned person: M R M for each joint, sides swapped, root turned."""
    mirror, turn = _mirror_and_turn(truth)
    mirrored = mirror[:, None] @ rotmats @ mirror[:, None]
    mirrored = swap(mirrored.flatten(2), truth.flip, SMPL24).view_as(rotmats)
    return torch.cat([turn[:, None] @ mirrored[:, :1], mirrored[:, 1:]], dim=1)


def _mirror_and_turn(shot: Shot) -> tuple[Tensor, Tensor]:
    sign = torch.where(shot.flip, -1.0, 1.0)
    one = torch.ones_like(sign)
    cos, sin, zero = shot.rotation_rad.cos(), shot.rotation_rad.sin(), torch.zeros_like(sign)
    turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1).view(-1, 3, 3)
    return torch.diag_embed(torch.stack([sign, one, one], dim=1)), turn


def swap(
    values: Float[Tensor, "batch joints channels"], flip: Bool[Tensor, " batch"], joint_set: JointSet
) -> Float[Tensor, "batch joints channels"]:
    """Exchange left and right joints of the flipped samples."""
    return torch.where(flip[:, None, None], values[:, list(joint_set.mirror)], values)
