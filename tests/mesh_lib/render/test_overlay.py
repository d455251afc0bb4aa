from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trimesh

from mesh_lib.render.overlay import PAPER, SKIN, overlay, shade, side_view
from mesh_lib.render.raster import cast

CAMERA: dict[str, Any] = {"focal_px": np.array([300.0, 300.0]), "princpt_px": np.array([64.0, 60.0])}


def box(centre_m: tuple[float, float, float], extents_m: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.box(extents=extents_m)
    return np.asarray(mesh.vertices) + centre_m, np.asarray(mesh.faces, np.int32)


def test_an_overlay_changes_the_meshs_pixels_and_no_others() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (120, 128, 3), dtype=np.uint8)
    vertices, faces = box((0.1, -0.2, 4), (0.4, 0.6, 0.2))
    drawn = overlay(picture, vertices, faces, **CAMERA)
    mask = cast(vertices, faces, size_wh=(128, 120), **CAMERA).mask
    assert 500 < mask.sum() < 5000
    np.testing.assert_array_equal(drawn[~mask], picture[~mask])
    assert (drawn[mask] != picture[mask]).any(axis=1).mean() > 0.95


def test_opacity_blends_linearly_between_picture_and_mesh() -> None:
    picture = np.full((120, 128, 3), 40, np.uint8)
    vertices, faces = box((0, 0, 4), (0.4, 0.6, 0.2))
    solid = overlay(picture, vertices, faces, opacity=1.0, **CAMERA).astype(float)
    half = overlay(picture, vertices, faces, opacity=0.5, **CAMERA).astype(float)
    np.testing.assert_allclose(half, (solid + 40) / 2, atol=1)
    np.testing.assert_array_equal(overlay(picture, vertices, faces, opacity=0.0, **CAMERA), picture)


def test_the_picture_handed_in_is_not_drawn_upon() -> None:
    picture = np.full((120, 128, 3), 40, np.uint8)
    overlay(picture, *box((0, 0, 4), (0.4, 0.6, 0.2)), **CAMERA)
    assert (picture == 40).all()


def test_a_side_view_shows_depth_as_width_at_the_same_scale() -> None:
    """A box 0.2 wide, 0.8 high and 0.6 deep at 5 m: 36 px wide from the side; its near edge, 48 px high, is drawn."""
    vertices, faces = box((0.5, 0.1, 5), (0.2, 0.8, 0.6))
    view = side_view(vertices, faces, size_wh=(128, 120), **CAMERA)
    drawn = (view != np.array(PAPER)).any(axis=2)
    rows, columns = drawn.any(axis=1).nonzero()[0], drawn.any(axis=0).nonzero()[0]
    assert np.ptp(columns) + 1 == pytest.approx(0.6 * 300 / 4.9, abs=1.5)
    assert np.ptp(rows) + 1 == pytest.approx(0.8 * 300 / 4.9, abs=1.5)
    assert rows.mean() == pytest.approx(60 + 0.1 * 300 / 5, abs=1)
    assert columns.mean() == pytest.approx(64, abs=1)


def test_a_side_view_puts_what_was_near_on_the_left() -> None:
    """A wedge that is tall near the camera and low far away."""
    vertices = np.array([[x, y, z] for x in (-0.1, 0.1) for y, z in ((0.3, 4.7), (-0.3, 4.7), (0.3, 5.3))])
    faces = np.array(trimesh.convex.convex_hull(vertices).faces, np.int32)
    vertices = np.asarray(trimesh.convex.convex_hull(vertices).vertices)
    drawn = (side_view(vertices, faces, size_wh=(128, 120), **CAMERA) != np.array(PAPER)).any(axis=2)
    height = drawn.sum(axis=0)
    seen = height.nonzero()[0]
    assert height[seen[2]] > 3 * height[seen[-3]]


def test_the_side_towards_the_light_is_brighter() -> None:
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.3)
    vertices, faces = np.asarray(ball.vertices) + (0, 0, 4.0), np.asarray(ball.faces, np.int32)
    hits = cast(vertices, faces, size_wh=(128, 120), **CAMERA)
    colours = shade(hits, vertices, faces).astype(int)
    assert colours[47, 70].sum() > colours[73, 58].sum() + 100  # up and right against down and left
    assert not colours[~hits.mask].any() and (colours <= np.array(SKIN)).all()
