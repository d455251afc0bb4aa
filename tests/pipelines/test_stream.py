"""The stream: exact batches in a planned order, however many workers take them, and wherever they begin."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines import storage
from pipelines.stream import Feed, StreamConfig, batches, crop_stream, open_source, planned
from pipelines.train_annotator import AnnotatorTraining, make_feeds

pytestmark = pytest.mark.ray
SIZE = (64, 64)
CPU = torch.device("cpu")


@pytest.fixture
def both(tiny_world: Path) -> Feed:
    """36 people of two datasets, eight a batch."""
    return Feed("strong", tuple(open_source(str(tiny_world / n)) for n in ("studio", "street3d")), 8)


def keys(feed: Feed, steps: range, *, rank: int = 0, workers: int = 1, seed: int = 0) -> np.ndarray:
    """(steps, samples) sample keys."""
    stream = batches(
        feed, config=StreamConfig(seed=seed, shuffle_rows=20), input_size=SIZE, steps=steps, device=CPU, rank=rank,
        workers=workers,
    )  # fmt: skip
    return np.stack([batch["sample_key"].numpy() for batch in stream])


def test_an_epoch_holds_every_sample_once_in_an_order_that_the_seed_fixes(both: Feed) -> None:
    whole = keys(both, range(9))  # two epochs
    assert whole.shape == (9, 8)
    first, second = whole.reshape(2, 36)
    assert len(set(first)) == len(set(second)) == 36
    assert not np.array_equal(first, second), "another order every epoch"
    assert np.array_equal(whole, keys(both, range(9)))
    assert not np.array_equal(whole, keys(both, range(9), seed=1))


def test_batches_do_not_depend_on_the_workers_or_on_where_a_stream_begins(both: Feed) -> None:
    whole = keys(both, range(9))
    halves = [keys(both, range(9), rank=rank, workers=2) for rank in (0, 1)]
    assert np.array_equal(whole, np.concatenate(halves, axis=1))
    assert np.array_equal(whole[6:8], keys(both, range(6, 8)))


def test_long_streams_run_in_segments(both: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = keys(both, range(9))
    monkeypatch.setattr("pipelines.stream.SEGMENT", 1)  # of 20 rows: two batches
    assert np.array_equal(whole, keys(both, range(9)))


def test_a_sample_is_augmented_alike_wherever_it_is_read(both: Feed) -> None:
    def crops(rank: int, workers: int) -> dict[int, np.ndarray]:
        rows = crop_stream(
            both, config=StreamConfig(), input_size=SIZE, span=range(36), rank=rank, workers=workers
        ).take_all()
        return {row["sample_key"]: row["image"] for row in rows}

    one, two = crops(0, 1), crops(0, 2) | crops(1, 2)
    assert len(one) == 36 and one.keys() == two.keys()
    assert all(np.array_equal(one[key], two[key]) for key in one)
    assert one[next(iter(one))].shape == (64, 64, 3)


def test_windows_mix_row_groups_and_cover_the_span(both: Feed) -> None:
    many = dataclasses.replace(both.sources[0], groups=tuple(("a.parquet", i, 10) for i in range(50)))
    feed = Feed("strong", (many, many), 8)
    windows = list(planned(feed, StreamConfig(shuffle_rows=100), range(0, 1000)))
    assert len(windows) == 10 and all(w.rows == 100 for w in windows)
    assert [w.start for w in windows] == list(range(0, 1000, 100))
    assert len({group for w in windows for group in w.groups}) == 100
    part = list(planned(feed, StreamConfig(shuffle_rows=100), range(2150, 2300)))
    assert [(w.epoch, w.start) for w in part] == [(2, 2100), (2, 2200)]


def test_weak_streams_do_not_carry_3d(tiny_world: Path) -> None:
    feed = Feed("weak", (dataclasses.replace(open_source(str(tiny_world / "studio")), weak=True),), 8)
    rows = crop_stream(feed, config=StreamConfig(), input_size=SIZE, span=range(24)).take_all()
    assert len(rows) == 24
    for row in rows:
        assert row["weak"] and not row["smpl_valid"]
        assert not row["keypoints_3d_m"].any() and not row["smpl_rotvec"].any()
        assert row["keypoints_2d_px"].any()


def damage(samples: Path, out: Path, *, every: int) -> None:
    """A copy whose pictures cannot be decoded, each `every`-th of them."""
    table = storage.read_parquet(str(samples))
    pictures = [b"no picture" if i % every == 0 else p for i, p in enumerate(table.column("image").to_pylist())]
    at = table.schema.get_field_index("image")
    storage.write_parquet(table.set_column(at, "image", pa.array(pictures, pa.binary())), str(out / "a.parquet"))


def test_an_unreadable_picture_gives_way_to_its_neighbour(tiny_world: Path, tmp_path: Path) -> None:
    damage(tiny_world / "studio", tmp_path / "some", every=3)
    feed = Feed("strong", (open_source(str(tmp_path / "some")),), 8)
    stream = batches(feed, config=StreamConfig(), input_size=SIZE, steps=range(3), device=CPU)
    made = list(stream)
    assert [len(batch["image"]) for batch in made] == [8, 8, 8], "no batch is short"
    assert sum(int(batch["stand_in"].sum()) for batch in made) == 8
    assert len({int(key) for batch in made for key in batch["sample_key"]}) == 16
    damage(tiny_world / "studio", tmp_path / "all", every=1)
    feed = Feed("strong", (open_source(str(tmp_path / "all")),), 8)
    with pytest.raises(ValueError, match="no picture can be read among 24 neighbouring samples"):
        next(batches(feed, config=StreamConfig(), input_size=SIZE, steps=range(3), device=CPU))


def test_every_dataset_gives_its_exact_share(tiny_world: Path) -> None:
    studio, street3d, street = (open_source(str(tiny_world / n)) for n in ("studio", "street3d", "street"))

    def counts(strong: list, weak: list, **settings) -> dict[str, int]:
        feeds = make_feeds(AnnotatorTraining(**settings), strong=strong, weak=weak)
        return {feed.name.rpartition("/")[2]: feed.count for feed in feeds}

    assert counts([studio, street3d], [street]) == {"strong": 96, "weak": 96}
    assert counts([studio], [street], batch_size=10, weak_share=0.3) == {"strong": 7, "weak": 3}
    assert counts([studio], [street], batch_size=12, workers=3, accumulate=2) == {"strong": 3, "weak": 3}
    assert counts([studio, street3d], [street], strong_shares=(0.75, 0.25)) == {
        "studio": 72, "street3d": 24, "weak": 96,
    }  # fmt: skip
    assert counts([studio], [], weak_share=0) == {"strong": 96 * 2}
    for wrong, message in (
        ({"batch_size": 6, "workers": 2}, "do not split over 2 workers"),
        ({"batch_size": 6, "workers": 1, "accumulate": 2}, "1 workers and 2 parts"),
        ({"strong_shares": (1.0,)}, "has 1 parts for 2 datasets"),
        ({"strong_shares": (0.999, 0.001)}, "less than one of 96"),
        ({"weak_share": 0}, "datasets were given for it"),
    ):
        with pytest.raises(ValueError, match=message):
            counts([studio, street3d], [street], **wrong)
    with pytest.raises(ValueError, match="no such dataset was given"):
        counts([studio], [])
    with pytest.raises(ValueError, match=r"street has 3D truth[\s\S]*pass it as --weak"):
        counts([street], [street])
    with pytest.raises(ValueError, match=r"withhold_3d names .*gone"):
        counts([studio], [street], withhold_3d=("gone",))


def test_a_dataset_keeps_its_part_of_the_batch_when_its_3d_is_withheld(tiny_world: Path) -> None:
    studio, street3d, street = (open_source(str(tiny_world / n)) for n in ("studio", "street3d", "street"))
    training = AnnotatorTraining(batch_size=72, withhold_3d=(street3d.path,))
    strong, weak = make_feeds(training, strong=[studio, street3d], weak=[street])
    assert (strong.count, weak.count) == (36, 36)
    rows = crop_stream(strong, config=StreamConfig(), input_size=SIZE, span=range(36)).take_all()
    hidden = {int(key) for key in storage.read_parquet(street3d.path)["sample_key"].to_pylist()}
    assert sum(row["weak"] for row in rows) == len(hidden) == 12
    assert all(row["weak"] == (row["sample_key"] in hidden) == (not row["smpl_valid"]) for row in rows)
    assert not any(row["keypoints_3d_m"].any() for row in rows if row["weak"])
    everything = dataclasses.replace(training, withhold_3d=("all",))
    assert all(s.weak for feed in make_feeds(everything, strong=[studio], weak=[street]) for s in feed.sources)


@pytest.mark.parametrize("workers", [1, 4])
def test_a_dataset_smaller_than_a_batch_fills_it_all_the_same(tiny_world: Path, tmp_path: Path, workers: int) -> None:
    few = storage.read_parquet(str(tiny_world / "studio")).slice(0, 3)
    storage.write_parquet(few, str(tmp_path / "few" / "a.parquet"))
    feed = Feed("strong", (open_source(str(tmp_path / "few")),), 8)
    parts = [keys(feed, range(3), rank=rank, workers=workers) for rank in range(workers)]
    made = np.concatenate(parts, axis=1)
    assert made.shape == (3, 8)
    assert np.unique(made.ravel(), return_counts=True)[1].tolist() == [8, 8, 8]


def test_a_damaged_shard_is_named(tiny_world: Path, tmp_path: Path) -> None:
    """Its footer is whole, a page is not."""
    shard = next((tiny_world / "studio").glob("*.parquet"))
    data = bytearray(shard.read_bytes())
    data[100:4000] = bytes(3900)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.parquet").write_bytes(data)
    feed = Feed("strong", (open_source(str(tmp_path / "bad")),), 8)
    with pytest.raises(ValueError, match=r"row group 0 of .*bad/a\.parquet cannot be read"):
        keys(feed, range(1))


def test_the_shares_are_exact_in_the_stream(tiny_world: Path) -> None:
    """A dataset of 12 people and one of 24, in equal parts: the smaller one comes round twice as often."""
    sources = [open_source(str(tiny_world / n)) for n in ("studio", "street3d")]
    training = AnnotatorTraining(batch_size=12, weak_share=0, strong_shares=(0.5, 0.5))
    small = {row["sample_key"] for row in storage.read_parquet(sources[1].path).select(["sample_key"]).to_pylist()}
    studio, street3d = (keys(feed, range(4)) for feed in make_feeds(training, strong=sources, weak=[]))
    assert studio.shape == street3d.shape == (4, 6)
    assert set(street3d.ravel()) == small and not set(studio.ravel()) & small
