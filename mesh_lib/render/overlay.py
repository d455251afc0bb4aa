"""Meshes drawn over pictures, and beside them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8

from mesh_lib.render.raster import Hits, cast, interpolate, vertex_normals

SKIN = (142, 190, 235)
PAPER = (246, 247, 249)
LIGHT = np.array([0.35, -0.55, -0.75]) / np.linalg.norm([0.35, -0.55, -0.75])
"""Towards the light: over the viewer's right shoulder."""


def overlay(
    image: UInt8[np.ndarray, "height width 3"],
    vertices_cam_m: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    *,
    focal_px: np.ndarray,
    princpt_px: np.ndarray,
    opacity: float = 0.85,
) -> UInt8[np.ndarray, "height width 3"]:
    """The shaded mesh over the picture."""
    size = (image.shape[1], image.shape[0])
    hits = cast(vertices_cam_m, faces, focal_px=focal_px, princpt_px=princpt_px, size_wh=size)
    shaded = shade(hits, vertices_cam_m, faces)
    mask = hits.mask[..., None] * opacity
    return (image * (1 - mask) + shaded * mask).astype(np.uint8)


def side_view(
    vertices_cam_m: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    *,
    focal_px: np.ndarray,
    princpt_px: np.ndarray,
    size_wh: tuple[int, int],
) -> UInt8[np.ndarray, "height width 3"]:
    """The mesh turned a quarter about the vertical through its middle, at the same scale, on plain paper.

    Seen from the picture's right side: what was deep is now to the right, a face that looked at us looks left.
    """
    middle = (vertices_cam_m.min(axis=0) + vertices_cam_m.max(axis=0)) / 2
    x, y, z = (vertices_cam_m - middle).T
    turned = np.stack([z, y, -x], axis=1) + [0.0, 0.0, middle[2]]
    turned[:, 1] += middle[1]
    centre = np.array([size_wh[0] / 2, np.asarray(princpt_px)[1]])
    hits = cast(turned, faces, focal_px=focal_px, princpt_px=centre, size_wh=size_wh)
    out = np.empty((size_wh[1], size_wh[0], 3), np.uint8)
    out[:] = PAPER
    out[hits.mask] = shade(hits, turned, faces)[hits.mask]
    return out


def shade(
    hits: Hits,
    vertices_cam_m: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    colour: tuple[int, int, int] = SKIN,
) -> UInt8[np.ndarray, "height width 3"]:
    """One colour under one soft light; black where nothing is hit."""
    normals = interpolate(hits, faces, vertex_normals(vertices_cam_m, faces))
    diffuse = np.clip((normals @ LIGHT + 0.25) / 1.25, 0, 1)
    return ((0.35 + 0.65 * diffuse)[..., None] * np.array(colour) * hits.mask[..., None]).astype(np.uint8)
