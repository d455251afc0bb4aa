"""Bodies of a dataset's world, moved to the camera's frame: the same mesh, vertex for vertex."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mesh_lib.body.files import Body
from mesh_lib.body.layer import BodyLayer
from mesh_lib.datasets.people import Camera, LocalFiles
from mesh_lib.datasets.world_bodies import RestRoot, mend_left, parameters, read_rest_root, to_camera

RNG = np.random.default_rng(5)
CAMERA = Camera(
    focal_px=np.ones(2),
    princpt_px=np.zeros(2),
    rotation=Rotation.from_rotvec([2.0, 0.3, -0.4]).as_matrix(),
    translation_m=np.array([0.2, 1.0, 4.0]),
)


def away_from_the_origin(body: Body) -> Body:
    """The root at rest at (0.02, -0.21, 0.03), as far from the origin as SMPL's."""
    template = body.v_template + [0.02, -0.21, 0.03]
    shapedirs = np.zeros((len(template), 3, 10))
    shapedirs[:, :, 0], shapedirs[:, 1, 1] = 0.03 * template, 0.01
    return replace(body, v_template=template, shapedirs=shapedirs)


def save(body: Body, path: Path) -> None:
    kintree = np.array([[2**32 - 1, *body.parents[1:]], range(len(body.parents))], np.int64)
    np.savez(
        path,
        v_template=body.v_template, shapedirs=body.shapedirs, J_regressor=np.asarray(body.J_regressor),
        weights=body.weights, kintree_table=kintree, f=body.faces,
    )  # fmt: skip


def vertices(body: Body, orient: np.ndarray, pose: np.ndarray, betas: np.ndarray, transl: np.ndarray) -> np.ndarray:
    rotvec = np.concatenate([orient, pose]).reshape(1, -1, 3)
    rotmats = torch.tensor(Rotation.from_rotvec(rotvec.reshape(-1, 3)).as_matrix().reshape(*rotvec.shape, 3))
    layer = BodyLayer(body, dtype=torch.float64)
    return layer(rotmats=rotmats, betas=torch.tensor(betas)[None]).vertices_m[0].numpy() + transl


def test_the_body_seen_by_the_camera_is_the_bodys_mesh_moved_by_the_camera(body: Body, tmp_path: Path) -> None:
    body = away_from_the_origin(body)
    save(body, tmp_path / "body.npz")
    root = read_rest_root(LocalFiles(), str(tmp_path / "body.npz"))
    assert root is not None
    orient, pose, betas, transl = RNG.normal(0, 1, 3), RNG.normal(0, 0.3, 69), RNG.normal(0, 1, 10), RNG.normal(0, 2, 3)
    seen_orient, seen_transl = to_camera(CAMERA, global_orient=orient, transl_m=transl, root_m=root.at(betas))
    moved = CAMERA.to_camera(vertices(body, orient, pose, betas, transl))
    np.testing.assert_allclose(vertices(body, seen_orient, pose, betas, seen_transl), moved, atol=1e-9)


def test_moving_the_translation_alone_would_be_wrong_by_the_roots_way_from_the_origin(body: Body) -> None:
    body = away_from_the_origin(body)
    orient, pose, betas, transl = np.ones(3), np.zeros(69), np.zeros(10), np.array([1.0, 0, 3])
    turned, unknown = to_camera(CAMERA, global_orient=orient, transl_m=transl, root_m=None)
    assert np.isnan(unknown).all()
    naive = vertices(body, turned, pose, betas, CAMERA.to_camera(transl))
    moved = CAMERA.to_camera(vertices(body, orient, pose, betas, transl))
    root = np.array([0.02, -0.21, 0.03])
    np.testing.assert_allclose(moved - naive, np.broadcast_to(CAMERA.rotation @ root - root, moved.shape), atol=1e-6)
    assert np.linalg.norm(CAMERA.rotation @ root - root) > 0.1


def test_without_a_file_the_root_is_not_known_and_a_missing_file_is_said() -> None:
    assert read_rest_root(LocalFiles(), "") is None
    with pytest.raises(ValueError, match=r"no body model at /nowhere\.npz"):
        read_rest_root(LocalFiles(), "/nowhere.npz")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "no object"),
        ({"pose": [0.0] * 72, "shape": [0.0] * 10}, "trans"),
        ({"pose": [0.0] * 63, "shape": [0.0] * 10, "trans": [0.0] * 3}, "pose has 63 numbers"),
        ({"pose": ["x"] * 72, "shape": [0.0] * 10, "trans": [0.0] * 3}, "pose is not an array"),
    ],
)
def test_parameters_of_another_layout_say_what_is_wrong(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        parameters(value, pose=72, where="x.json: 7")
    assert "x.json: 7" in str(error.value)


def test_a_left_hand_with_the_right_hands_shapes_is_mended() -> None:
    """MANO 1.2: the left file's shapes have the right hand's sign along x."""
    per_beta = RNG.normal(0, 1, (3, 10))
    mirror = np.array([-1.0, 1, 1])
    right = RestRoot(np.array([0.09, 0.01, 0]), per_beta)
    good = RestRoot(right.mean_m * mirror, per_beta * mirror[:, None])
    bad = RestRoot(good.mean_m, per_beta)
    betas = RNG.normal(0, 1, 10)
    for left in (good, bad):
        mended = mend_left(left, right)
        assert mended is not None
        np.testing.assert_allclose(mended.at(betas), right.at(betas) * mirror)
    assert mend_left(bad, None) is bad and mend_left(None, right) is None
