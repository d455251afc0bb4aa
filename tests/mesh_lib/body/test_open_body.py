"""The open body is a body: closed, symmetric in its names, posed like a person, and readable by others' code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from mesh_lib.body.files import Body, load_body
from mesh_lib.body.joints import BODY33, SMPL24, SMPL_PARENTS, mirror_name
from mesh_lib.body.layer import BodyLayer, KeypointLayer
from mesh_lib.body.open_body import FITTED, SEED, Resolution, Source, build_open_body
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.render.body_sheet import POSES, body_sheet, pose_rotvec
from pipelines.bodies import cached_body, save_body

RESOLUTIONS: tuple[Resolution, ...] = ("full", "low")


@pytest.fixture(scope="module", params=RESOLUTIONS)
def resolution(request: pytest.FixtureRequest) -> Resolution:
    return request.param


@pytest.fixture(scope="module")
def path(resolution: Resolution) -> Path:
    return cached_body(resolution)


@pytest.fixture(scope="module")
def body(path: Path) -> Body:
    return load_body(path)


def dense(body: Body) -> np.ndarray:
    regressor = body.J_regressor
    return regressor if isinstance(regressor, np.ndarray) else regressor.toarray()


def rest_joints(body: Body) -> dict[str, np.ndarray]:
    joints = BodyLayer(body).joints_only(rotmats=torch.eye(3).repeat(24, 1, 1), betas=torch.zeros(10)).numpy()
    return dict(zip(SMPL24.names, joints, strict=True))


def posed(body: Body, name: str) -> dict[str, np.ndarray]:
    rotmats = rotvec_to_rotmat(torch.from_numpy(pose_rotvec(name)))
    joints = BodyLayer(body).joints_only(rotmats=rotmats, betas=torch.zeros(10)).numpy()
    return dict(zip(SMPL24.names, joints, strict=True))


def test_every_piece_of_the_mesh_is_watertight(body: Body) -> None:
    mesh = trimesh.Trimesh(body.v_template, body.faces, process=False)
    pieces = mesh.split(only_watertight=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert all(piece.is_watertight for piece in pieces)
    # Skin, and, at full resolution, what lies in the head: eyes, and tongue with teeth.
    assert max(len(piece.vertices) for piece in pieces) > 0.9 * len(body.v_template)
    assert mesh.volume > 0.04  # outwards faces; a person of 1.7 m has about 60 litres


def test_it_stands_in_a_t_pose_and_faces_forward_with_its_left_at_x(body: Body) -> None:
    joints = rest_joints(body)
    for name in SMPL24.names:
        assert not name.startswith("left_") or joints[name][0] > 0.02
        assert not name.startswith("right_") or joints[name][0] < -0.02
    for side in ("left", "right"):
        arm = joints[f"{side}_wrist"] - joints[f"{side}_shoulder"]
        assert abs(arm[0]) / np.linalg.norm(arm) > 0.99
        leg = joints[f"{side}_hip"] - joints[f"{side}_ankle"]
        assert leg[1] / np.linalg.norm(leg) > 0.99
    assert joints["head"][1] > joints["pelvis"][1] > joints["left_ankle"][1]
    assert 1.55 < np.ptp(body.v_template[:, 1]) < 1.85
    keypoints = KeypointLayer(body, BODY33)(rotmats=torch.eye(3).repeat(1, 24, 1, 1), betas=torch.zeros(1, 10))[0]
    at = dict(zip(BODY33.names, keypoints.numpy(), strict=True))
    assert at["nose"][2] > at["left_ear"][2] + 0.05 and at["left_big_toe"][2] > at["left_heel"][2] + 0.15
    for name in BODY33.names:
        np.testing.assert_allclose(at[name] * [-1, 1, 1], at[mirror_name(name)], atol=0.02, err_msg=name)


def test_every_vertex_is_moved_by_weights_that_sum_to_one(body: Body) -> None:
    np.testing.assert_allclose(body.weights.sum(axis=1), 1, atol=1e-6)
    assert body.weights.min() >= 0
    np.testing.assert_allclose(dense(body).sum(axis=1), 1, atol=1e-6)
    assert body.parents == SMPL_PARENTS


def test_joints_follow_annys_own_bone_heads_over_random_shapes(resolution: Resolution, body: Body) -> None:
    """On shapes that neither the shape space nor the regressor has seen."""
    shapes = Source(resolution).sample(40, seed=SEED + 1)
    error_mm = np.linalg.norm(dense(body) @ shapes.vertices_m - shapes.joints_m, axis=-1) * 1000
    for joint, errors in zip(SMPL24.names, error_mm.T, strict=True):
        assert errors.mean() < 10, (joint, errors.mean())
    assert FITTED >= 100


def test_bends_of_a_quarter_turn_go_where_joints_go(body: Body) -> None:
    rest = rest_joints(body)
    length = {side: np.linalg.norm(rest[f"{side}_wrist"] - rest[f"{side}_elbow"]) for side in ("left", "right")}
    bent = posed(body, "elbows")
    for side in ("left", "right"):
        forearm = bent[f"{side}_wrist"] - bent[f"{side}_elbow"]
        assert forearm[2] > 0.98 * length[side], "forearms point forward"
    raised = posed(body, "shoulders")
    assert raised["left_wrist"][1] < rest["left_shoulder"][1] - 0.3, "arms hang down"
    kneeling = posed(body, "left knee")
    shin = kneeling["left_ankle"] - kneeling["left_knee"]
    assert shin[2] < -0.95 * np.linalg.norm(shin), "the heel goes back"
    lifted = posed(body, "left hip")
    thigh = lifted["left_knee"] - lifted["left_hip"]
    assert thigh[2] > 0.95 * np.linalg.norm(thigh), "the knee goes forward"


def test_bends_keep_volume_and_bones(body: Body) -> None:
    """A skin that collapses or tears in a bend loses volume; linear blending alone costs 8 % in a deep sit."""
    layer = BodyLayer(body)
    rest = trimesh.Trimesh(body.v_template, body.faces, process=False).volume
    for name in POSES:
        rotmats = rotvec_to_rotmat(torch.from_numpy(pose_rotvec(name)))
        vertices = layer(rotmats=rotmats, betas=torch.zeros(10)).vertices_m.numpy()
        assert abs(trimesh.Trimesh(vertices, body.faces, process=False).volume / rest - 1) < 0.1, name


def test_keypoints_of_the_posed_mesh_stay_near_the_joints_that_pose_it(body: Body) -> None:
    """The regressor reads posed skin (as published); around a bent limb it must not wander off the joint."""
    for name in POSES:
        rotmats = rotvec_to_rotmat(torch.from_numpy(pose_rotvec(name)))[None]
        read = KeypointLayer(body, SMPL24)(rotmats=rotmats, betas=torch.zeros(1, 10))[0].numpy()
        for joint, place in posed(body, name).items():
            assert np.linalg.norm(read[SMPL24.index(joint)] - place) < 0.04, (name, joint)


def test_shape_components_are_people(body: Body) -> None:
    spread = np.linalg.norm(body.shapedirs.reshape(-1, body.shapedirs.shape[-1]), axis=0)
    assert (np.diff(spread) < 0).all(), "most important first"
    tall, short = (np.ptp((body.v_template + s * 2 * body.shapedirs[..., 0])[:, 1]) for s in (1, -1))
    assert tall - short > 0.1, "the first makes people taller"


def test_plain_smplx_loads_it_and_agrees(path: Path, body: Body, tmp_path: Path) -> None:
    smplx = pytest.importorskip("smplx")
    save_body(dict(np.load(path)), tmp_path / "smpl" / "SMPL_NEUTRAL.pkl")
    # Its extra joints are vertices numbered as in SMPL, of which the low-polygon mesh has too few.
    low = {"vertex_ids": dict.fromkeys(smplx.vertex_ids.vertex_ids["smplh"], 0)} if len(body.v_template) < 6890 else {}
    theirs = smplx.create(str(tmp_path), model_type="smpl", num_betas=10, batch_size=1, **low)
    rng = np.random.default_rng(0)
    pose = torch.from_numpy(rng.normal(0, 0.5, (1, 72)).astype(np.float32))
    betas = torch.from_numpy(rng.normal(0, 1, (1, 10)).astype(np.float32))
    out = theirs(global_orient=pose[:, :3], body_pose=pose[:, 3:], betas=betas)
    ours = BodyLayer(body)(rotmats=rotvec_to_rotmat(pose.view(1, 24, 3)), betas=betas)
    assert (out.vertices - ours.vertices_m).abs().max() < 1e-5
    assert (out.joints[:, :24] - ours.joints_m).abs().max() < 1e-5


def test_building_again_gives_the_same_file() -> None:
    first = load_body(cached_body("low"))
    again = build_open_body("low")
    np.testing.assert_allclose(again["v_template"], first.v_template, atol=1e-7)
    np.testing.assert_allclose(again["shapedirs"][..., :10], first.shapedirs, atol=1e-6)
    np.testing.assert_allclose(again["J_regressor"], dense(first), atol=1e-6)


def test_the_sheet_shows_every_pose_and_component(body: Body) -> None:
    sheet = body_sheet(body)
    cells = (sheet.astype(int).std(axis=2) > 12).reshape(6, 190, -1, 160).mean(axis=(1, 3))
    assert sheet.shape == (6 * 190, 10 * 160, 3)
    assert (cells[:2, : len(POSES)] > 0.03).all() and (cells[2:] > 0.03).all()
    assert (cells[:2, len(POSES) :] == 0).all()
