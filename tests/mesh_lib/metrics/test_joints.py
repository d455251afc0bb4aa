"""Joint errors: known answers, scipy's Procrustes, both dtypes, any batch, people who are hardly any."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.metrics import joints


@pytest.fixture
def target_m() -> Tensor:
    return torch.randn(5, 14, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def predicted_m(target_m: Tensor) -> Tensor:
    noise = torch.randn(target_m.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return moved(target_m) + 0.3 * noise


def moved(points_m: Tensor) -> Tensor:
    turn = rotvec_to_rotmat(torch.tensor([0.3, -2.0, 0.5], dtype=points_m.dtype))
    return 1.7 * points_m @ turn.mT + torch.tensor([1.0, -2.0, 30.0], dtype=points_m.dtype)


METRICS = [joints.mpjpe_mm, joints.pa_mpjpe_mm, joints.axis_errors_mm, joints.pa_axis_errors_mm]


def by_scipy_mm(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(joints, 3) errors after Procrustes, from scipy's orthogonal problem, its mirror image refused by hand."""
    a, b = predicted - predicted.mean(axis=0), target - target.mean(axis=0)
    rotation, _ = scipy.linalg.orthogonal_procrustes(a, b)
    if np.linalg.det(rotation) < 0:
        u, _, vt = np.linalg.svd(a.T @ b)
        u[:, -1] *= -1
        rotation = u @ vt
    scale = np.trace((a @ rotation).T @ b) / np.trace(a.T @ a)
    return (scale * a @ rotation - b) * 1000


def test_pa_mpjpe_is_zero_for_a_rotated_scaled_shifted_copy(target_m: Tensor) -> None:
    assert joints.pa_mpjpe_mm(predicted_m=moved(target_m), target_m=target_m).max() < 1e-9
    assert joints.pa_axis_errors_mm(predicted_m=moved(target_m), target_m=target_m).max() < 1e-9


def test_pa_mpjpe_does_not_mirror(target_m: Tensor) -> None:
    mirrored = target_m * torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    assert joints.pa_mpjpe_mm(predicted_m=mirrored, target_m=target_m).min() > 100


def test_flat_people_may_be_turned_over_for_that_is_no_mirror(target_m: Tensor) -> None:
    flat = target_m * torch.tensor([1.0, 1, 0], dtype=torch.float64)
    over = flat * torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    assert joints.pa_mpjpe_mm(predicted_m=over, target_m=flat).max() < 1e-9


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_procrustes_is_scipys(predicted_m: Tensor, target_m: Tensor, mirror: float) -> None:
    predicted = predicted_m * torch.tensor([mirror, 1, 1], dtype=torch.float64)
    pa = joints.pa_mpjpe_mm(predicted_m=predicted, target_m=target_m)
    axes = joints.pa_axis_errors_mm(predicted_m=predicted, target_m=target_m)
    for i in range(len(target_m)):
        errors = by_scipy_mm(predicted[i].numpy(), target_m[i].numpy())
        assert pa[i].item() == pytest.approx(np.linalg.norm(errors, axis=1).mean(), rel=1e-9)
        np.testing.assert_allclose(axes[i].numpy(), np.abs(errors).mean(axis=0), rtol=1e-9)


def test_no_similarity_that_keeps_hands_brings_the_prediction_nearer(predicted_m: Tensor, target_m: Tensor) -> None:
    def squares(points: Tensor) -> float:
        return float((points - target_m[0]).square().sum())

    best = joints.procrustes(predicted_m=predicted_m, target_m=target_m)[0]
    generator = torch.Generator().manual_seed(2)
    centre = best.mean(dim=0)
    for _ in range(50):
        small = torch.randn(7, generator=generator, dtype=torch.float64) * 0.02
        other = (best - centre) @ rotvec_to_rotmat(small[:3]).mT * (1 + small[3]) + centre + small[4:]
        assert squares(other) > squares(best)


def test_mpjpe_of_one_joint_off_by_14_mm_is_1_mm(target_m: Tensor) -> None:
    off = target_m.clone()
    off[:, 3, 1] += 0.014
    assert joints.mpjpe_mm(predicted_m=off, target_m=target_m).tolist() == pytest.approx([1.0] * 5)


def test_axis_errors_name_the_axis_and_ignore_the_sign(target_m: Tensor) -> None:
    off = target_m.clone()
    off[:, ::2] += torch.tensor([0.001, -0.002, 0.004], dtype=torch.float64)
    off[:, 1::2] -= torch.tensor([0.001, -0.002, 0.004], dtype=torch.float64)
    found = joints.axis_errors_mm(predicted_m=off, target_m=target_m)
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64).expand(5, 3))


def test_the_axis_errors_of_the_papers_tables_are_mean_absolute_ones(predicted_m: Tensor, target_m: Tensor) -> None:
    """Their length bounds PA-MPJPE from below, that of root mean squares from above; the paper's rows tell which."""
    pa = joints.pa_mpjpe_mm(predicted_m=predicted_m, target_m=target_m)
    axes = joints.pa_axis_errors_mm(predicted_m=predicted_m, target_m=target_m)
    assert (axes.norm(dim=1) < pa).all()
    for error, *parts in [(59.6, 21.6, 24.2, 40.8), (47.1, 17.1, 18.5, 32.6), (53.02, 18.7, 19.4, 38.1)]:
        assert math.hypot(*parts) < error


def test_errors_from_the_root_do_not_feel_where_people_stand(predicted_m: Tensor, target_m: Tensor) -> None:
    away = predicted_m + torch.tensor([3.0, -1.0, 8.0], dtype=torch.float64)
    found = [
        joints.mpjpe_mm(
            predicted_m=joints.from_root(p, root_m=p[:, 2]), target_m=joints.from_root(target_m, root_m=target_m[:, 2])
        )
        for p in (predicted_m, away)
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("metric", METRICS)
def test_float32_and_float64_agree(metric: Any, predicted_m: Tensor, target_m: Tensor) -> None:
    double = metric(predicted_m=predicted_m, target_m=target_m)
    single = metric(predicted_m=predicted_m.float(), target_m=target_m.float())
    assert double.dtype == torch.float64 and single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("metric", METRICS)
def test_a_person_has_the_same_error_alone_and_in_any_batch(metric: Any, predicted_m: Tensor, target_m: Tensor) -> None:
    together = metric(predicted_m=predicted_m, target_m=target_m)
    alone = torch.stack([metric(predicted_m=p, target_m=t) for p, t in zip(predicted_m, target_m, strict=True)])
    nested = metric(predicted_m=predicted_m[None, :, None], target_m=target_m[None, :, None])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(nested[0, :, 0], together, rtol=1e-12, atol=1e-9)
    assert len(metric(predicted_m=predicted_m[:0], target_m=target_m[:0])) == 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_person_who_is_no_number_has_no_error_and_spoils_nobody(
    metric: Any, broken: float, predicted_m: Tensor, target_m: Tensor
) -> None:
    spoilt = predicted_m.clone()
    spoilt[1] = broken
    found, whole = metric(predicted_m=spoilt, target_m=target_m), metric(predicted_m=predicted_m, target_m=target_m)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2, 3, 4]], whole[[0, 2, 3, 4]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_single_and_coincident_points_have_an_answer(dtype: torch.dtype, target_m: Tensor) -> None:
    people = target_m.to(dtype)
    point, heap = people[:, :1], people[:, :1].expand(5, 14, 3)
    assert joints.pa_mpjpe_mm(predicted_m=point + 3, target_m=point).max() < 1e-3
    spread = (people - people.mean(dim=1, keepdim=True)).norm(dim=2).mean(dim=1) * 1000
    heaped = joints.pa_mpjpe_mm(predicted_m=heap, target_m=people)
    torch.testing.assert_close(heaped, spread)  # all of them land on the mean
    assert joints.pa_mpjpe_mm(predicted_m=people, target_m=heap).max() < 1e-2  # scaled to nothing, onto the heap


def test_reprojection_counts_visible_joints_only() -> None:
    predicted = torch.tensor([[[3.0, 4.0], [0, 0]], [[1, 1], [0, 0]]])
    target = torch.tensor([[[0.0, 0.0], [float("nan"), 0]], [[1, 1], [9, 9]]])
    visible = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    error = joints.reprojection_px(predicted_px=predicted, target_px=target, visible=visible)
    assert error[0] == 5
    assert error[1].isnan()


def test_a_visible_joint_that_is_no_number_is_no_exact_one() -> None:
    predicted = torch.tensor([[[math.nan, 4.0], [0, 0]]])
    error = joints.reprojection_px(predicted_px=predicted, target_px=torch.zeros(1, 2, 2), visible=torch.ones(1, 2))
    assert error.isnan().all()


def test_steady_motion_has_no_acceleration_error_and_a_known_jerk_its_own(target_m: Tensor) -> None:
    frames = torch.arange(6, dtype=torch.float64)[:, None, None]
    still = target_m[:1].expand(6, 14, 3)
    drift = still + frames * 0.2 + 1
    found = joints.acceleration_error_mm(predicted_m=drift, target_m=still)
    assert found.shape == () and found < 1e-9
    thrown = still + torch.tensor([0.0, 0.003, 0.004], dtype=torch.float64) * frames**2 / 2
    assert joints.acceleration_error_mm(predicted_m=thrown, target_m=still).item() == pytest.approx(5.0)


def test_acceleration_error_is_the_loops_and_leaves_out_invalid_frames(predicted_m: Tensor, target_m: Tensor) -> None:
    generator = torch.Generator().manual_seed(5)
    predicted, target = torch.randn(2, 3, 8, 4, 3, generator=generator, dtype=torch.float64)
    valid = torch.ones(3, 8, dtype=torch.float64)
    valid[1, 3] = 0
    valid[2, 1::2] = 0
    spoilt = predicted.clone()
    spoilt[1, 3] = torch.nan
    found = joints.acceleration_error_mm(predicted_m=spoilt, target_m=target, valid=valid)
    for person in range(2):
        errors = []
        for t in range(1, 7):
            if valid[person, t - 1 : t + 2].min() > 0:
                a, b = (p[person, t - 1] - 2 * p[person, t] + p[person, t + 1] for p in (predicted, target))
                errors += [(a - b).norm(dim=-1).mean().item() * 1000]
        assert len(errors) == (6 if person == 0 else 3)
        assert found[person].item() == pytest.approx(np.mean(errors))
    assert found[2].isnan(), "no three frames in a row"
    assert joints.acceleration_error_mm(predicted_m=predicted[:, :2], target_m=target[:, :2]).isnan().all()
