"""How much of a body's surface lies inside the body: one value a person. No truth is needed.

Three Recipes names two kinds of implausible articulation: penetration, measured here, and joints turned out of their
range, measured in joint_limits.py.

What counts. The winding number of a closed surface about a point says how many times the surface goes round it: 0
outside, 1 inside, 2 where the body lies in itself. A vertex has gone into the body where the point just outside of its
skin has a winding number above 0. This was chosen over a count of intersecting faces: intersections lie on a curve, so
that a hand wholly inside the belly has hardly any, while its whole surface is inside. Vertices count by the area of
their skin at rest, so that dense faces and hands weigh no more than they are large, and bodies with different meshes
can be compared. What lies inside at rest already (eyeballs, the tongue) is left out.

Blend skinning folds armpits, elbows and knees into themselves in healthy poses too: compare with the value of true
poses, not with 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation
from torch import Tensor

from mesh_lib.body.files import Body

SKIN_M = 1e-4
"""How far outside of its vertex a point is tested: deeper than rounding, thinner than any gap that matters."""
PAIRS = 2_000_000
"""Points and triangles that are looked at together: some 200 MB."""
_TURN = Rotation.from_euler("xyz", (25.3, 37.7, 14.9), degrees=True).as_matrix()
"""Rays go along its last column: askew to a body's own planes, whose edges they would meet."""


class SelfPenetration:
    """Of bodies that share the faces of one closed mesh. Raises ValueError for a mesh that is not closed."""

    def __init__(self, body: Body) -> None:
        self.faces = body.faces.astype(np.int64)
        vertices = len(body.v_template)
        _check_closed(self.faces, name=body.name)
        corners = np.ravel(self.faces)
        at = np.repeat(np.arange(len(self.faces)), 3)
        self._faces_of = scipy.sparse.csr_matrix((np.ones(len(at)), (corners, at)), shape=(vertices, len(self.faces)))
        area = self._faces_of @ np.linalg.norm(self._normals(body.v_template), axis=1)
        weight = np.where(self.inside(body.v_template), 0.0, area)
        self.weight: np.ndarray = weight / weight.sum()
        """(V,): share of the skin at rest that each vertex stands for; 0 for what lies inside."""

    def percent(self, vertices_m: Float[Tensor, "*batch vertices 3"]) -> Float[Tensor, "*batch"]:
        """Percentage of each person's surface that lies inside of the body; NaN for a mesh that is not finite."""
        flat = vertices_m.detach().cpu().double().numpy().reshape(-1, *vertices_m.shape[-2:])
        if flat.shape[1] != len(self.weight):
            raise ValueError(f"meshes of {flat.shape[1]} vertices; the body has {len(self.weight)}")
        shares = [float(self.weight @ self.inside(mesh)) if np.isfinite(mesh).all() else np.nan for mesh in flat]
        return torch.tensor(shares, dtype=torch.float64).to(vertices_m).reshape(vertices_m.shape[:-2]) * 100

    def inside(self, vertices_m: Float[np.ndarray, "vertices 3"]) -> Bool[np.ndarray, " vertices"]:
        """Which vertices of a mesh lie inside of it."""
        outward = self._faces_of @ self._normals(vertices_m)
        length = np.linalg.norm(outward, axis=1, keepdims=True)
        points = vertices_m + SKIN_M * outward / np.where(length > 0, length, 1.0)
        return winding_numbers(points, vertices_m=vertices_m, faces=self.faces) > 0

    def _normals(self, vertices_m: np.ndarray) -> np.ndarray:
        """(F, 3), as long as the triangles are large."""
        a, b, c = vertices_m[self.faces.T]
        return np.cross(b - a, c - a)


def winding_numbers(
    points_m: Float[np.ndarray, "points 3"],
    *,
    vertices_m: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
) -> Int[np.ndarray, " points"]:
    """How many times a closed mesh, its faces outwards, goes round each point; points on the surface are undefined.

    Counts where a ray from the point leaves the body (+1) and enters it (-1). Seen along the ray a triangle is flat,
    and a grid finds those before a point. Two triangles decide by the very same number on which side of their common
    edge a point lies, so that no ray slips through between them or meets both.
    """
    centre = vertices_m.mean(axis=0)
    corners, points = (vertices_m - centre) @ _TURN, (points_m - centre) @ _TURN
    grid = _Grid(corners[faces])
    count = np.zeros(len(points), np.int64)
    for some, triangles in grid.candidates(points):
        above = _crossings(points[some], corners, faces[triangles])
        count += np.bincount(some, weights=above, minlength=len(points)).astype(np.int64)
    return count


def _crossings(points: np.ndarray, corners: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """For each pair of a point and a triangle 1, -1 or 0: the ray up from it leaves the body there, enters it, misses.

    The three edge functions have one sign where the point lies in the projected triangle: positive for one that looks
    along the ray.
    """
    px, py = points[:, 0], points[:, 1]
    x, y, z = corners.T
    sides = []
    for start, end in ((1, 2), (2, 0), (0, 1)):
        a, b = faces[:, start], faces[:, end]
        low, high = np.minimum(a, b), np.maximum(a, b)  # the same order in both triangles of the edge
        side = (x[high] - x[low]) * (py - y[low]) - (y[high] - y[low]) * (px - x[low])
        sides.append((side, (side >= 0) == (a < b)))
    (at_a, left_a), (at_b, left_b), (at_c, left_c) = sides
    hit = np.flatnonzero((left_a == left_b) & (left_b == left_c))
    out = np.zeros(len(points))
    weights = np.abs(np.stack([at_a[hit], at_b[hit], at_c[hit]]))
    total = weights.sum(axis=0)
    height = (weights * z[faces[hit].T]).sum(axis=0) / np.where(total > 0, total, 1.0)
    out[hit] = np.where((height > points[hit, 2]) & (total > 0), np.where(left_a[hit], 1, -1), 0)
    return out


class _Grid:
    """Squares of the plane, each with the triangles (F, 3, 3) whose bounding boxes touch it."""

    def __init__(self, triangles: np.ndarray) -> None:
        low, high = triangles.min(axis=1), triangles.max(axis=1)
        self.left, self.below, self.right, self.above, self.top = *low.T[:2], *high.T
        self.origin = low[:, :2].min(axis=0)
        # Half of a triangle's size keeps both counts small: squares a triangle, triangles a square.
        self.side = max(float(np.sqrt(np.square(high - low)[:, :2].mean())) / 2, 1e-9)
        first = self._square(low)
        spans = self._square(high) - first + 1
        self.shape = (first + spans).max(axis=0)
        which = np.repeat(np.arange(len(triangles)), spans.prod(axis=1))
        rank = _ranks(spans.prod(axis=1))
        column, row = rank // spans[which, 1], rank % spans[which, 1]
        square = (first[which, 0] + column) * self.shape[1] + first[which, 1] + row
        order = np.argsort(square, kind="stable")
        self.triangles = which[order]
        self.start = np.searchsorted(square[order], np.arange(self.shape.prod() + 1))

    def candidates(self, points: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs (points, triangles) whose triangle's bounding box the ray up from the point meets; PAIRS at a time."""
        at = self._square(points)
        covered = np.flatnonzero(((at >= 0) & (at < self.shape)).all(axis=1))
        square = at[covered, 0] * self.shape[1] + at[covered, 1]
        begin, number = self.start[square], self.start[square + 1] - self.start[square]
        part = np.cumsum(number) // PAIRS
        for chunk in range(int(part[-1]) + 1 if len(part) else 0):
            some = np.flatnonzero(part == chunk)
            point = np.repeat(covered[some], number[some])
            triangle = self.triangles[np.repeat(begin[some], number[some]) + _ranks(number[some])]
            x, y, z = points[point].T
            meets = (self.left[triangle] <= x) & (x <= self.right[triangle]) & (z <= self.top[triangle])
            point, triangle, y = point[meets], triangle[meets], y[meets]
            meets = (self.below[triangle] <= y) & (y <= self.above[triangle])
            yield point[meets], triangle[meets]

    def _square(self, points: np.ndarray) -> np.ndarray:
        return np.floor((points[:, :2] - self.origin) / self.side).astype(np.int64)


def _ranks(counts: np.ndarray) -> np.ndarray:
    """0, 1, … count - 1 for each count, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _check_closed(faces: np.ndarray, *, name: str) -> None:
    """Raises ValueError where an edge has not one face on each side, or the mesh has no faces."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward, counts = np.unique(edges, axis=0, return_counts=True)
    back = np.unique(edges[:, ::-1], axis=0)
    if not len(faces) or (counts > 1).any() or not np.array_equal(forward, back):
        raise ValueError(
            f"the mesh of {name} is not closed: some edges do not have one face on each side\n"
            "  why: inside and outside are told by a closed surface (SMPL's and the open body's are; hands and heads\n"
            "       cut off at the wrist or the neck are not)"
        )
