"""I2L-MeshNet's losses by their definitions, with the published weights and masks."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from mesh_lib.losses.lixel import (
    FIT_WITHIN_LIXELS,
    FIT_WITHIN_M,
    LixelLossConfig,
    LixelTargets,
    ParameterTargets,
    Surface,
    fit_is_close,
    lixel_losses,
    parameter_losses,
    surface_losses,
)
from mesh_lib.nets.lixel import LixelOutput, LixelParameters

BATCH, JOINTS, FACES = 2, 5, np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
SURFACE = Surface.of(FACES)
TERMS = {"joint_fit", "joint_orig", "mesh_joint_fit", "mesh_joint_orig", "mesh_fit", "mesh_normal", "mesh_edge"}


def points(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(BATCH, count, 3, generator=torch.Generator().manual_seed(seed)) * 60


def perfect() -> tuple[LixelOutput, LixelTargets]:
    joints, mesh = points(JOINTS), points(4, seed=1)
    known, one = torch.ones(BATCH, JOINTS), torch.ones(BATCH)
    targets = LixelTargets(
        joints_orig=joints, joints_orig_valid=known, depth_valid=one, joints_fit=joints, joints_fit_valid=known,
        mesh_fit=mesh, mesh_fit_valid=torch.ones(BATCH, 4), fit_valid=one,
    )  # fmt: skip
    return LixelOutput(joints=joints, mesh=mesh, mesh_joints=joints), targets


def losses(output: LixelOutput, targets: LixelTargets, **config: Any) -> dict[str, float]:
    found = lixel_losses(output, targets, surface=SURFACE, config=LixelLossConfig(**config))
    return {name: value.item() for name, value in found.items()}


def test_a_perfect_answer_costs_nothing_but_the_edges_that_stand_on_their_faces() -> None:
    """Edges lie in their faces, so normals cost nothing either."""
    found = losses(*perfect())
    assert found.keys() == TERMS and all(abs(value) < 1e-6 for value in found.values()), found


def test_joints_and_vertices_off_by_one_lixel_along_x_cost_a_third() -> None:
    """The mean runs over coordinates; every weight is 1."""
    output, targets = perfect()
    step = torch.tensor([1.0, 0, 0])
    moved = LixelOutput(joints=output.joints + step, mesh=output.mesh + step, mesh_joints=output.mesh_joints + step)
    found = losses(moved, targets)
    for name in TERMS - {"mesh_normal", "mesh_edge"}:
        assert found[name] == pytest.approx(1 / 3, abs=1e-5), name
    assert found["mesh_edge"] == pytest.approx(0, abs=1e-5) == found["mesh_normal"], "neither sees a shift"


def test_a_mesh_of_twice_the_size_costs_its_edges_mean_length() -> None:
    output, targets = perfect()
    found = losses(dataclasses.replace(output, mesh=output.mesh * 2), targets)
    pairs = [(f[i], f[j]) for f in FACES for i, j in itertools.combinations(range(3), 2)]
    lengths = [float((output.mesh[b, i] - output.mesh[b, j]).norm()) for b in range(BATCH) for i, j in pairs]
    assert found["mesh_edge"] == pytest.approx(np.mean(lengths), rel=1e-5)


def test_an_edge_that_stands_upright_on_its_face_costs_the_published_tenth() -> None:
    """A triangle in the plane z = 0, of whose predicted edges two point along z: cosines 1, 1 and 0."""
    flat = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]).expand(BATCH, 3, 3)
    bent = torch.tensor([[0.0, 0, 0], [0, 0, 5], [0, 0, 5]]).expand(BATCH, 3, 3).clone()
    bent[:, 2, 0] = 1e-3
    bent[:, 1, 0] = -1e-3
    normal, _ = surface_losses(
        bent, flat, torch.ones(BATCH, 3), surface=Surface.of(np.array([[0, 1, 2]])), config=LixelLossConfig()
    )
    assert normal.item() == pytest.approx(0.1 * 2 / 3, rel=1e-5)


def by_definition(predicted: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> tuple[float, float]:
    """Equations 11 and 12 in double precision, face by face, meaned as released."""
    normals, edges = [], []
    for p, t, v in zip(predicted.double(), target.double(), valid, strict=True):
        for face in FACES:
            a, b, c = t[face]
            normal = torch.linalg.cross(b - a, c - a)
            normal = normal / normal.norm()
            for i, j in itertools.combinations(face, 2):
                step = p[i] - p[j]
                normals.append(float((step / step.norm() @ normal).abs() * v[face].prod()))
                edges.append(float((step.norm() - (t[i] - t[j]).norm()).abs() * v[i] * v[j]))
    return 0.1 * float(np.mean(normals)), float(np.mean(edges))


def test_each_edge_is_computed_once_and_counts_as_often_as_faces_have_it() -> None:
    assert len(SURFACE.edges) == 6 and SURFACE.edge_faces.sum() == 12
    valid = torch.tensor([[1.0, 1, 1, 1], [1, 0, 1, 1]])
    predicted, target = points(4, seed=2), points(4, seed=3)
    found = surface_losses(predicted, target, valid, surface=SURFACE, config=LixelLossConfig())
    assert [value.item() for value in found] == pytest.approx(by_definition(predicted, target, valid), rel=1e-5)


def test_coinciding_vertices_have_gradients() -> None:
    mesh = torch.zeros(BATCH, 4, 3, requires_grad=True)
    normal, edge = surface_losses(mesh, points(4), torch.ones(BATCH, 4), surface=SURFACE, config=LixelLossConfig())
    (normal + edge).backward()
    assert mesh.grad is not None and mesh.grad.isfinite().all()


def test_without_a_fit_a_sample_feels_the_datasets_joints_alone() -> None:
    output, targets = perfect()
    moved = LixelOutput(joints=output.joints + 1, mesh=output.mesh * 2, mesh_joints=output.mesh_joints + 1)
    found = losses(moved, dataclasses.replace(targets, fit_valid=torch.zeros(BATCH)))
    assert {name for name, value in found.items() if value > 0} == {"joint_orig", "mesh_joint_orig"}


def test_2d_joints_teach_no_depth() -> None:
    output, targets = perfect()
    deeper = dataclasses.replace(output, joints=output.joints + torch.tensor([0.0, 0, 1]))
    flat = dataclasses.replace(targets, depth_valid=torch.zeros(BATCH))
    assert losses(deeper, flat)["joint_orig"] == 0 and losses(deeper, targets)["joint_orig"] > 0.3
    assert losses(deeper, flat)["joint_fit"] > 0.3, "a fit has depth"


def test_nan_outside_the_masks_reaches_neither_losses_nor_gradients() -> None:
    output, targets = perfect()
    nothing = torch.zeros(BATCH, JOINTS)
    unknown = dataclasses.replace(
        targets, joints_orig=torch.full_like(targets.joints_orig, torch.nan), joints_orig_valid=nothing,
        mesh_fit=torch.full_like(targets.mesh_fit, torch.nan), fit_valid=torch.zeros(BATCH),
    )  # fmt: skip
    mesh = (output.mesh + 1).requires_grad_()
    terms = lixel_losses(dataclasses.replace(output, mesh=mesh), unknown, surface=SURFACE, config=LixelLossConfig())
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()
    assert loss.isfinite() and mesh.grad is not None and mesh.grad.isfinite().all()


def test_normalising_by_valid_entries_undoes_the_masked_zeros() -> None:
    output, targets = perfect()
    moved = dataclasses.replace(output, mesh=output.mesh * 2, joints=output.joints + 1)
    half = dataclasses.replace(targets, fit_valid=torch.tensor([1.0, 0.0]))
    every, valid = losses(moved, half), losses(moved, half, normalise_by="valid")
    for name in ("joint_fit", "mesh_fit", "mesh_edge"):
        assert valid[name] == pytest.approx(2 * every[name]), name


def test_terms_can_be_left_out() -> None:
    output, targets = perfect()
    assert losses(output, targets, joint_orig=False).keys() == TERMS - {"joint_orig", "mesh_joint_orig"}
    alone = dataclasses.replace(output, joints=output.joints[:, :0])
    assert losses(alone, targets).keys() == TERMS - {"joint_orig", "joint_fit"}, "there is no PoseNet"


def test_stage_two_is_l1_on_parameters_and_joints() -> None:
    turns, betas, joints = torch.eye(3).expand(BATCH, 24, 3, 3), torch.zeros(BATCH, 10), points(JOINTS) / 100
    answer = LixelParameters(rotmats=turns, betas=betas + 1, vertices_rel_m=points(4), joints_rel_m=joints + 0.03)
    targets = ParameterTargets(
        rotmats=turns, betas=betas, joints_fit_rel_m=joints, fit_valid=torch.tensor([1.0, 0.0]),
        joints_orig_rel_m=joints, joints_orig_valid=torch.ones(BATCH, JOINTS),
    )  # fmt: skip
    found = parameter_losses(answer, targets, config=LixelLossConfig())
    expected = {"pose_param": 0, "shape_param": 0.5, "joint_orig_cam": 0.03, "joint_fit_cam": 0.015}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, abs=1e-6)
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned = dataclasses.replace(answer, rotmats=quarter.expand(BATCH, 24, 3, 3))
    angle = parameter_losses(turned, targets, config=LixelLossConfig())["pose_param"].item()
    assert angle == pytest.approx(np.pi / 2 / 3 / 2, rel=1e-5), "one axis of three, one sample of two"
    matrix = parameter_losses(turned, targets, config=LixelLossConfig(pose_space="rotmat"))["pose_param"].item()
    assert matrix == pytest.approx(4 / 9 / 2, rel=1e-5)


def test_a_fit_teaches_where_it_is_close_by_the_released_limits() -> None:
    truth, known = torch.rand(4, 6, 2), torch.ones(4, 6)
    known[2, 3:], known[3] = 0, 0
    fit = truth + torch.tensor([[2.9], [3.1], [2.9], [0.0]])[:, None] * torch.tensor([1.0, 0.0])
    fit[2, 3:] = torch.nan
    assert fit_is_close(fit, truth, known, within=FIT_WITHIN_LIXELS, aligned=False).tolist() == [1, 0, 1, 0]


def test_a_3d_fit_may_lie_elsewhere() -> None:
    truth = torch.rand(2, 6, 3)
    apart = torch.tensor([1.0, -1, 1, -1, 1, -1])[:, None] * torch.tensor([0.0, 0, 1.0])
    fit = truth + 2.0 + torch.tensor([0.024, 0.026])[:, None, None] * apart
    assert fit_is_close(fit, truth, torch.ones(2, 6), within=FIT_WITHIN_M, aligned=True).tolist() == [1, 0]
    assert not fit_is_close(fit, truth, torch.ones(2, 6), within=FIT_WITHIN_M, aligned=False).any()
