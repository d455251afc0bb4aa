"""Joint errors: one value a person, in millimetres or pixels, unreduced."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mesh_lib.geometry.align import align_similarity

MM_PER_M = 1000.0


def mpjpe_mm(
    *, predicted_m: Float[Tensor, "*batch joints 3"], target_m: Float[Tensor, "*batch joints 3"]
) -> Float[Tensor, "*batch"]:
    """Mean joint distance, as the points stand: align the roots before where the protocol does."""
    return (predicted_m - target_m).norm(dim=-1).mean(dim=-1) * MM_PER_M


def pa_mpjpe_mm(
    *, predicted_m: Float[Tensor, "*batch joints 3"], target_m: Float[Tensor, "*batch joints 3"]
) -> Float[Tensor, "*batch"]:
    """Mean joint distance once the *prediction* is rotated, scaled and shifted onto the target (PA-MPJPE)."""
    return mpjpe_mm(predicted_m=align_similarity(moving=predicted_m, fixed=target_m), target_m=target_m)


def reprojection_px(
    *,
    predicted_px: Float[Tensor, "*batch joints 2"],
    target_px: Float[Tensor, "*batch joints 2"],
    visible: Float[Tensor, "*batch joints"],
) -> Float[Tensor, "*batch"]:
    """Mean distance over the visible joints; NaN for a person who has none."""
    weight = (visible > 0).to(predicted_px.dtype)
    distance = (predicted_px - target_px).nan_to_num().norm(dim=-1)
    return (distance * weight).sum(dim=-1) / weight.sum(dim=-1)
