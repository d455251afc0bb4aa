"""Penetration: spheres in spheres, the solid angle's own winding number, and bodies that hug themselves."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.sparse
import torch
import trimesh

from mesh_lib.body.files import Body, load_body
from mesh_lib.body.joints import SMPL24
from mesh_lib.body.layer import BodyLayer
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.metrics.penetration import SelfPenetration, winding_numbers
from pipelines.bodies import cached_body


def mesh_body(*parts: trimesh.Trimesh) -> Body:
    """Whatever it looks like: a body is only its mesh here."""
    mesh = trimesh.util.concatenate(parts)
    assert isinstance(mesh, trimesh.Trimesh)
    count = len(mesh.vertices)
    return Body(
        name="made up", v_template=np.array(mesh.vertices), shapedirs=np.zeros((count, 3, 10)), posedirs=None,
        J_regressor=scipy.sparse.csr_matrix((24, count)), weights=np.zeros((count, 24)), parents=(-1,) + (0,) * 23,
        faces=np.array(mesh.faces, np.int32), keypoint_vertices={}, sha256="",
    )  # fmt: skip


def ball(radius: float, at: float = 0.0) -> trimesh.Trimesh:
    made = trimesh.creation.icosphere(subdivisions=2, radius=radius)
    made.apply_translation([at, 0, 0])
    return made


def by_solid_angle(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The winding number from its definition: the sum of the triangles' solid angles (van Oosterom and Strackee)."""
    out = []
    for point in points:
        a, b, c = (vertices[faces[:, i]] - point for i in range(3))
        la, lb, lc = (np.linalg.norm(v, axis=1) for v in (a, b, c))
        over = np.einsum("ij,ij->i", a, np.cross(b, c))
        under = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
        out.append(2 * np.arctan2(over, under).sum() / (4 * np.pi))
    return np.rint(out)


def test_winding_numbers_of_balls_in_balls() -> None:
    body = mesh_body(ball(1.0), ball(0.5), ball(1.0, at=1.5))
    points = np.array([[0.0, 0, 0], [0.4, 0, 0], [0.8, 0, 0], [2.2, 0, 0], [5, 0, 0], [0, 0, 1.2], [0, 0, -1.2]])
    found = winding_numbers(points, vertices_m=body.v_template, faces=body.faces)
    assert found.tolist() == [2, 2, 2, 1, 0, 0, 0]


def test_winding_numbers_are_those_of_solid_angles_in_a_crumpled_mesh() -> None:
    rng = np.random.default_rng(0)
    mesh = trimesh.creation.icosphere(subdivisions=3)
    crumpled = np.array(mesh.vertices) + rng.normal(0, 0.25, mesh.vertices.shape)
    points = rng.normal(0, 0.7, (300, 3))
    want = by_solid_angle(points, crumpled, np.array(mesh.faces))
    found = winding_numbers(points, vertices_m=crumpled, faces=np.array(mesh.faces))
    assert np.array_equal(found, want) and len(np.unique(want)) >= 4


def test_the_share_is_of_the_skin_not_of_the_vertices() -> None:
    """Two balls apart at rest, one of four times the skin of the other, which then moves wholly into it."""
    rest = mesh_body(ball(1.0), ball(0.5, at=5.0))
    penetration = SelfPenetration(rest)
    moved = torch.from_numpy(rest.v_template.copy())
    moved[len(moved) // 2 :, 0] -= 5.0
    both = penetration.percent(torch.stack([torch.from_numpy(rest.v_template), moved]))
    assert both[0] == 0 and both[1].item() == pytest.approx(20, abs=1e-9)


def test_what_lies_inside_at_rest_is_not_counted() -> None:
    penetration = SelfPenetration(mesh_body(ball(1.0), ball(0.3)))
    assert penetration.percent(torch.from_numpy(mesh_body(ball(1.0), ball(0.3)).v_template)) == 0
    assert (penetration.weight > 0).mean() == 0.5 and penetration.weight.sum() == pytest.approx(1)


def test_a_mesh_that_is_not_closed_is_refused() -> None:
    whole = ball(1.0)
    opened = trimesh.Trimesh(whole.vertices, whole.faces[1:], process=False)
    turned = trimesh.Trimesh(whole.vertices, np.concatenate([whole.faces[:1, ::-1], whole.faces[1:]]), process=False)
    for mesh in (opened, turned):
        with pytest.raises(ValueError, match="not closed"):
            SelfPenetration(mesh_body(mesh))


@pytest.fixture(scope="module")
def open_body() -> Body:
    return load_body(cached_body("low"))


def posed(body: Body, **turns: tuple[float, float, float]) -> torch.Tensor:
    rotvec = torch.zeros(24, 3, dtype=torch.float64)
    for joint, turn in turns.items():
        rotvec[SMPL24.index(joint)] = torch.deg2rad(torch.tensor(turn, dtype=torch.float64))
    layer = BodyLayer(body, dtype=torch.float64)
    return layer(rotmats=rotvec_to_rotmat(rotvec), betas=torch.zeros(10, dtype=torch.float64)).vertices_m


def test_an_arm_through_the_chest_penetrates_and_a_t_pose_does_not(open_body: Body) -> None:
    penetration = SelfPenetration(open_body)
    rest, pointing = posed(open_body), posed(open_body, left_shoulder=(0, -60, 0))
    through = posed(open_body, left_shoulder=(0, -180, 0))
    values = penetration.percent(torch.stack([rest, pointing, through]))
    assert values[:2].max() < 0.2 and values[2] > 5


def test_the_share_does_not_feel_place_facing_dtype_or_batch(open_body: Body) -> None:
    penetration = SelfPenetration(open_body)
    body = posed(open_body, left_shoulder=(0, -165, 0), left_elbow=(0, -130, 0))
    alone = penetration.percent(body)
    turn = rotvec_to_rotmat(torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64))
    away = body @ turn.mT + torch.tensor([0.3, -1.0, 40.0], dtype=torch.float64)
    broken = torch.full_like(body, torch.nan)
    batch = penetration.percent(torch.stack([away, broken, body])[None])
    assert batch.shape == (1, 3) and batch[0, 2] == alone and batch[0, 1].isnan()
    assert batch[0, 0].item() == pytest.approx(alone.item(), abs=0.1)
    single = penetration.percent(away.float())
    assert single.dtype == torch.float32 and single.item() == pytest.approx(alone.item(), abs=0.2)
    with pytest.raises(ValueError, match="vertices; the body has"):
        penetration.percent(body[:-1])


def test_meshes_without_size_have_an_answer(open_body: Body) -> None:
    penetration = SelfPenetration(open_body)
    assert penetration.percent(torch.zeros(len(open_body.v_template), 3)).isfinite()
    flat = torch.from_numpy(open_body.v_template * [1, 1, 0])
    assert penetration.percent(flat).isfinite()


def test_a_body_as_fine_as_smpl_takes_a_fraction_of_a_second() -> None:
    """A wavy ball of 10,242 vertices, half as many again as SMPL, takes some 70 ms; a busy machine has room."""
    mesh = trimesh.creation.icosphere(subdivisions=5)  # 10,242 vertices
    penetration = SelfPenetration(mesh_body(mesh))
    points = np.array(mesh.vertices) * (1 + 0.2 * np.sin(9 * np.array(mesh.vertices)[:, :1]))
    start = time.process_time()
    penetration.percent(torch.from_numpy(points))
    assert time.process_time() - start < 1.0
