"""Mesh errors: one value a person. Both meshes have the same vertices in the same order, in metres."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mesh_lib.metrics.joints import MM_PER_M, mpjpe_mm, pa_mpjpe_mm

F_THRESHOLDS_MM = (5.0, 15.0)
"""FreiHAND's F@5 and F@15."""


def mpvpe_mm(
    *, predicted_m: Float[Tensor, "*batch vertices 3"], target_m: Float[Tensor, "*batch vertices 3"]
) -> Float[Tensor, "*batch"]:
    """Mean vertex distance, as the meshes stand: align the roots before where the protocol does (MPVPE, also PVE).

    Pavlakos et al., 2018; I2L-MeshNet, Table 14. Metres in, millimetres out; NaN for a mesh that is not finite.
    """
    return mpjpe_mm(predicted_m=predicted_m, target_m=target_m)


def pa_mpvpe_mm(
    *, predicted_m: Float[Tensor, "*batch vertices 3"], target_m: Float[Tensor, "*batch vertices 3"]
) -> Float[Tensor, "*batch"]:
    """Mean vertex distance once the *predicted* mesh is rotated, scaled and shifted onto the target (PA-MPVPE).

    I2L-MeshNet, Table 7. The alignment is that of all vertices, not of the joints. Metres in, millimetres out;
    degenerate meshes: see `joints.procrustes`.
    """
    return pa_mpjpe_mm(predicted_m=predicted_m, target_m=target_m)


def f_score(
    *,
    predicted_m: Float[Tensor, "*batch predicted 3"],
    target_m: Float[Tensor, "*batch target 3"],
    threshold_mm: float,
) -> Float[Tensor, "*batch"]:
    """F-score of two surfaces at a distance, 0 to 1 (Knapitsch et al., 2017; FreiHAND: 5 and 15 mm, I2L's Table 7).

    Precision is the share of predicted vertices with a target vertex nearer than the threshold, recall the share of
    target vertices with a predicted one; F is their harmonic mean, 0 where both are 0. As the points stand: FreiHAND's
    published numbers are those of Procrustes-aligned meshes. NaN for a person who is not finite, or has no points.
    """
    if not threshold_mm > 0:
        raise ValueError(f"threshold_mm is above 0; it is {threshold_mm}")
    batch = predicted_m.shape[:-2]
    predicted, target = predicted_m.flatten(0, -3) if batch else predicted_m[None], target_m
    target = target_m.flatten(0, -3) if batch else target_m[None]
    scores = [_f_score(ours, theirs, threshold_mm / MM_PER_M) for ours, theirs in zip(predicted, target, strict=True)]
    return torch.stack(scores).reshape(batch) if scores else predicted_m.new_zeros(batch)


def _f_score(predicted: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Of one person: all distances of a body at a time take 380 MB, of a batch they would not fit."""
    if not (len(predicted) and len(target) and predicted.isfinite().all() and target.isfinite().all()):
        return predicted.new_tensor(torch.nan)
    # Exact differences: the faster product of matrices loses millimetres to rounding far from the origin.
    distance = torch.cdist(predicted, target, compute_mode="donot_use_mm_for_euclid_dist")
    precision = (distance.amin(dim=1) < threshold).to(distance.dtype).mean()
    recall = (distance.amin(dim=0) < threshold).to(distance.dtype).mean()
    both = precision + recall
    return torch.where(both > 0, 2 * precision * recall / both, 0.0)
