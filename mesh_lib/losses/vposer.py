"""Training losses of VPoser, with the settings of its two releases (the package human_body_prior).

v2: L = 0.005·KL + 4·|vertices| + (2·geodesic + 2·|joints| in the first part of the training).
v1: L = 0.005·KL + 0.995·|vertices in mm| + (0.995·‖R - R'‖² in the first part of the training).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mesh_lib.body.layer import BodyLayer
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.nets.vposer import Latent, Release


@dataclass(frozen=True, kw_only=True)
class VPoserLossWeights:
    kl: float = 0.005
    vertices: float = 4.0
    geodesic: float = 2.0
    joints: float = 2.0


def body_rotmats(pose_rotmats: Float[Tensor, "batch 21 3 3"]) -> Float[Tensor, "batch 24 3 3"]:
    """The 21 joints of VPoser as a whole SMPL pose: identity for the root and the two hands."""
    eye = torch.eye(3, dtype=pose_rotmats.dtype, device=pose_rotmats.device)
    fixed = eye.expand(len(pose_rotmats), 3, 3, 3)
    return torch.cat([fixed[:, :1], pose_rotmats, fixed[:, 1:]], dim=1)


def vposer_losses(
    *,
    layer: BodyLayer,
    latent: Latent,
    decoded: Float[Tensor, "batch 21 3 3"],
    target_rotvec: Float[Tensor, "batch 21 3"],
    weights: VPoserLossWeights,
    warm_up: bool,
    release: Release = "v2",
) -> dict[str, Tensor]:
    """Weighted terms, each a scalar; their sum is the loss. Terms on rotations act only during the warm-up.

    The first release knows the weight of the KL divergence alone.
    """
    target = rotvec_to_rotmat(target_rotvec)
    betas = target_rotvec.new_zeros(len(target_rotvec), layer.num_betas)
    with torch.no_grad():
        truth = layer(rotmats=body_rotmats(target), betas=betas)
    posed = layer(rotmats=body_rotmats(decoded), betas=betas)
    if release == "v1":
        rest = 1 - weights.kl
        losses = {
            "kl": weights.kl * latent.kl().sum(dim=1).mean(),
            "vertices": rest * 1000 * (posed.vertices_m - truth.vertices_m).abs().mean(),
        }
        if warm_up:
            losses["rotations"] = rest * (decoded - target).square().sum(dim=(1, 2, 3)).mean()
        return losses
    losses = {
        "kl": weights.kl * latent.kl().sum(dim=1).mean(),
        "vertices": weights.vertices * (posed.vertices_m - truth.vertices_m).abs().mean(),
    }
    if warm_up:
        losses["geodesic"] = weights.geodesic * geodesic(decoded, target).mean()
        losses["joints"] = weights.joints * (posed.joints_m - truth.joints_m).abs().mean()
    return losses


def geodesic(a: Float[Tensor, "*batch 3 3"], b: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Angle between rotations, radians; its gradient stays finite at zero and π (cosine clamped by 1e-7)."""
    cosine = ((a * b).sum(dim=(-2, -1)) - 1) / 2
    return cosine.clamp(-1 + 1e-7, 1 - 1e-7).acos()
