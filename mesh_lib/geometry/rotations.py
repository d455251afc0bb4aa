"""Rotations: the one place that touches roma. Rotation vectors in radians, matrices act on columns.

roma is imported where it is called: with it come all of torch's compiler, a second of every process that has no use for
rotations.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def rotvec_to_rotmat(rotvec: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Axis-angle to matrix; smooth at zero."""
    import roma

    return roma.rotvec_to_rotmat(rotvec)


def rotmat_to_rotvec(rotmat: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Matrix to axis-angle with angle in [0, π]; at π the axis' sign is arbitrary."""
    import roma

    return roma.rotmat_to_rotvec(rotmat)


def rot6d_to_rotmat(six: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """6D representation (Zhou et al., 2019) to matrix.

    The six numbers are a 3×2 matrix read row by row, whose columns a1, a2 go through Gram-Schmidt, as in
    Pose2Pose and SPIN: rot6d_to_rotmat([1, 0, 0, 1, 0, 0]) is the identity.
    """
    import roma

    return roma.special_gramschmidt(six.unflatten(-1, (3, 2)))


def mean_rotation(rotmats: Float[Tensor, "count *batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Chordal mean over the first axis: the rotation nearest to the mean matrix; NaN where that is not finite."""
    import roma

    mean = rotmats.mean(dim=0)
    known = mean.isfinite().all(dim=-1).all(dim=-1)[..., None, None]
    nearest = roma.special_procrustes(torch.where(known, mean, torch.eye(3).to(mean)))
    assert isinstance(nearest, Tensor)
    return torch.where(known, nearest, torch.nan)
