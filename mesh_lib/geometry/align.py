"""Aligning one point set with another."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def align_similarity(
    *, moving: Float[Tensor, "*batch points 3"], fixed: Float[Tensor, "*batch points 3"]
) -> Float[Tensor, "*batch points 3"]:
    """`moving`, rotated, scaled and shifted onto `fixed` by least squares (Umeyama, 1991); never mirrored."""
    moving_mean, fixed_mean = moving.mean(dim=-2, keepdim=True), fixed.mean(dim=-2, keepdim=True)
    a, b = moving - moving_mean, fixed - fixed_mean
    u, s, vt = torch.linalg.svd(a.mT @ b)
    sign = torch.linalg.det(u @ vt).sign()
    signs = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    rotation = u @ (signs[..., None] * vt)
    scale = (s * signs).sum(dim=-1) / a.square().sum(dim=(-2, -1)).clamp_min(1e-12)
    return scale[..., None, None] * (a @ rotation) + fixed_mean
