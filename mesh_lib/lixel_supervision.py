"""From samples to what I2L-MeshNet is taught: joints and vertices in lixels, in the frame of the augmented crop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mesh_lib.body.files import Body
from mesh_lib.body.joints import BODY33, JointSet
from mesh_lib.body.layer import KeypointLayer
from mesh_lib.geometry.cameras import project
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.losses.lixel import (
    FIT_WITHIN_LIXELS,
    FIT_WITHIN_M,
    LixelTargets,
    ParameterTargets,
    fit_is_close,
)
from mesh_lib.nets.lixel import LIXEL29, I2LMeshNet
from mesh_lib.supervision import Shot, Truth, make_targets, unturn_points, warp_points

ROOT = JointSet("root", ("pelvis",))
NOWHERE = -1e3
"""Bins: so far outside of the heatmaps that a Gaussian there is nothing in them."""
CHECKED = tuple(
    f"{side}_{joint}" for side in ("left", "right") for joint in ("shoulder", "elbow", "wrist", "knee", "ankle")
)
"""Joints by which a fit is judged: those of which datasets and SMPL mean nearly the same. The release judges by all,
once the dataset's own regressor (licensed) has made its joints of the fit; SMPL's hips would be centimetres off."""
UNCHECKED = [i for i, name in enumerate(LIXEL29.names) if name not in CHECKED]
COMMON = tuple(name for name in LIXEL29.names if name in BODY33.names)
"""Joints that both samples and I2L-MeshNet have."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a batch knows, of bodies or of hands, turned as its crops are; joints are the network's, root first."""

    posed: Float[Tensor, "batch rotations 3 3"]
    """Rotations that pose the mesh, each relative to its parent."""
    rotmats: Float[Tensor, "batch rotations 3 3"]
    """The same as stage two says them (LixelParameters)."""
    betas: Float[Tensor, "batch 10"]
    mesh_valid: Float[Tensor, " batch"]
    mesh_placed: Float[Tensor, " batch"]
    """0 too where nobody knows how the mesh is seen."""
    root_m: Float[Tensor, "batch 1 3"]
    """Of the mesh, in the camera's frame, not turned."""
    keypoints_crop_px: Float[Tensor, "batch joints 2"]
    keypoints_valid: Float[Tensor, "batch joints"]
    joints_rel_m: Float[Tensor, "batch joints 3"]
    """The dataset's own, relative to its root."""
    joints_rel_valid: Float[Tensor, "batch joints"]
    root_depth_m: Float[Tensor, " batch"]
    """Of the dataset's own root in the camera's frame; NaN where unknown."""


@dataclass(frozen=True, kw_only=True)
class LixelLesson:
    """All that both stages are taught of a batch."""

    lixels: LixelTargets
    parameters: ParameterTargets
    joints: Float[Tensor, "batch joints 3"]
    """The true joints in lixels for a MeshNet that sees them (Table 3); NOWHERE where nobody knows them."""
    root_depth_m: Float[Tensor, " batch"]
    """Of the root in the camera's frame: of the mesh, else of the dataset's joints; NaN where neither is known."""


class LixelTeacher(torch.nn.Module):
    """Makes lessons of batches. Its buffers are the body's."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.keypoints = KeypointLayer(body, BODY33)
        self.root = KeypointLayer(body, ROOT)

    @torch.no_grad()
    def forward(self, truth: Truth, network: I2LMeshNet, *, check_fits: bool = True) -> LixelLesson:
        """`check_fits`: fits that are far from the dataset's own CHECKED joints teach nothing."""
        targets = make_targets(truth, keypoints=self.keypoints)
        root_m = self.root(rotmats=rotvec_to_rotmat(truth.smpl_rotvec), betas=targets.betas)
        pelvis = truth.keypoints_3d_m[:, _PELVIS]
        known = Known(
            posed=targets.rotmats,
            rotmats=targets.rotmats,
            betas=targets.betas,
            mesh_valid=targets.mesh_valid,
            mesh_placed=targets.mesh_crop_valid,
            root_m=root_m + truth.smpl_transl_m[:, None],
            keypoints_crop_px=_to_lixel29(targets.keypoints_crop_px),
            keypoints_valid=_to_lixel29(targets.keypoints_valid[..., None])[..., 0],
            joints_rel_m=_to_lixel29(targets.joints_rel_m),
            joints_rel_valid=_to_lixel29(targets.joints_rel_valid[..., None])[..., 0],
            root_depth_m=torch.where(pelvis[:, 3] > 0, pelvis[:, 2], torch.nan),
        )
        return make_lesson(known, truth, network, check_fits=check_fits)


def make_lesson(known: Known, shot: Shot, network: I2LMeshNet, *, check_fits: bool = True) -> LixelLesson:
    """What is known, in the network's lixels."""
    space = network.config.space
    mesh_m = network.body_layer(rotmats=known.posed, betas=known.betas).vertices_m
    joints_m = network.regressor @ mesh_m
    mesh_rel_m, joints_rel_m = mesh_m - joints_m[:, :1], joints_m - joints_m[:, :1]
    placed = known.mesh_placed > 0

    def to_lixels(rel_m: Tensor) -> Tensor:
        points_m = known.root_m + unturn_points(rel_m, shot)
        points_m = torch.where(placed[:, None, None], points_m, torch.ones_like(points_m))  # masked below
        pixels = project(points_m, focal_px=shot.focal_px, princpt_px=shot.princpt_px)
        return space.from_crop(warp_points(pixels, shot), rel_m[..., 2])

    fit, mesh = to_lixels(joints_rel_m), to_lixels(mesh_rel_m)
    orig, seen, deep = _own_joints(known, network)
    fit_valid = placed.float()
    if check_fits:
        judge = torch.ones_like(seen)
        if seen.shape[1] == len(LIXEL29):
            judge = judge.index_fill(1, torch.tensor(UNCHECKED, device=seen.device), 0.0)
        fit_valid = fit_valid * _close(
            fit, joints_rel_m, orig, seen * judge, known.joints_rel_valid * judge, known, deep
        )
    inside = space.inside
    lixels = LixelTargets(
        joints_orig=orig,
        joints_orig_valid=seen * inside(orig),
        depth_valid=deep,
        joints_fit=fit,
        joints_fit_valid=inside(fit),
        mesh_fit=mesh,
        mesh_fit_valid=inside(mesh),
        fit_valid=fit_valid,
    )
    own = torch.where(seen[..., None] > 0, orig, NOWHERE)
    return LixelLesson(
        lixels=lixels,
        parameters=ParameterTargets(
            rotmats=known.rotmats,
            betas=known.betas,
            joints_fit_rel_m=joints_rel_m,
            fit_valid=fit_valid,
            joints_orig_rel_m=known.joints_rel_m,
            joints_orig_valid=known.joints_rel_valid,
        ),
        joints=torch.where(placed[:, None, None], fit, own),
        root_depth_m=torch.where(known.mesh_valid > 0, known.root_m[:, 0, 2], known.root_depth_m),
    )


def _own_joints(known: Known, network: I2LMeshNet) -> tuple[Tensor, Tensor, Tensor]:
    """The dataset's joints in lixels, which are known, and whose depth is. Without depth they lie in the middle."""
    deep = (known.joints_rel_valid > 0).any(dim=1).float()
    seen = known.keypoints_valid * torch.where(deep[:, None] > 0, known.joints_rel_valid, 1.0)
    depth_m = known.joints_rel_m[..., 2] * known.joints_rel_valid
    return network.config.space.from_crop(known.keypoints_crop_px, depth_m), seen, deep


def _close(
    fit: Tensor, fit_rel_m: Tensor, orig: Tensor, seen: Tensor, valid: Tensor, known: Known, deep: Tensor
) -> Tensor:
    """Whether fits lie by the dataset's joints: in 3D where it has that, else in 2D."""
    in_2d = fit_is_close(fit[..., :2], orig[..., :2], seen, within=FIT_WITHIN_LIXELS, aligned=False)
    in_3d = fit_is_close(fit_rel_m, known.joints_rel_m, valid, within=FIT_WITHIN_M, aligned=True)
    return torch.where(deep > 0, in_3d, in_2d)


_PELVIS = BODY33.index("pelvis")


def _to_lixel29(values: Float[Tensor, "batch 33 channels"]) -> Float[Tensor, "batch 29 channels"]:
    """BODY33 to LIXEL29 by name; zeros for joints that samples do not have."""
    out = values.new_zeros(len(values), len(LIXEL29), values.shape[2])
    out[:, LIXEL29.indices(COMMON)] = values[:, BODY33.indices(COMMON)]
    return out
