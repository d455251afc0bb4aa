"""Joint errors: one value a person, in millimetres or pixels, unreduced.

Roles: `predicted` is what is judged and what is moved; `target` is the truth, which never moves. A person with a
coordinate that is no finite number has the error NaN, and spoils nobody else's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mesh_lib.geometry.align import align_similarity

MM_PER_M = 1000.0
LARGEST_M = 1e15
"""Coordinates beyond it count as no numbers: their squares would overflow float32."""


def from_root(
    points_m: Float[Tensor, "*batch points 3"], *, root_m: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch points 3"]:
    """Points relative to a root: what predicted and target go through before an error "after root alignment"."""
    return points_m - root_m[..., None, :]


def procrustes(
    *, predicted_m: Float[Tensor, "*batch points 3"], target_m: Float[Tensor, "*batch points 3"]
) -> Float[Tensor, "*batch points 3"]:
    """The prediction, rotated, scaled and shifted onto the target by least squares (Umeyama, 1991); never mirrored.

    NaN for a person with a coordinate that is no number. Degenerate people have an answer too: a single point, or
    predicted points that coincide, lands on the target's mean; where the target's points coincide, so do the moved.
    """
    usable = ((predicted_m.abs() < LARGEST_M) & (target_m.abs() < LARGEST_M)).all(dim=-1).all(dim=-1)[..., None, None]
    # A number that is none would make the decomposition of the whole batch fail.
    moved_m = align_similarity(moving=torch.where(usable, predicted_m, 0.0), fixed=torch.where(usable, target_m, 0.0))
    return torch.where(usable, moved_m, torch.nan)


def mpjpe_mm(
    *, predicted_m: Float[Tensor, "*batch joints 3"], target_m: Float[Tensor, "*batch joints 3"]
) -> Float[Tensor, "*batch"]:
    """Mean joint distance, as the points stand: align the roots before where the protocol does (MPJPE).

    Ionescu et al., 2014, equation 8. Metres in, millimetres out.
    """
    return _numbers((predicted_m - target_m).norm(dim=-1).mean(dim=-1) * MM_PER_M)


def pa_mpjpe_mm(
    *, predicted_m: Float[Tensor, "*batch joints 3"], target_m: Float[Tensor, "*batch joints 3"]
) -> Float[Tensor, "*batch"]:
    """Mean joint distance once the *prediction* is rotated, scaled and shifted onto the target (PA-MPJPE).

    The error of Three Recipes' tables. Metres in, millimetres out; degenerate people: see `procrustes`.
    """
    return mpjpe_mm(predicted_m=procrustes(predicted_m=predicted_m, target_m=target_m), target_m=target_m)


def axis_errors_mm(
    *, predicted_m: Float[Tensor, "*batch joints 3"], target_m: Float[Tensor, "*batch joints 3"]
) -> Float[Tensor, "*batch 3"]:
    """Mean absolute error along x, y and z (depth) of the camera's frame, as the points stand; millimetres.

    As with `mpjpe_mm`, the caller aligns the roots.
    """
    return _numbers((predicted_m - target_m).abs().mean(dim=-2) * MM_PER_M)


def pa_axis_errors_mm(
    *, predicted_m: Float[Tensor, "*batch joints 3"], target_m: Float[Tensor, "*batch joints 3"]
) -> Float[Tensor, "*batch 3"]:
    """The three numbers in parentheses of Three Recipes' Tables 3, 9 and 10: x, y, z after Procrustes; millimetres.

    The paper does not say which mean of them it takes. Its numbers do: the mean distance is never less than the length
    of (x, y, z) where these are mean absolute errors, and never more where they are root mean squares; SPIN's 59.6 is
    more than the 52.1 of (21.6, 24.2, 40.8), and so are all other rows.
    """
    return axis_errors_mm(predicted_m=procrustes(predicted_m=predicted_m, target_m=target_m), target_m=target_m)


def reprojection_px(
    *,
    predicted_px: Float[Tensor, "*batch joints 2"],
    target_px: Float[Tensor, "*batch joints 2"],
    visible: Float[Tensor, "*batch joints"],
) -> Float[Tensor, "*batch"]:
    """2D annotation error (NeuralAnnot, Tables 2, 4, 5 and 8): mean distance over the visible joints, pixels.

    `visible` is above 0 for labelled joints; what the others hold does not count. NaN for a person who has none, or a
    visible joint that is no number. Pixels are those of the arguments: of the whole picture in our labels.
    """
    seen = visible > 0
    distance = torch.where(seen, (predicted_px - target_px).norm(dim=-1), 0.0)
    return _numbers(distance.sum(dim=-1) / seen.sum(dim=-1))


def acceleration_error_mm(
    *,
    predicted_m: Float[Tensor, "*batch frames joints 3"],
    target_m: Float[Tensor, "*batch frames joints 3"],
    valid: Float[Tensor, "*batch frames"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Acceleration error of a person through a sequence: mean distance of the joints' second differences.

    Kanazawa et al., 2019 (HMMR). Metres in; millimetres per squared frame out: times the squared frames per second for
    mm/s². Roots are aligned before, where the protocol does. Frames whose `valid` is 0, and the two that they make a
    difference with, do not count; NaN where no three frames in a row are left.
    """
    error_m = predicted_m - target_m
    error_m = (error_m[..., 2:, :, :] - 2 * error_m[..., 1:-1, :, :] + error_m[..., :-2, :, :]).norm(dim=-1)
    per_frame = error_m.mean(dim=-1) * MM_PER_M
    if valid is None:
        return _numbers(per_frame.mean(dim=-1))
    known = valid > 0
    whole = known[..., 2:] & known[..., 1:-1] & known[..., :-2]
    return _numbers(torch.where(whole, per_frame, 0.0).sum(dim=-1) / whole.sum(dim=-1))


def _numbers(errors: Tensor) -> Tensor:
    """NaN in place of what is infinite: an error that no mean should be taken of."""
    return torch.where(errors.isfinite(), errors, torch.nan)
