"""The layer against the smplx package, an oracle that only tests may import, and against plain geometry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import smplx.lbs
import torch
from torch import Tensor

from mesh_lib.body.files import Body
from mesh_lib.body.joints import BODY33, SMPL24, JointSet
from mesh_lib.body.layer import BodyLayer, KeypointLayer
from mesh_lib.geometry.rotations import rotvec_to_rotmat

lbs: Any = smplx.lbs.lbs  # its annotations name types of its own
TOLERANCE_M = {torch.float32: 1e-5, torch.float64: 1e-10}
POSES = ("random", "at rest", "near rest", "near half turns")


def poses(kind: str, *, batch: int = 4) -> Tensor:
    """(batch, 24, 3) rotation vectors, float64."""
    random = torch.Generator().manual_seed(len(kind))
    axes = torch.randn(batch, 24, 3, dtype=torch.float64, generator=random)
    axes = axes / axes.norm(dim=-1, keepdim=True)
    match kind:
        case "random":
            return axes * torch.rand(batch, 24, 1, dtype=torch.float64, generator=random) * 3
        case "at rest":
            return axes * 0
        case "near rest":
            return axes * 1e-7
        case "near half turns":
            return axes * (np.pi - 1e-6)
    raise AssertionError(kind)


def shapes(*, batch: int = 4) -> Tensor:
    return torch.randn(batch, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 2


def oracle(body: Body, *, rotations: Tensor, betas: Tensor, as_rotvecs: bool = False) -> tuple[Tensor, Tensor]:
    """smplx's vertices and kinematic joints. Given matrices (pose2rot=False), it is exact: its own way from
    rotation vectors to matrices adds 1e-8 to the vector first, which is not the rotation we asked about."""
    posedirs = np.zeros((*body.v_template.shape, 207)) if body.posedirs is None else body.posedirs

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=betas.dtype)

    assert not isinstance(body.J_regressor, np.ndarray)
    return lbs(
        betas,
        rotations,
        tensor(body.v_template),
        tensor(body.shapedirs),
        tensor(posedirs.reshape(-1, 207).T.copy()),
        tensor(body.J_regressor.toarray()),
        torch.tensor(body.parents),
        tensor(body.weights),
        pose2rot=as_rotvecs,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", POSES)
def test_vertices_and_joints_equal_smplx(made_up_body: Body, kind: str, dtype: torch.dtype) -> None:
    rotmats, betas = rotvec_to_rotmat(poses(kind)).to(dtype), shapes().to(dtype)
    found = BodyLayer(made_up_body, dtype=dtype)(rotmats=rotmats, betas=betas)
    vertices_m, joints_m = oracle(made_up_body, rotations=rotmats, betas=betas)
    assert (found.vertices_m - vertices_m).abs().max() < TOLERANCE_M[dtype]
    assert (found.joints_m - joints_m).abs().max() < TOLERANCE_M[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", POSES)
def test_gradients_equal_smplx(made_up_body: Body, kind: str, dtype: torch.dtype) -> None:
    """Of a random weighting of all coordinates, with respect to rotations and shape; relative to the largest."""
    rotmats, betas = rotvec_to_rotmat(poses(kind)).to(dtype), shapes().to(dtype)
    random = torch.Generator().manual_seed(1)
    of_vertices = torch.randn(4, len(made_up_body.v_template), 3, dtype=dtype, generator=random)
    of_joints = torch.randn(4, 24, 3, dtype=dtype, generator=random)

    def gradients(ours: bool) -> tuple[Tensor, ...]:
        inputs = rotmats.clone().requires_grad_(), betas.clone().requires_grad_()
        if ours:
            posed = BodyLayer(made_up_body, dtype=dtype)(rotmats=inputs[0], betas=inputs[1])
            vertices_m, joints_m = posed.vertices_m, posed.joints_m
        else:
            vertices_m, joints_m = oracle(made_up_body, rotations=inputs[0], betas=inputs[1])
        return torch.autograd.grad((vertices_m * of_vertices).sum() + (joints_m * of_joints).sum(), inputs)

    for ours, theirs in zip(gradients(True), gradients(False), strict=True):
        assert (ours - theirs).abs().max() < TOLERANCE_M[dtype] * theirs.abs().max()


@pytest.mark.parametrize("kind", POSES)
def test_rotation_vectors_give_smplxs_body_up_to_the_1e_8_it_adds(made_up_body: Body, kind: str) -> None:
    rotvecs, betas = poses(kind), shapes()
    found = BodyLayer(made_up_body, dtype=torch.float64)(rotmats=rotvec_to_rotmat(rotvecs), betas=betas)
    vertices_m, _ = oracle(made_up_body, rotations=rotvecs.flatten(1), betas=betas, as_rotvecs=True)
    assert (found.vertices_m - vertices_m).abs().max() < 1e-6


def test_gradients_through_rotation_vectors_are_finite_at_rest(made_up_body: Body) -> None:
    rotvecs = torch.zeros(2, 24, 3, requires_grad=True)
    posed = BodyLayer(made_up_body)(rotmats=rotvec_to_rotmat(rotvecs), betas=torch.zeros(2, 10))
    posed.vertices_m.square().sum().backward()
    assert rotvecs.grad is not None and rotvecs.grad.isfinite().all() and rotvecs.grad.any()


def test_a_body_without_pose_correctives_equals_one_whose_correctives_are_zero(made_up_body: Body) -> None:
    rotmats, betas = rotvec_to_rotmat(poses("random")), shapes()
    assert made_up_body.posedirs is not None
    without, zeros = replace(made_up_body, posedirs=None), replace(made_up_body, posedirs=made_up_body.posedirs * 0)
    a, b = (BodyLayer(body, dtype=torch.float64)(rotmats=rotmats, betas=betas).vertices_m for body in (without, zeros))
    assert (a - b).abs().max() < 1e-12
    moved = BodyLayer(made_up_body, dtype=torch.float64)(rotmats=rotmats, betas=betas).vertices_m
    assert (moved - a).abs().max() > 1e-3  # so that correctives are tested at all


def test_chosen_vertices_are_those_of_the_whole_body_in_the_order_asked_for(made_up_body: Body) -> None:
    rotmats, betas = rotvec_to_rotmat(poses("random")), shapes()
    ids = np.array([200, 3, 77, 3])
    whole = BodyLayer(made_up_body, dtype=torch.float64)(rotmats=rotmats, betas=betas)
    part = BodyLayer(made_up_body, vertex_ids=ids, dtype=torch.float64)(rotmats=rotmats, betas=betas)
    assert part.vertices_m.shape == (4, 4, 3)
    torch.testing.assert_close(part.vertices_m, whole.vertices_m[:, ids], atol=1e-12, rtol=0)
    torch.testing.assert_close(part.joints_m, whole.joints_m, atol=1e-12, rtol=0)


def test_joints_only_equals_the_joints_of_the_whole_body(made_up_body: Body) -> None:
    rotmats, betas = rotvec_to_rotmat(poses("random")), shapes()
    layer = BodyLayer(made_up_body, dtype=torch.float64)
    expected = layer(rotmats=rotmats, betas=betas).joints_m
    torch.testing.assert_close(layer.joints_only(rotmats=rotmats, betas=betas), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_any_batch_shape_gives_each_person_their_own_body(made_up_body: Body, batch: tuple[int, ...]) -> None:
    layer, keypoints = BodyLayer(made_up_body, dtype=torch.float64), KeypointLayer(made_up_body, BODY33, torch.float64)
    count = int(np.prod(batch))
    rotmats = rotvec_to_rotmat(poses("random", batch=count)).reshape(*batch, 24, 3, 3)
    betas = shapes(batch=count).reshape(*batch, 10)
    posed, named = layer(rotmats=rotmats, betas=betas), keypoints(rotmats=rotmats, betas=betas)
    assert posed.vertices_m.shape == (*batch, 260, 3) and named.shape == (*batch, 33, 3)
    for i in np.ndindex(batch):
        alone = layer(rotmats=rotmats[i][None], betas=betas[i][None])
        torch.testing.assert_close(posed.vertices_m[i], alone.vertices_m[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(posed.joints_m[i], alone.joints_m[0], atol=1e-12, rtol=0)


def test_keypoints_are_the_regressor_on_posed_vertices_and_single_vertices(made_up_body: Body) -> None:
    rotmats, betas = rotvec_to_rotmat(poses("random")), shapes()
    whole, _ = oracle(made_up_body, rotations=rotmats, betas=betas)
    found = KeypointLayer(made_up_body, BODY33, torch.float64)(rotmats=rotmats, betas=betas)
    assert not isinstance(made_up_body.J_regressor, np.ndarray)
    regressed = torch.as_tensor(made_up_body.J_regressor.toarray()) @ whole
    for i, name in enumerate(BODY33.names):
        expected = (
            regressed[:, SMPL24.index(name)] if name in SMPL24.names else whole[:, made_up_body.keypoint_vertices[name]]
        )
        assert (found[:, i] - expected).abs().max() < 1e-10, name


def test_keypoints_compute_only_the_vertices_that_matter(made_up_body: Body) -> None:
    layer = KeypointLayer(made_up_body, JointSet("two", ("nose", "left_heel")))
    assert layer.layer.v_template.shape == (2, 3)


def test_a_keypoint_that_the_body_lacks_is_named(made_up_body: Body) -> None:
    with pytest.raises(ValueError, match="'tail'"):
        KeypointLayer(made_up_body, JointSet("odd", ("nose", "tail")))


def test_the_root_turns_the_whole_body_about_the_pelvis(made_up_body: Body) -> None:
    layer = BodyLayer(made_up_body, dtype=torch.float64)
    rotmats, betas = rotvec_to_rotmat(poses("random")), shapes()
    turn = rotvec_to_rotmat(torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64))
    before = layer(rotmats=rotmats, betas=betas)
    after = layer(rotmats=torch.cat([turn @ rotmats[:, :1], rotmats[:, 1:]], dim=1), betas=betas)
    pelvis = before.joints_m[:, :1]
    torch.testing.assert_close(after.vertices_m - pelvis, (before.vertices_m - pelvis) @ turn.mT, atol=1e-10, rtol=0)


def test_a_layer_adds_nothing_to_checkpoints(made_up_body: Body) -> None:
    """A body file is not the user's to hand on inside a checkpoint."""
    assert not BodyLayer(made_up_body).state_dict() and not KeypointLayer(made_up_body, BODY33).state_dict()


def test_nobody_has_no_mesh(body: Body) -> None:
    posed = BodyLayer(body)(rotmats=torch.zeros(0, 24, 3, 3), betas=torch.zeros(0, 10))
    assert posed.vertices_m.shape == (0, len(body.v_template), 3) and posed.joints_m.shape == (0, 24, 3)
