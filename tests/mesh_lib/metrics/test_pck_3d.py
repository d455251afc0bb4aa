"""3DPCK and its matching by loops, the curve of hands by hand, and MuPoTS' real truth against itself."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import Tensor

from mesh_lib.datasets.mupots import Mupots
from mesh_lib.datasets.people import LocalFiles, Person
from mesh_lib.metrics.pck_3d import (
    UNMATCHED,
    auc_3d_percent,
    bones_of_target,
    hand_auc,
    hand_pck,
    match_people,
    pck_3d_percent,
)
from mesh_lib.metrics.protocols import MUPOTS, MUPOTS_BONES
from mesh_lib.metrics.scorers import People, scorer_of


def off_by(millimetres: list[float]) -> tuple[Tensor, Tensor]:
    """One person whose joints are off by so much."""
    target = torch.randn(1, len(millimetres), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    predicted = target.clone()
    predicted[0, :, 2] += torch.tensor(millimetres, dtype=torch.float64) / 1000
    return predicted, target


def test_pck_counts_joints_within_150_mm_and_the_area_under_it() -> None:
    predicted, target = off_by([0, 149, 151, 400])
    assert pck_3d_percent(predicted_m=predicted, target_m=target).tolist() == [50.0]
    # of the thresholds 0, 5 … 150 the first joint is within all 31, the second within the last alone
    assert auc_3d_percent(predicted_m=predicted, target_m=target).item() == pytest.approx(100 * (31 + 1) / (31 * 4))


def test_truth_has_full_marks_against_itself() -> None:
    _, target = off_by([0] * 14)
    for metric in (pck_3d_percent, auc_3d_percent):
        assert metric(predicted_m=target, target_m=target).tolist() == [100.0]
    assert hand_auc(predicted_m=target, target_m=target).tolist() == [1.0]


def test_the_curve_of_hands_and_its_area_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(4, 21, 3, generator=generator, dtype=torch.float64)
    predicted = target + torch.randn(target.shape, generator=generator, dtype=torch.float64) * 0.02
    curve = hand_pck(predicted_m=predicted, target_m=target)
    area = hand_auc(predicted_m=predicted, target_m=target)
    thresholds = np.linspace(0, 50, 100)
    for i in range(4):
        errors = np.linalg.norm((predicted[i] - target[i]).numpy(), axis=1) * 1000
        want = np.array([np.mean(errors <= t) for t in thresholds])
        np.testing.assert_allclose(curve[i].numpy(), want)
        assert area[i].item() == pytest.approx(scipy.integrate.trapezoid(want, thresholds) / 50)
    single = hand_auc(predicted_m=predicted.float(), target_m=target.float())
    torch.testing.assert_close(single.double(), area, atol=1e-3, rtol=0)
    torch.testing.assert_close(hand_auc(predicted_m=predicted[2], target_m=target[2]), area[2])


def test_who_is_no_number_has_no_share() -> None:
    predicted, target = off_by([0, 1, 2])
    predicted[0, 1, 1] = math.nan
    for metric in (pck_3d_percent, auc_3d_percent, hand_auc):
        assert metric(predicted_m=predicted, target_m=target).isnan().all()
    assert pck_3d_percent(predicted_m=predicted[:0], target_m=target[:0]).shape == (0,)
    point = torch.zeros(1, 1, 3)
    assert pck_3d_percent(predicted_m=point, target_m=point).item() == 100


def match_by_loops(predicted: np.ndarray, target: np.ndarray, visible: np.ndarray) -> list[int]:
    """The best of all pairs that are left, again and again."""
    out = [UNMATCHED] * len(target)
    left = set(range(len(predicted)))
    while True:
        best = None
        for t in range(len(target)):
            for p in left if out[t] == UNMATCHED else ():
                near = [
                    math.dist(predicted[p, j], target[t, j])
                    for j in range(target.shape[1])
                    if visible[t, j] and math.dist(predicted[p, j], target[t, j]) <= 40
                ]
                if near and (best is None or (len(near), -np.mean(near)) > best[0]):
                    best = ((len(near), -np.mean(near)), t, p)
        if best is None:
            return out
        out[best[1]] = best[2]
        left.remove(best[2])


def test_matching_is_that_of_loops() -> None:
    rng = np.random.default_rng(0)
    unmatched = 0
    for _ in range(60):
        people, found = rng.integers(1, 5), rng.integers(0, 6)
        target = rng.uniform(0, 200, (people, 14, 2))
        predicted = target[rng.integers(people, size=found)] + rng.normal(0, 25, (found, 14, 2))
        visible = rng.random((people, 14)) < 0.8
        got = match_people(
            predicted_px=torch.from_numpy(predicted), target_px=torch.from_numpy(target),
            visible=torch.from_numpy(visible),
        ).tolist()  # fmt: skip
        assert got == match_by_loops(predicted, target, visible)
        unmatched += got.count(UNMATCHED)
    assert unmatched > 10


def test_a_prediction_serves_one_person_and_hidden_joints_do_not_count() -> None:
    target = torch.zeros(2, 3, 2)
    target[1] += 10
    one = target[1:] + 1
    everyone = torch.ones(2, 3, dtype=torch.bool)
    assert match_people(predicted_px=one, target_px=target, visible=everyone).tolist() == [UNMATCHED, 0]
    assert match_people(predicted_px=one, target_px=target, visible=~everyone).tolist() == [UNMATCHED] * 2
    assert match_people(predicted_px=one + 500, target_px=target, visible=everyone).tolist() == [UNMATCHED] * 2


def test_bones_of_the_target_keep_the_predictions_directions() -> None:
    parents = (-1, 0, 1, 0)
    target = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 2, 0], [0, 0, 3]])
    predicted = torch.tensor([[5.0, 0, 0], [5, 7, 0], [5, 7, 1], [5, 0, 0]])
    got = bones_of_target(predicted_m=predicted, target_m=target, parents=parents)
    want = torch.tensor([[5.0, 0, 0], [5, 1, 0], [5, 1, 2], [5, 0, 0]])  # the last has no direction
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(bones_of_target(predicted_m=2 * target, target_m=target, parents=parents), target)
    for wrong in ((-1, 0, 1), (-1, -1, 0, 0), (-1, 2, 1, 0)):
        with pytest.raises(ValueError, match="parents"):
            bones_of_target(predicted_m=predicted, target_m=target, parents=wrong)


@pytest.mark.samples
def test_mupots_real_truth_scores_100_against_itself_and_half_of_it_half(samples_dir: Path) -> None:
    reader = Mupots(folder=str(samples_dir / "mupots3d" / "MultiPersonTestSet"))
    found: list[Person] = list(reader.people("TS18", LocalFiles(), Counter()))[:120]
    truth = crowd(found)
    scorer = scorer_of(MUPOTS)
    shuffled = np.random.default_rng(0).permutation(len(found)).tolist()
    columns = scorer.columns(predicted=crowd([found[i] for i in shuffled]), target=truth)
    for name, values in columns.items():
        want = 100.0 if name.endswith("_percent") else 1.0 if name == "matched" else 0.0
        np.testing.assert_allclose(values.numpy(), want, atol=1e-6, err_msg=name)
    bones = scorer_of(MUPOTS_BONES).columns(predicted=truth, target=truth)
    assert bones["pck_all_percent"].min() == 100

    half = scorer.columns(predicted=crowd(found[::2]), target=truth)
    assert half["matched"].sum() == len(found[::2])
    assert half["pck_all_percent"].mean().item() == pytest.approx(50)
    assert half["pck_matched_percent"].nanmean() == 100 and half["pa_mpjpe_mm"].isnan().sum() == len(found[1::2])


def crowd(found: list[Person]) -> People:
    points = np.stack([person.keypoints_3d_m[:, :3] for person in found if person.keypoints_3d_m is not None])
    pixels = np.stack([person.keypoints_2d_px for person in found])
    return People(
        joints_m=torch.from_numpy(points),
        joints_px=torch.from_numpy(pixels[..., :2].copy()),
        visible=torch.from_numpy(pixels[..., 2] > 0),
        image_ids=tuple(person.image_id for person in found),
    )
