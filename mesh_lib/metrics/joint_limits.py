"""Joints turned out of their anatomical range: how far, and how many of a person's. No truth is needed.

Three Recipes names two kinds of implausible articulation: penetration (penetration.py) and "out of possible range of
3D joint rotations", measured here against the project's own table of limits, mesh_lib/world/poses.py.

How far a joint is out is the smallest angle by which it would have to turn to be within: the distance to the nearest
allowed rotation. Differences of angles about axes would not do: a rotation has two sets of them, and near gimbal lock
none that is stable.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mesh_lib.body.joints import SMPL24, VPOSER21
from mesh_lib.world.poses import JOINT_LIMITS

TOLERANCE_DEG = 5.0
"""A joint violates its limits from here on: the table is of everyday poses (a T-pose's arms are out by 4 degrees)."""
SLACK = math.radians(0.01)
"""A joint is within its range where its angles are so nearly: generated poses lie on the table's edges, in float32."""
COARSE, KEPT, ZOOMS = 13, 4, 9
"""The search's grid of two angles, the places that it goes on from, how often it halves its steps: to 0.02 degrees."""
CHUNK = 4096

_JOINTS = SMPL24.indices(VPOSER21.names)
_AXES = torch.tensor([["xyz".index(axis) for axis in JOINT_LIMITS[name].axes] for name in VPOSER21.names])
_LOW, _HIGH = torch.deg2rad(
    torch.tensor([JOINT_LIMITS[name].ranges_deg for name in VPOSER21.names], dtype=torch.float64)
).unbind(dim=-1)


def _products() -> Tensor:
    """(joints, 3, 3, 3, 3, 3): the matrices whose sum over (1, cos, sin) of the three angles is the joint's turn."""
    unit = torch.eye(3, dtype=torch.float64)
    along = torch.einsum("ia,ib->iab", unit, unit)
    cross = torch.linalg.cross(unit[:, None].expand(3, 3, 3), unit[None].expand(3, 3, 3)).mT
    waves = torch.stack([along, unit - along, cross], dim=1)  # (axis, wave, 3, 3)
    return torch.einsum("jpab,jqbc,jrcd->jpqrad", *(waves[_AXES[:, i]] for i in range(3)))


_PRODUCTS = _products()


def joint_limit_excess_deg(rotmats: Float[Tensor, "*batch 24 3 3"]) -> Float[Tensor, "*batch 21"]:
    """Degrees by which each joint of VPOSER21 is turned out of its range; 0 within.

    `rotmats` are SMPL24's, each relative to its parent, as the body layer takes them; the root and the hands' two have
    no range and are not looked at. NaN for a joint whose matrix is not finite.
    """
    turns = rotmats[..., _JOINTS, :, :].double()
    known = turns.isfinite().all(dim=-1).all(dim=-1)
    low, high = _LOW.to(turns.device), _HIGH.to(turns.device)
    within = torch.stack([(_off(angles, low, high) < SLACK).all(dim=-1) for angles in _euler(turns)]).any(dim=0)
    excess = torch.where(known, 0.0, torch.nan).to(turns)
    out = known & ~within
    joints = torch.arange(len(low), device=turns.device).expand(out.shape)[out]
    found = [_search(*some) for some in zip(turns[out].split(CHUNK), joints.split(CHUNK), strict=True)]
    excess[out] = torch.rad2deg(torch.cat(found))
    return excess.to(rotmats.dtype)


def joint_limit_violations_percent(
    rotmats: Float[Tensor, "*batch 24 3 3"], *, tolerance_deg: float = TOLERANCE_DEG
) -> Float[Tensor, "*batch"]:
    """Percentage of a person's 21 joints that are turned out of their range by more than the tolerance.

    NaN for a person with a matrix that is not finite.
    """
    excess = joint_limit_excess_deg(rotmats)
    share = (excess > tolerance_deg).to(rotmats.dtype).mean(dim=-1) * 100
    return torch.where(excess.isfinite().all(dim=-1), share, torch.nan)


def _search(turns: Tensor, joints: Tensor) -> Tensor:
    """(turns, 3, 3), (turns,) which joints → (turns,) angle to the nearest turn within the limits, in radians.

    The trace of the transposed turn times an allowed one, greatest where they agree, is linear in (1, cos, sin) of each
    of the three angles. Of the last two a grid is looked at, which zooms in on its best places; the first angle is
    exact.
    """
    form = torch.einsum("npqrab,nab->npqr", _PRODUCTS.to(turns.device)[joints], turns)
    low, high = _LOW.to(turns.device)[joints], _HIGH.to(turns.device)[joints]
    grid = torch.linspace(-1, 1, COARSE, dtype=turns.dtype, device=turns.device)
    middle, half = (low[:, None, 1:] + high[:, None, 1:]) / 2, (high[:, None, 1:] - low[:, None, 1:]) / 2
    places = middle + half * torch.cartesian_prod(grid, grid)
    step = 2 * half / (COARSE - 1)
    around = torch.cartesian_prod(*[torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]).to(turns)] * 2)
    for zoom in range(ZOOMS + 1):
        if zoom:
            places = (places[:, :, None] + step[:, None] * around).flatten(1, 2)
            places = torch.minimum(torch.maximum(places, low[:, None, 1:]), high[:, None, 1:])
            step = step / 2
        agreement = _agreement(form, places, low[:, 0, None], high[:, 0, None])
        # Of each place's surroundings the best, so that the places do not run together.
        groups = agreement.unflatten(1, (KEPT, -1)) if zoom else agreement[:, None]
        best = groups.topk(1 if zoom else KEPT, dim=2).indices
        offset = torch.arange(groups.shape[1], device=turns.device)[:, None] * groups.shape[2]
        index = (best + offset).flatten(1)
        places = places.gather(1, index[..., None].expand(-1, -1, 2))
    return torch.acos(((agreement.amax(dim=1) - 1) / 2).clamp(-1, 1))


def _agreement(form: Tensor, places: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(turns, places) traces at the best first angle, for each (turns, places, 2) of the other two."""
    second, third = (_waves(places[..., i]) for i in range(2))
    constant, cosine, sine = torch.einsum("npqr,nkq,nkr->pnk", form, second, third)
    first = _clamp(torch.atan2(sine, cosine), low, high)
    return constant + cosine * first.cos() + sine * first.sin()


def _waves(angles: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(angles), angles.cos(), angles.sin()], dim=-1)


def _clamp(angle: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Into [low, high], the short way round the circle."""
    middle = (low + high) / 2
    off = torch.remainder(angle - middle + math.pi, 2 * math.pi) - math.pi
    return middle + off.clamp(min=(low - high) / 2, max=(high - low) / 2)


def _off(angle: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How far out of [low, high], the short way round the circle."""
    middle = (low + high) / 2
    return (torch.remainder(angle - middle + math.pi, 2 * math.pi) - math.pi).abs() - (high - low) / 2


def _euler(turns: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets of angles (…, joints, 3) about the joints' axes."""
    first, second, third = _AXES.to(turns.device).unbind(dim=1)
    proper = first == third
    other = torch.where(proper, 3 - first - second, third)
    parity = torch.where((second - first) % 3 == 1, 1.0, -1.0).to(turns)
    joints = torch.arange(len(first), device=first.device)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return turns[..., joints, row, column]

    plain = torch.stack(
        [
            torch.atan2(-parity * at(second, other), at(other, other)),
            torch.asin((parity * at(first, other)).clamp(-1, 1)),
            torch.atan2(-parity * at(first, second), at(first, first)),
        ],
        dim=-1,
    )
    twice = torch.stack(
        [
            torch.atan2(at(second, first), -parity * at(other, first)),
            torch.acos(at(first, first).clamp(-1, 1)),
            torch.atan2(at(first, second), parity * at(first, other)),
        ],
        dim=-1,
    )
    pi = torch.tensor(math.pi).to(turns)
    turned_plain = torch.stack([plain[..., 0] + pi, pi - plain[..., 1], plain[..., 2] + pi], dim=-1)
    turned_twice = torch.stack([twice[..., 0] + pi, -twice[..., 1], twice[..., 2] + pi], dim=-1)
    which = proper[:, None]
    return torch.where(which, twice, plain), torch.where(which, turned_twice, turned_plain)
