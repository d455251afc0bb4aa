"""A pinhole camera that looks at one person on the ground.

World frame: y up, the origin on the ground below the person. Camera frame: x right, y down, z away. Pixel (0, 0)
is the centre of the top-left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class View:
    size: int
    focal_px: float
    R_cam_world: Float[np.ndarray, "3 3"]
    origin_cam_m: Float[np.ndarray, " 3"]
    """The world's origin in the camera frame."""

    @property
    def princpt_px(self) -> tuple[float, float]:
        return ((self.size - 1) / 2, (self.size - 1) / 2)

    @property
    def up_cam(self) -> np.ndarray:
        return self.R_cam_world[:, 1]

    @cached_property
    def camera_world_m(self) -> np.ndarray:
        """Where the camera stands; its second number is its height."""
        return -self.R_cam_world.T @ self.origin_cam_m

    @cached_property
    def rays_world(self) -> Float[np.ndarray, "pixels 3"]:
        """Direction through each pixel's centre, row by row; not of unit length."""
        x, y = np.meshgrid(*(np.arange(self.size, dtype=np.float32),) * 2)
        cx, cy = self.princpt_px
        rays = np.stack([(x - cx) / self.focal_px, (y - cy) / self.focal_px, np.ones_like(x)], -1).reshape(-1, 3)
        return rays @ self.R_cam_world.astype(np.float32)

    def to_camera(self, points_world_m: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "*points 3"]:
        return points_world_m @ self.R_cam_world.T + self.origin_cam_m

    def project(self, points_cam_m: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "*points 2"]:
        depth = np.where(np.abs(points_cam_m[..., 2:]) < 1e-6, 1e-6, points_cam_m[..., 2:])
        return points_cam_m[..., :2] / depth * self.focal_px + np.array(self.princpt_px)


def camera_rotation(pitch_rad: float, roll_rad: float) -> Float[np.ndarray, "3 3"]:
    """World to camera for a camera that looks along the world's -z, `pitch_rad` downwards, rolled clockwise."""
    flip = np.diag([1.0, -1.0, -1.0])
    cp, sp, cr, sr = np.cos(pitch_rad), np.sin(pitch_rad), np.cos(roll_rad), np.sin(roll_rad)
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return roll @ pitch @ flip
