"""Summaries: known means, intervals that cover, pairs that cancel, and people who are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mesh_lib.metrics.summary import Scores, compare


def scores(values: np.ndarray, groups: list[str] | None = None, **more: np.ndarray) -> Scores:
    made = Scores()
    made.add([f"p{i}" for i in range(len(values))], {"error_mm": values, **more}, groups=groups)
    return made


def test_a_summary_is_the_mean_over_those_who_have_a_value() -> None:
    found = scores(np.array([1.0, 2.0, math.nan, 6.0, math.inf])).summary()["error_mm"]
    assert found.mean == 3 and found.people == 3 and found.missing == 2 and found.groups == 5
    assert 1 <= found.low <= 3 <= found.high <= 6
    nobody = scores(np.full(3, math.nan)).summary()["error_mm"]
    assert math.isnan(nobody.mean) and math.isnan(nobody.low) and nobody.missing == 3


def test_people_may_come_in_any_batches_and_as_tensors() -> None:
    values = np.random.default_rng(0).normal(50, 9, 40)
    made = Scores()
    for start in (0, 13, 29):
        some = values[start : {0: 13, 13: 29, 29: 40}[start]]
        made.add([f"p{start + i}" for i in range(len(some))], {"error_mm": torch.from_numpy(some)})
    assert made.summary(seed=4) == scores(values).summary(seed=4)
    np.testing.assert_array_equal(made.columns["error_mm"], values)


def test_the_seed_decides_and_nothing_else() -> None:
    values = np.random.default_rng(0).normal(50, 9, 40)
    first, again, other = (scores(values).summary(seed=seed)["error_mm"] for seed in (1, 1, 2))
    assert first == again != other and first.mean == other.mean


def test_the_interval_is_that_of_the_normal_law_where_that_holds() -> None:
    values = np.random.default_rng(0).normal(50, 10, 900)
    found = scores(values).summary(resamples=4000)["error_mm"]
    half = 1.96 * values.std() / 30
    assert found.low == pytest.approx(values.mean() - half, abs=0.06)
    assert found.high == pytest.approx(values.mean() + half, abs=0.06)


def test_the_interval_covers_the_truth_nearly_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(150):
        found = scores(rng.exponential(10, 60)).summary(seed=trial, resamples=300, level=0.9)["error_mm"]
        hits += found.low <= 10 <= found.high
    assert 0.8 <= hits / 150 <= 0.97


def test_frames_of_one_sequence_are_one_witness() -> None:
    rng = np.random.default_rng(2)
    groups = [f"s{i // 50}" for i in range(500)]
    values = np.repeat(rng.normal(50, 10, 10), 50) + rng.normal(0, 1, 500)
    alone = scores(values).summary()["error_mm"]
    together = scores(values, groups).summary()["error_mm"]
    assert together.groups == 10 and alone.groups == 500 and together.mean == pytest.approx(alone.mean)
    assert (together.high - together.low) > 4 * (alone.high - alone.low)


def test_the_mean_of_groups_gives_each_sequence_one_voice() -> None:
    made = scores(np.array([0.0, 0, 0, 8, math.nan]), ["a", "a", "a", "b", "c"])
    assert made.summary()["error_mm"].mean == 2
    assert made.summary(of="groups")["error_mm"].mean == 4, "c has no value and no voice"
    later = scores(np.array([1.0, 1, 1, 11, 5]), ["a", "a", "a", "b", "c"])
    assert compare(later, made, of="groups")["error_mm"].mean == 2


def test_pairs_cancel_what_makes_people_hard() -> None:
    rng = np.random.default_rng(3)
    old = rng.gamma(4, 20, 200)
    new = old - 2 + rng.normal(0, 3, 200)
    made = compare(scores(new), scores(old))["error_mm"]
    assert made.mean == pytest.approx((new - old).mean()) and made.sure and made.high < 0
    assert made.new == pytest.approx(new.mean()) and made.old == pytest.approx(old.mean())
    alone = scores(new).summary()["error_mm"]
    assert (alone.high - alone.low) > 5 * (made.high - made.low)
    same = compare(scores(old), scores(old))["error_mm"]
    assert same.mean == same.low == same.high == 0 and not same.sure


def test_pairs_are_matched_by_name_and_need_both_values() -> None:
    new, old = scores(np.array([1.0, 2.0, math.nan, 10.0])), Scores()
    old.add(["p3", "p1", "p0", "p2"], {"error_mm": np.array([4.0, math.nan, 3.0, 1.0]), "other_mm": np.zeros(4)})
    made = compare(new, old)
    assert list(made) == ["error_mm"]
    assert made["error_mm"].people == 2 and made["error_mm"].missing == 2
    assert made["error_mm"].mean == 2 and made["error_mm"].new == 5.5 and made["error_mm"].old == 3.5


def test_runs_on_other_people_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"0 people only in the new run, 1 people \(p2\) only in the old"):
        compare(scores(np.zeros(2)), scores(np.zeros(3)))
    with pytest.raises(ValueError, match="group the same people differently"):
        compare(scores(np.zeros(2), ["a", "a"]), scores(np.zeros(2), ["a", "b"]))
    other = Scores()
    other.add(["p0"], {"other_mm": np.zeros(1)})
    with pytest.raises(ValueError, match="no common column"):
        compare(scores(np.zeros(1)), other)


def test_doubled_missing_and_strange_people_are_refused_with_one_message() -> None:
    made = scores(np.zeros(3))
    for again in (["p9", "p9"], ["p9", "p1"]):
        with pytest.raises(ValueError, match="scored twice"):
            made.add(again, {"error_mm": np.zeros(2)})
    with pytest.raises(ValueError, match="columns are error_mm; these are error_px"):
        made.add(["p9"], {"error_px": np.zeros(1)})
    with pytest.raises(ValueError, match="one value each"):
        made.add(["p9"], {"error_mm": np.zeros(2)})
    with pytest.raises(ValueError, match="one value each"):
        made.add(["p9"], {"error_mm": np.zeros(1)}, groups=["a", "b"])
    assert len(made) == 3 and "p9" not in made.person_ids, "who was refused was not added"
    made.require(["p2", "p1", "p0"])
    with pytest.raises(ValueError, match=r"2 people \(p7, p8\) not scored; 1 people \(p0\) not of it"):
        made.require(["p1", "p2", "p8", "p7"])
    with pytest.raises(ValueError, match="nobody was scored"):
        Scores().summary()
    with pytest.raises(ValueError, match="level is between"):
        made.summary(level=95.0)
