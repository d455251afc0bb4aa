"""The pinhole camera of a sequence whose owners give points in its frame and in its pixels, but not its intrinsics."""

from __future__ import annotations

import numpy as np

from mesh_lib.datasets.people import Camera

ROUNDS = 20
LEAST_POINTS = 4


def fit_camera(points_m: np.ndarray, pixels: np.ndarray) -> Camera | None:
    """Focal length and principal point that take (N, 3) points to (N, 2) pixels; None where the points say too little.

    Each axis is a line: u = f x / z + c. It is fitted by least squares, again and again without the points that lie
    further than three median distances from it, so that a joint that is labelled wrongly in all frames does no harm.
    """
    known = np.isfinite(points_m).all(axis=1) & np.isfinite(pixels).all(axis=1) & (points_m[:, 2] > 0)
    points_m, pixels = points_m[known], pixels[known]
    if len(points_m) < LEAST_POINTS:
        return None
    slopes = points_m[:, :2] / points_m[:, 2:]
    lines = [_line(slopes[:, axis], pixels[:, axis]) for axis in range(2)]
    focal, princpt = np.array([line[0] for line in lines]), np.array([line[1] for line in lines])
    if not (np.isfinite(princpt).all() and (focal > 0).all()):
        return None
    return Camera(focal_px=focal, princpt_px=princpt)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    keep = np.ones(len(x), bool)
    slope = offset = 0.0
    for _ in range(ROUNDS):
        spread = float(np.var(x[keep]))
        if not spread > 0:
            return float("nan"), float("nan")
        x_mean, y_mean = float(x[keep].mean()), float(y[keep].mean())
        slope = float(((x[keep] - x_mean) * (y[keep] - y_mean)).mean()) / spread
        offset = y_mean - slope * x_mean
        distance = np.abs(slope * x + offset - y)
        closer = distance <= 3 * np.median(distance) + 1e-9
        if (closer == keep).all():
            break
        keep = closer
    return slope, offset
