"""Where the camera stands: fixed rigs in a studio; in a street any lens, height and angle that shows the person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mesh_lib.world.view import View, camera_rotation

Placed = tuple[View, np.ndarray, int]
"""The view, the pelvis in the camera frame, and which fixed rig and room (studio only)."""

STUDIO_ROOMS = 3
_STUDIO_RIGS = ((1.7, 4.4, 1.4, 5.5), (1.6, 4.1, 1.6, 9.0), (1.75, 4.4, 1.0, 0.5), (1.7, 4.3, 2.3, 18.0))
"""Focal length in picture widths, distance and height in metres, pitch in degrees."""
FEWEST_INSIDE = 10


@dataclass(frozen=True)
class Figure:
    """A posed body in a y-up world frame, its pelvis at the origin."""

    vertices_m: Float[np.ndarray, "vertices 3"]
    keypoints_m: Float[np.ndarray, "keypoints 3"]
    joints_m: Float[np.ndarray, "joints 3"]
    root_m: Float[np.ndarray, " 3"]
    """Pelvis of the shaped body before any translation: the point that its root rotation leaves in place."""
    lifts: bool
    """In the air."""


def place_in_studio(rng: np.random.Generator, figure: Figure, *, size: int, activity: str) -> Placed:
    """One of four fixed cameras; the person moves about the middle of the room."""
    room, rig = int(rng.integers(STUDIO_ROOMS)), int(rng.integers(len(_STUDIO_RIGS)))
    widths, distance, height, pitch = _STUDIO_RIGS[rig]
    rotation = camera_rotation(np.deg2rad(pitch), 0.0)
    eye = np.array([0.0, height, distance])
    view = View(size, widths * size, rotation, -rotation @ eye)
    lift = rng.uniform(0.05, 0.3) if figure.lifts else 0.0
    spot = np.array([rng.uniform(-0.45, 0.45), lift - figure.vertices_m[:, 1].min(), rng.uniform(-0.9, 0.4)])
    return view, view.to_camera(spot), rig * STUDIO_ROOMS + room


def place_in_street(rng: np.random.Generator, figure: Figure, *, size: int, activity: str) -> Placed:
    """Any camera that shows at least FEWEST_INSIDE keypoints and stands above the ground."""
    lift = rng.uniform(0.05, 0.45) if figure.lifts else 0.0
    focal = size * float(np.exp(rng.uniform(np.log(0.9), np.log(2.6))))
    pitch, roll = _street_angles(rng, activity)
    fraction = rng.uniform(1.0, 1.6) if rng.random() < 0.15 else rng.uniform(0.5, 0.95)
    shift = rng.uniform(-1, 1, 2)
    for attempt in range(8):
        rotation = camera_rotation(np.deg2rad(pitch), np.deg2rad(roll))
        root = _frame(figure.vertices_m @ rotation.T, focal, fraction, shift * size, size)
        ground = figure.vertices_m[:, 1].min() - lift
        view = View(size, focal, rotation, root + rotation[:, 1] * ground)
        if view.camera_world_m[1] < 0.25:  # below the ground: look down instead
            pitch = max(pitch, 0.0) + 6.0
            continue
        pixels = view.project(figure.keypoints_m @ rotation.T + root)
        if ((pixels >= 0) & (pixels <= size - 1)).all(1).sum() >= FEWEST_INSIDE or attempt == 7:
            break
        fraction, shift = fraction * 0.85, shift * 0.5
    return view, root, 0


def _street_angles(rng: np.random.Generator, activity: str) -> tuple[float, float]:
    pitch = rng.normal(4, 6) if rng.random() < 0.7 else rng.uniform(8, 42)
    if activity == "lie":
        pitch = rng.uniform(10, 50)
    roll = rng.normal(0, 10) if rng.random() < 0.1 else rng.normal(0, 2.5)
    return float(pitch), float(roll)


def _frame(points_m: np.ndarray, focal: float, fraction: float, shift_px: np.ndarray, size: int) -> np.ndarray:
    """Pelvis position that makes the figure fill `fraction` of the picture, off the middle by a share of `shift_px`."""
    low, high = points_m.min(0), points_m.max(0)
    depth = focal * float((high - low)[:2].max()) / (fraction * size)
    depth = max(depth, 0.6 - float(low[2]))
    room = max(0.5 * (1 - fraction), 0.08) + max(0.0, 0.5 * (fraction - 0.9))
    middle = (low + high)[:2] / 2
    # people in truncated pictures are more often cut at the feet than at the head
    offset = shift_px * room + np.array([0.0, max(0.0, fraction - 1) * 0.25 * size])
    return np.array([*(offset * depth / focal - middle), depth])
