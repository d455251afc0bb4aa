"""Mesh errors: known answers, and F-scores by brute force and by a tree."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial import KDTree
from torch import Tensor

from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.metrics.meshes import f_score, mpvpe_mm, pa_mpvpe_mm


@pytest.fixture(scope="module")
def hands() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 300, 3, generator=generator, dtype=torch.float64) * 0.1
    return target + torch.randn(target.shape, generator=generator, dtype=torch.float64) * 0.006, target


def test_a_shift_of_3_mm_is_mpvpe_3_and_pa_mpvpe_0(hands: tuple[Tensor, Tensor]) -> None:
    _, target = hands
    shifted = target + torch.tensor([0.001, 0.002, 0.002], dtype=torch.float64)
    assert mpvpe_mm(predicted_m=shifted, target_m=target).tolist() == pytest.approx([3.0] * 3)
    turned = 0.8 * shifted @ rotvec_to_rotmat(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
    assert pa_mpvpe_mm(predicted_m=turned, target_m=target).max() < 1e-9
    mirrored = target * torch.tensor([1.0, 1, -1], dtype=torch.float64)
    assert pa_mpvpe_mm(predicted_m=mirrored, target_m=target).min() > 1


def test_f_of_a_mesh_with_itself_is_1_and_with_one_far_away_0(hands: tuple[Tensor, Tensor]) -> None:
    _, target = hands
    assert f_score(predicted_m=target, target_m=target, threshold_mm=5.0).tolist() == [1.0] * 3
    assert f_score(predicted_m=target + 1, target_m=target, threshold_mm=15.0).tolist() == [0.0] * 3


def test_f_weighs_precision_against_recall() -> None:
    """Half of what is predicted is right, and all of the truth is found: 2 · 0.5 · 1 / 1.5."""
    target = torch.tensor([[0.0, 0, 0]])
    predicted = torch.tensor([[0.004, 0, 0], [0.006, 0, 0]])
    assert f_score(predicted_m=predicted, target_m=target, threshold_mm=5.0).item() == pytest.approx(2 / 3)
    assert f_score(predicted_m=target, target_m=predicted, threshold_mm=5.0).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("threshold_mm", [2.0, 5.0, 15.0])
def test_f_is_that_of_loops_and_of_a_tree(hands: tuple[Tensor, Tensor], threshold_mm: float) -> None:
    predicted, target = hands
    found = f_score(predicted_m=predicted, target_m=target, threshold_mm=threshold_mm)
    for i in range(3):
        a, b = predicted[i].numpy(), target[i].numpy()
        precision = (KDTree(b).query(a)[0] < threshold_mm / 1000).mean()
        recall = (KDTree(a).query(b)[0] < threshold_mm / 1000).mean()
        assert found[i].item() == pytest.approx(2 * precision * recall / (precision + recall))
    a, b = predicted[0, :40].tolist(), target[0, :30].tolist()

    def share(these: list[list[float]], those: list[list[float]]) -> float:
        near = [min(sum((x - y) ** 2 for x, y in zip(p, q, strict=True)) ** 0.5 for q in those) for p in these]
        return sum(1000 * d < threshold_mm for d in near) / len(near)

    p, r = share(a, b), share(b, a)
    brute = f_score(predicted_m=predicted[0, :40], target_m=target[0, :30], threshold_mm=threshold_mm)
    assert brute.item() == pytest.approx(2 * p * r / (p + r) if p + r else 0)


def test_f_in_float32_far_from_the_origin_is_not_lost_to_rounding(hands: tuple[Tensor, Tensor]) -> None:
    predicted, target = (points + torch.tensor([0.0, 0, 40], dtype=torch.float64) for points in hands)
    double = f_score(predicted_m=predicted, target_m=target, threshold_mm=5.0)
    single = f_score(predicted_m=predicted.float(), target_m=target.float(), threshold_mm=5.0)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, atol=0.01, rtol=0)


def test_any_batch_and_people_who_are_no_numbers(hands: tuple[Tensor, Tensor]) -> None:
    predicted, target = hands
    spoilt = predicted.clone()
    spoilt[1, 5, 0] = torch.nan
    whole = f_score(predicted_m=predicted, target_m=target, threshold_mm=5.0)
    found = f_score(predicted_m=spoilt[None], target_m=target[None], threshold_mm=5.0)
    assert found.shape == (1, 3) and found[0, 1].isnan() and found[0, 0] == whole[0] and found[0, 2] == whole[2]
    assert f_score(predicted_m=predicted[:0], target_m=target[:0], threshold_mm=5.0).shape == (0,)
    assert f_score(predicted_m=predicted[:, :0], target_m=target, threshold_mm=5.0).isnan().all()
    point = torch.zeros(1, 3)
    assert f_score(predicted_m=point.expand(7, 3), target_m=point, threshold_mm=5.0) == 1
    with pytest.raises(ValueError, match="above 0"):
        f_score(predicted_m=point, target_m=point, threshold_mm=0.0)
