"""Loss of the 2D pose network: squared error against a Gaussian a joint (Xiao et al., 2018)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mesh_lib.nets.pose2d import HEATMAP_STRIDE

SIGMA = 2.0
"""Of the Gaussians, in bins."""


def gaussian_heatmaps(
    joints_crop_px: Float[Tensor, "batch joints 2"], *, heatmap_size: tuple[int, int]
) -> Float[Tensor, "batch joints height width"]:
    """exp(-d²/2σ²) about the bin nearest to each joint, cut off at 3σ in x and y as published."""
    width, height = heatmap_size
    centre = (joints_crop_px / HEATMAP_STRIDE + 0.5).floor()
    reach = 3 * SIGMA

    def along(size: int, axis: int) -> Tensor:
        distance = torch.arange(size, device=centre.device) - centre[..., axis, None]
        return torch.exp(-distance.square() / (2 * SIGMA**2)) * (distance.abs() <= reach)

    return along(height, 1)[..., :, None] * along(width, 0)[..., None, :]


def pose2d_loss(
    heatmaps: Float[Tensor, "batch joints height width"],
    joints_crop_px: Float[Tensor, "batch joints 2"],
    valid: Float[Tensor, "batch joints"],
) -> Float[Tensor, ""]:
    """Half the mean squared error over all bins of all joints; a joint unknown, or whose Gaussian lies wholly outside,
    counts as met."""
    size = heatmaps.shape[3], heatmaps.shape[2]
    target = gaussian_heatmaps(joints_crop_px, heatmap_size=size)
    seen = valid * (target.flatten(2).amax(dim=2) > 0)
    return 0.5 * ((heatmaps - target).square() * seen[..., None, None]).mean()
