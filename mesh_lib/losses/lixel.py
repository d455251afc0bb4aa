"""Losses of I2L-MeshNet (Moon and Lee, 2020, §3.4): joints and vertices in lixels, normals and edges of the surface.

All are L1 with weight 1 but the normals' (0.1, eq. 13). The paper's five losses are seven terms, since joints are
compared both with a dataset's own (orig) and with those of the body fitted to it (fit), each where it is known.
Targets and masks as released: a point outside the heatmaps teaches nothing, a fit that is far from the truth nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mesh_lib.geometry.rotations import rotmat_to_rotvec
from mesh_lib.nets.lixel import LixelOutput, LixelParameters

FIT_WITHIN_LIXELS, FIT_WITHIN_M = 3.0, 0.025
"""How far a fit may be from a dataset's joints, as released: 2D (COCO), and 3D (Human3.6M, MuCo)."""


@dataclass(frozen=True, kw_only=True)
class LixelLossConfig:
    """The published losses."""

    normal_weight: float = 0.1
    """λ of eq. 13."""
    edge_weight: float = 1.0
    joint_orig: bool = True
    """Compare with the dataset's own joints too; without, meshes are smoother (release: 93.47 mm rather than 93.15)."""
    pose_space: Literal["axis_angle", "rotmat"] = "axis_angle"
    """Where stage two compares poses: rotation vectors as released, or matrices, which have no jump at π."""
    normalise_by: Literal["all", "valid"] = "all"
    """One mean over the whole batch, masked zeros included (released), or over the valid entries."""
    check_fits: bool = True
    """Leave out fits (and labels) that are far from the dataset's own joints: 3 lixels, or 25 mm where those are 3D, as
    released, but over the limbs' joints alone (lixel_supervision.CHECKED)."""


@dataclass(frozen=True, kw_only=True)
class LixelTargets:
    """What a batch knows, in lixels (LixelSpace.from_crop); masks are 1 or 0, and values under 0 may be anything."""

    joints_orig: Float[Tensor, "batch joints 3"]
    """The dataset's own joints."""
    joints_orig_valid: Float[Tensor, "batch joints"]
    """1 where a joint is known and inside the heatmaps."""
    depth_valid: Float[Tensor, " batch"]
    """0 where the dataset's joints are 2D: their z teaches nothing then."""
    joints_fit: Float[Tensor, "batch joints 3"]
    """Joints of the fitted body."""
    joints_fit_valid: Float[Tensor, "batch joints"]
    """1 inside the heatmaps."""
    mesh_fit: Float[Tensor, "batch vertices 3"]
    mesh_fit_valid: Float[Tensor, "batch vertices"]
    """1 inside the heatmaps."""
    fit_valid: Float[Tensor, " batch"]
    """0 where there is no fit, or one too far from the dataset's joints (fit_is_close)."""


@dataclass(frozen=True, kw_only=True)
class ParameterTargets:
    """What stage two compares with, in metres and the axes of the crop's camera."""

    rotmats: Float[Tensor, "batch rotations 3 3"]
    betas: Float[Tensor, "batch 10"]
    joints_fit_rel_m: Float[Tensor, "batch joints 3"]
    fit_valid: Float[Tensor, " batch"]
    joints_orig_rel_m: Float[Tensor, "batch joints 3"]
    joints_orig_valid: Float[Tensor, "batch joints"]
    """1 where a joint's 3D position is known."""


@dataclass(frozen=True)
class Surface:
    """A mesh's faces and edges. An edge of two faces stands in the losses twice, and is computed once."""

    faces: Int[Tensor, "faces 3"]
    edges: Int[Tensor, "edges 2"]
    """Pairs of vertices, each pair once."""
    edge_faces: Float[Tensor, " edges"]
    """Faces at each edge."""
    face_edges: Int[Tensor, "faces 3"]
    """The three edges of each face."""

    @staticmethod
    def of(faces: np.ndarray) -> Surface:
        """Of (F, 3) indices."""
        pairs = np.sort(faces[:, [[0, 1], [0, 2], [1, 2]]].reshape(-1, 2), axis=1)
        edges, of_pair, count = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
        return Surface(
            faces=torch.as_tensor(faces, dtype=torch.int64),
            edges=torch.as_tensor(edges, dtype=torch.int64),
            edge_faces=torch.as_tensor(count, dtype=torch.float32),
            face_edges=torch.as_tensor(of_pair.reshape(-1, 3), dtype=torch.int64),
        )

    def to(self, device: torch.device) -> Surface:
        parts = (self.faces, self.edges, self.edge_faces, self.face_edges)
        return Surface(*(part.to(device) for part in parts))


def fit_is_close(
    fit: Float[Tensor, "batch joints dims"],
    truth: Float[Tensor, "batch joints dims"],
    known: Float[Tensor, "batch joints"],
    *,
    within: float,
    aligned: bool,
) -> Float[Tensor, " batch"]:
    """1 where the mean distance of known joints is at most `within`, 0 where it is more or no joint is known.

    As released: 2D in lixels as it lies (FIT_WITHIN_LIXELS), 3D in metres once the means are aligned (FIT_WITHIN_M).
    """
    share = known / known.sum(dim=1, keepdim=True).clamp_min(1.0)
    off = torch.where(known[..., None] > 0, fit - truth, 0.0)
    if aligned:
        off = off - (off * share[..., None]).sum(dim=1, keepdim=True)
    return ((off.norm(dim=2) * share).sum(dim=1) <= within).float() * (known > 0).any(dim=1)


def lixel_losses(
    output: LixelOutput, targets: LixelTargets, *, surface: Surface, config: LixelLossConfig
) -> dict[str, Tensor]:
    """Weighted terms by name, each a scalar; their sum is the loss. Without PoseNet its two terms are absent."""
    fit = targets.fit_valid[:, None]
    joints_fit, mesh_fit = targets.joints_fit_valid * fit, targets.mesh_fit_valid * fit
    flat = torch.ones_like(targets.depth_valid)
    orig = targets.joints_orig_valid[..., None] * torch.stack([flat, flat, targets.depth_valid], dim=1)[:, None]
    compared = {"joint": output.joints, "mesh_joint": output.mesh_joints}
    if not output.joints.shape[1]:
        del compared["joint"]

    losses: dict[str, Tensor] = {}
    for name, joints in compared.items():
        losses[f"{name}_fit"] = _l1(joints, targets.joints_fit, joints_fit[..., None], config)
        if config.joint_orig:
            losses[f"{name}_orig"] = _l1(joints, targets.joints_orig, orig, config)
    losses["mesh_fit"] = _l1(output.mesh, targets.mesh_fit, mesh_fit[..., None], config)
    surfaces = surface_losses(output.mesh, targets.mesh_fit, mesh_fit, surface=surface, config=config)
    return losses | dict(zip(("mesh_normal", "mesh_edge"), surfaces, strict=True))


def surface_losses(
    predicted: Float[Tensor, "batch vertices 3"],
    target: Float[Tensor, "batch vertices 3"],
    valid: Float[Tensor, "batch vertices"],
    *,
    surface: Surface,
    config: LixelLossConfig,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Edges against the target's face normals (eq. 11), and lengths of edges (eq. 12), weighted.

    Both run over the three edges of each face, so most edges count twice.
    """
    target = torch.where(valid[..., None] > 0, target, 0.0)
    start, end = surface.edges.T
    edges, edges_target = predicted[:, end] - predicted[:, start], target[:, end] - target[:, start]
    lengths = torch.linalg.vector_norm(edges, dim=2)  # its gradient at zero is zero, not NaN
    off = (lengths - torch.linalg.vector_norm(edges_target, dim=2)).abs()
    edge = _mean(off, valid[:, start] * valid[:, end], config, count=surface.edge_faces)

    directions = edges / lengths.clamp_min(1e-12)[..., None]
    a, b, c = (target[:, surface.faces[:, corner]] for corner in range(3))
    normals = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=2)
    cosines = (directions[:, surface.face_edges] * normals[:, :, None]).sum(dim=3).abs()
    normal = _mean(cosines, valid[:, surface.faces].prod(dim=2)[..., None].expand_as(cosines), config)
    return config.normal_weight * normal, config.edge_weight * edge


def parameter_losses(
    answer: LixelParameters, targets: ParameterTargets, *, config: LixelLossConfig
) -> dict[str, Tensor]:
    """Stage two's terms by name, all of weight 1, as released: parameters, and joints in metres."""
    fit = targets.fit_valid[:, None]
    poses = [answer.rotmats, targets.rotmats]
    if config.pose_space == "axis_angle":
        poses = [rotmat_to_rotvec(pose) for pose in poses]
    predicted, target = (pose.flatten(1) for pose in poses)
    orig = targets.joints_orig_valid[..., None]
    return {
        "pose_param": _l1(predicted, target, fit, config),
        "shape_param": _l1(answer.betas, targets.betas, fit, config),
        "joint_orig_cam": _l1(answer.joints_rel_m, targets.joints_orig_rel_m, orig, config),
        "joint_fit_cam": _l1(answer.joints_rel_m, targets.joints_fit_rel_m, fit[..., None], config),
    }


def _l1(predicted: Tensor, target: Tensor, mask: Tensor, config: LixelLossConfig) -> Tensor:
    return _mean((predicted - target).abs(), mask.expand_as(predicted), config)


def _mean(error: Tensor, mask: Tensor, config: LixelLossConfig, *, count: Tensor | None = None) -> Tensor:
    """Mean of masked errors, the last axis' entries counted `count` times; what is masked may be NaN."""
    error, weight = torch.where(mask > 0, error * mask, 0.0), mask
    if count is not None:
        error, weight = error * count, weight * count
    if config.normalise_by == "valid":
        return error.sum() / weight.sum().clamp_min(1.0)
    return error.mean() if count is None else error.sum() / (len(error) * count.sum())
