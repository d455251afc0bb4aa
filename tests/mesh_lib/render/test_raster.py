from __future__ import annotations

import numpy as np
import pytest
import trimesh

from mesh_lib.render.raster import cast, interpolate, vertex_normals

FOCAL = np.array([100.0, 80.0])
CENTRE = np.array([30.0, 20.0])
SIZE = (70, 50)  # wide, and its middle is not the principal point: swapped axes would show


def place(pixels: np.ndarray, depths_m: np.ndarray) -> np.ndarray:
    """Points that project to the given pixels at the given depths."""
    return np.concatenate([(pixels - CENTRE) / FOCAL * depths_m[:, None], depths_m[:, None]], axis=1)


def rectangle(left: float, top: float, right: float, bottom: float, depth_m: float) -> tuple[np.ndarray, np.ndarray]:
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return place(corners, np.full(4, depth_m)), np.array([[0, 1, 2], [0, 2, 3]], np.int32)


def ball(centre_m: tuple[float, float, float], radius_m: float) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius_m)
    return np.asarray(mesh.vertices) + centre_m, np.asarray(mesh.faces, np.int32)


def test_a_rectangle_covers_exactly_the_pixels_whose_centres_it_covers() -> None:
    vertices, faces = rectangle(9.5, 4.5, 40.4, 15.6, 2.0)
    hits = cast(vertices, faces, focal_px=FOCAL, princpt_px=CENTRE, size_wh=SIZE)
    expected = np.zeros((50, 70), bool)
    expected[5:16, 10:41] = True
    np.testing.assert_array_equal(hits.mask, expected)
    np.testing.assert_allclose(hits.depth_m[expected], 2.0, rtol=1e-6)
    assert np.isinf(hits.depth_m[~expected]).all()
    assert (hits.face[~expected] == -1).all() and not hits.barycentric[~expected].any()


def test_interpolated_positions_of_a_tilted_triangle_lie_on_the_pixels_rays() -> None:
    """Right only if barycentrics are perspective-correct and each belongs to its own corner."""
    vertices = place(np.array([[5.0, 3.0], [60.0, 10.0], [20.0, 45.0]]), np.array([1.0, 4.0, 2.5]))
    faces = np.array([[2, 0, 1]], np.int32)
    hits = cast(vertices, faces, focal_px=FOCAL, princpt_px=CENTRE, size_wh=SIZE)
    points = interpolate(hits, faces, vertices)
    y, x = np.nonzero(hits.mask)
    assert len(x) > 300
    expected = place(np.stack([x, y], axis=1), hits.depth_m[hits.mask].astype(np.float64))
    np.testing.assert_allclose(points[hits.mask], expected, atol=1e-5)
    np.testing.assert_allclose(hits.barycentric[hits.mask].sum(axis=1), 1, atol=1e-6)
    normal = np.cross(vertices[1] - vertices[0], vertices[2] - vertices[0])
    np.testing.assert_allclose((points[hits.mask] - vertices[0]) @ (normal / np.linalg.norm(normal)), 0, atol=1e-5)


def test_a_ball_has_the_depth_and_outline_that_geometry_says_and_no_cracks() -> None:
    vertices, faces = ball((0, 0, 3.0), 0.5)
    focal, centre = np.array([200.0, 200.0]), np.array([60.0, 60.0])
    hits = cast(vertices, faces, focal_px=focal, princpt_px=centre, size_wh=(121, 121))
    assert hits.depth_m[60, 60] == pytest.approx(2.5, abs=2e-3)
    radius = 200 * 0.5 / np.sqrt(3.0**2 - 0.5**2)
    distance = np.hypot(*(np.indices((121, 121)) - 60))
    assert hits.mask[distance < radius - 0.6].all() and not hits.mask[distance > radius + 0.1].any()


def test_the_nearer_surface_hides_the_farther() -> None:
    near, faces = rectangle(20, 10, 30, 20, 1.0)
    far, _ = rectangle(10, 5, 40, 25, 2.0)
    vertices, both_faces = np.concatenate([far, near]), np.concatenate([faces, faces + 4])
    both = cast(vertices, both_faces, focal_px=FOCAL, princpt_px=CENTRE, size_wh=SIZE)
    assert (both.depth_m[12:18, 22:28] == pytest.approx(1.0)) and (both.face[12:18, 22:28] >= 2).all()
    assert (both.depth_m[6:9, 12:18] == pytest.approx(2.0)) and (both.face[6:9, 12:18] < 2).all()


@pytest.mark.parametrize("centre_m", [(50.0, 0.0, 2.0), (0.0, 0.0, -2.0)], ids=["beside", "behind"])
def test_what_cannot_be_seen_is_not_hit(centre_m: tuple[float, float, float]) -> None:
    vertices, faces = ball(centre_m, 0.3)
    assert not cast(vertices, faces, focal_px=FOCAL, princpt_px=CENTRE, size_wh=SIZE).mask.any()


def test_a_mesh_that_reaches_behind_the_camera_shows_its_front_part() -> None:
    """A floor under the camera: seen below the horizon, not above it."""
    floor = np.array([[-50.0, 1.0, -50.0], [50.0, 1.0, -50.0], [50.0, 1.0, 500.0], [-50.0, 1.0, 500.0]])
    hits = cast(floor, np.array([[0, 1, 2], [0, 2, 3]], np.int32), focal_px=FOCAL, princpt_px=CENTRE, size_wh=SIZE)
    assert hits.mask[21:].all() and not hits.mask[:21].any()
    np.testing.assert_allclose(hits.depth_m[36], 80 / 16, rtol=1e-5)


def test_normals_of_a_ball_point_outward_and_have_unit_length() -> None:
    vertices, faces = ball((0.0, 0.0, 0.0), 0.7)
    np.testing.assert_allclose(vertex_normals(vertices, faces), vertices / 0.7, atol=1e-2)  # the facets


def test_a_vertex_of_no_face_has_a_zero_normal_and_no_nan() -> None:
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]])
    normals = vertex_normals(vertices, np.array([[0, 1, 2]], np.int32))
    np.testing.assert_allclose(normals, [[0, 0, 1]] * 3 + [[0, 0, 0]])
