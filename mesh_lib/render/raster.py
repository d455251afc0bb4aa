"""Ray casting with embree: which triangle each pixel sees, at what depth. No OpenGL, no display.

Camera frame: x right, y down, z away; metres. Pixel (0, 0) is the centre of the top-left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Hits:
    """What every pixel of an image sees."""

    face: Int[np.ndarray, "height width"]
    """Triangle index, -1 for none."""
    depth_m: Float[np.ndarray, "height width"]
    """Distance along z, infinite for none."""
    barycentric: Float[np.ndarray, "height width 3"]
    """Weights of the triangle's three corners; zero for none."""

    @property
    def mask(self) -> np.ndarray:
        return self.face >= 0


def cast(
    vertices_cam_m: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    *,
    focal_px: np.ndarray,
    princpt_px: np.ndarray,
    size_wh: tuple[int, int],
) -> Hits:
    """Cast one ray through each pixel that may see the mesh: inside its projection."""
    width, height = size_wh
    hits = Hits(
        face=np.full((height, width), -1, np.int32),
        depth_m=np.full((height, width), np.inf, np.float32),
        barycentric=np.zeros((height, width, 3), np.float32),
    )
    focal, centre = np.asarray(focal_px, np.float64), np.asarray(princpt_px, np.float64)
    left, top, right, bottom = _window(vertices_cam_m, focal, centre, size_wh)
    if right <= left or bottom <= top:
        return hits
    xs = (np.arange(left, right) - centre[0]) / focal[0]
    ys = (np.arange(top, bottom) - centre[1]) / focal[1]
    rays = np.ones((len(ys), len(xs), 3), np.float32)
    rays[..., 0], rays[..., 1] = xs[None, :], ys[:, None]
    scene = rtcore_scene.EmbreeScene()  # pyright: ignore[reportAttributeAccessIssue]
    # The scene refers to the mesh, which must live as long as the scene does.
    mesh = TriangleMesh(scene, np.ascontiguousarray(vertices_cam_m, np.float32), np.ascontiguousarray(faces, np.int32))
    found = scene.run(np.zeros((rays.size // 3, 3), np.float32), rays.reshape(-1, 3), output=True)
    del mesh
    shape = rays.shape[:2]
    face, u, v = found["primID"].reshape(shape), found["u"].reshape(shape), found["v"].reshape(shape)
    hit = face >= 0
    inner = (slice(top, bottom), slice(left, right))
    hits.face[inner] = face
    # Rays have z = 1, so the ray parameter is the depth.
    hits.depth_m[inner] = np.where(hit, found["tfar"].reshape(shape), np.inf)
    hits.barycentric[inner] = np.stack([1 - u - v, u, v], axis=-1) * hit[..., None]
    return hits


def _window(
    vertices_cam_m: np.ndarray, focal: np.ndarray, centre: np.ndarray, size_wh: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Pixels (left, top, right, bottom; ends excluded) that the mesh may cover."""
    left, top, right, bottom = 0, 0, *size_wh
    # A vertex beside or behind the camera has no projection: then every pixel may see the mesh.
    if len(vertices_cam_m) and vertices_cam_m[:, 2].min() > 1e-3:
        pixels = vertices_cam_m[:, :2] / vertices_cam_m[:, 2:] * focal + centre
        low, high = np.floor(pixels.min(axis=0)).astype(int), np.ceil(pixels.max(axis=0)).astype(int) + 1
        left, top = max(left, int(low[0])), max(top, int(low[1]))
        right, bottom = min(right, int(high[0])), min(bottom, int(high[1]))
    return left, top, right, bottom


def interpolate(
    hits: Hits, faces: Int[np.ndarray, "faces 3"], per_vertex: Float[np.ndarray, "vertices channels"]
) -> Float[np.ndarray, "height width channels"]:
    """Values given at vertices, at every pixel; zero where nothing is hit."""
    out = np.zeros((*hits.face.shape, per_vertex.shape[1]), np.float32)
    mask = hits.mask
    corners = per_vertex[faces[hits.face[mask]]]
    out[mask] = (corners * hits.barycentric[mask][..., None]).sum(axis=1)
    return out


def vertex_normals(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> Float[np.ndarray, "vertices 3"]:
    """Area-weighted unit normals; outward for triangles that turn counter-clockwise seen from outside."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    total = np.empty((len(vertices), 3))
    flat = faces.reshape(-1)
    for axis in range(3):
        total[:, axis] = np.bincount(flat, np.repeat(normal[:, axis], 3), minlength=len(vertices))
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)
