"""The stream: exact batches in a planned order, however many workers take them, and wherever they begin."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch

from mesh_lib.body.joints import BODY33
from mesh_lib.datasets.images import BadImage, encode_jpeg
from mesh_lib.geometry import crop
from pipelines import storage
from pipelines.cutter import Cutter, truth_columns
from pipelines.mixture import make_feeds
from pipelines.sources import open_source
from pipelines.stream import batches, crop_stream
from pipelines.train_annotator import AnnotatorTraining
from pipelines.windows import Feed, StreamConfig, planned

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


def test_windows_mix_row_groups_and_hold_whole_batches(both: Feed) -> None:
    many = dataclasses.replace(both.sources[0], groups=tuple(("a.parquet", i, 10) for i in range(50)))
    feed = Feed("strong", (many, many), 8)
    windows = list(planned(feed, StreamConfig(shuffle_rows=100), range(0, 1000)))
    assert [w.start for w in windows] == list(range(0, 1000, 128)), "16 batches: the power of two above 100 rows"
    assert [w.rows for w in windows] == [128] * 7 + [104], "the epoch ends within a window"
    rows = {(p.source, p.group, row) for w in windows for p in w.pieces for row in range(p.low, p.high)}
    assert len(rows) == 1000, "every row of every group once"
    assert all(len({piece.source for piece in w.pieces}) == 2 for w in windows)
    part = list(planned(feed, StreamConfig(shuffle_rows=100), range(2150, 2300)))
    assert [(w.epoch, w.start, w.rows) for w in part] == [(2, 2048, 128), (2, 2176, 128)]
    large = dataclasses.replace(many, groups=(("a.parquet", 0, 1000), ("a.parquet", 1, 20)))
    windows = list(planned(Feed("strong", (large,), 8), StreamConfig(shuffle_rows=100), range(0, 1020)))
    assert [w.rows for w in windows] == [1020], "no row group is read for many windows"


def test_blocks_are_whole_batches_as_they_were_yielded(both: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that were joined or cut on its way would be copied, and the trainer would join its batches again."""
    monkeypatch.setattr("pipelines.cutter.BLOCK_BYTES", 2 * 8 * 3 * 64 * 64)
    crops = crop_stream(both, config=StreamConfig(shuffle_rows=32), input_size=SIZE, span=range(36))
    sizes = [len(block) for block in crops.iter_batches(batch_size=None, batch_format="pyarrow")]
    assert sizes == [16, 16, 4]


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

    assert counts([studio, street3d], [street]) == {"studio": 64, "street3d": 32, "street": 96}, "by size"
    assert counts([studio, street3d], [street], batch_size=8) == {"studio": 3, "street3d": 1, "street": 4}
    assert counts([studio], [street], batch_size=10, weak_share=0.3) == {"studio": 7, "street": 3}
    assert counts([studio], [street], batch_size=12, workers=3, accumulate=2) == {"studio": 3, "street": 3}
    assert counts([studio, street3d], [street], batch_size=12, workers=6) == {"strong": 6, "street": 6}, "one each"
    assert counts([studio, street3d], [street], strong_shares=(0.75, 0.25)) == {
        "studio": 72, "street3d": 24, "street": 96,
    }  # fmt: skip
    assert counts([studio], [], weak_share=0) == {"studio": 96 * 2}
    huge = dataclasses.replace(studio, groups=((*studio.groups[0][:2], 10**6),))
    assert counts([huge, street3d], [street])["street3d"] == 1, "a small dataset is in every batch"
    for wrong, message in (
        ({"batch_size": 6, "workers": 2}, "do not split over 2 workers"),
        ({"batch_size": 6, "workers": 1, "accumulate": 2}, "1 workers and 2 parts"),
        ({"strong_shares": (1.0,)}, "has 1 parts for 2 datasets"),
        ({"weak_share": 0}, "datasets were given for it"),
    ):
        with pytest.raises(ValueError, match=message):
            counts([studio, street3d], [street], **wrong)
    with pytest.raises(ValueError, match="no such dataset was given"):
        counts([studio], [])
    unfounded = dataclasses.replace(street, has_3d=True)  # as files say whose 3D columns are filled, with nothing valid
    with pytest.raises(ValueError, match=r"street has 3D truth[\s\S]*pass it as --weak"):
        counts([unfounded], [street])
    with pytest.raises(ValueError, match=r"street has 3D truth[\s\S]*pass it as --weak"):
        counts([street], [street])
    with pytest.raises(ValueError, match=r"withhold_3d names .*gone"):
        counts([studio], [street], withhold_3d=("gone",))


def test_a_dataset_keeps_its_part_of_the_batch_when_its_3d_is_withheld(tiny_world: Path) -> None:
    studio, street3d, street = (open_source(str(tiny_world / n)) for n in ("studio", "street3d", "street"))
    training = AnnotatorTraining(batch_size=72, withhold_3d=(street3d.path,))
    known, hidden, weak = make_feeds(training, strong=[studio, street3d], weak=[street])
    assert (known.count, hidden.count, weak.count) == (24, 12, 36)
    for feed in (known, hidden):
        rows = crop_stream(feed, config=StreamConfig(), input_size=SIZE, span=range(12)).take_all()
        assert len(rows) == 12 and all(row["weak"] == (feed is hidden) == (not row["smpl_valid"]) for row in rows)
        assert all(row["keypoints_3d_m"].any() == (feed is known) for row in rows)
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


def test_what_is_not_finite_is_not_known(tiny_world: Path) -> None:
    table = storage.read_parquet(str(tiny_world / "studio")).slice(0, 4)
    joint_set = open_source(str(tiny_world / "studio")).joint_set
    whole = truth_columns(table, joint_set, weak=False)
    assert whole["smpl_valid"].all() and not whole["weak"].any()
    rows = table.to_pylist()
    nose = joint_set.index("nose")
    rows[0]["keypoints_2d_px"][3 * nose] = float("nan")
    rows[1]["keypoints_3d_m"][4 * nose + 1] = float("inf")
    rows[2]["smpl_body_pose"][5] = float("nan")
    rows[3] |= {"smpl_valid": False, "keypoints_3d_m": [0.0] * len(rows[3]["keypoints_3d_m"])}
    found = truth_columns(pa.Table.from_pylist(rows, schema=table.schema), joint_set, weak=False)
    at = BODY33.index("nose")
    assert not found["keypoints_2d_px"][0, at].any() and not found["keypoints_3d_m"][1, at].any()
    assert found["smpl_valid"].tolist() == [True, True, False, False]
    assert found["weak"].tolist() == [False, False, False, True], "nothing in 3D: the regulariser holds it"
    assert all(np.isfinite(values).all() for values in found.values())


def test_the_crop_shows_what_the_affine_says(tiny_world: Path) -> None:
    """A dot at a known place of a picture that is stored as a shifted, scaled crop; every augmentation at once."""
    table = storage.read_parquet(str(tiny_world / "studio")).slice(0, 1)
    stored = np.zeros((120, 160, 3), np.uint8)
    cv2.circle(stored, (70, 50), 3, (255, 255, 255), -1)
    row = table.to_pylist()[0] | {
        "image": encode_jpeg(stored), "image_size": [640, 480], "bbox_xywh_px": [150.0, 60.0, 200.0, 260.0],
        "crop_to_image": [2.0, 0.0, 120.0, 0.0, 2.5, 60.0],
    }  # fmt: skip
    augmentation = crop.Augmentation(scale=1.1, rotation_rad=0.4, flip=True, colour=(0.9, 0.9, 0.9))
    out = np.zeros((256, 192, 3), np.uint8)
    affine, _ = Cutter(pa.Table.from_pylist([row], schema=table.schema)).cut(0, out=out, augmentation=augmentation)
    expected = crop.apply_affine(affine, np.array([70 * 2.0 + 120, 50 * 2.5 + 60]))
    bright = np.where(out[..., 0] > 100, out[..., 0].astype(float), 0)
    ys, xs = np.mgrid[:256, :192]
    assert [(xs * bright).sum() / bright.sum(), (ys * bright).sum() / bright.sum()] == pytest.approx(expected, abs=0.5)
    lost = pa.Table.from_pylist([row | {"crop_to_image": None}], schema=table.schema)
    with pytest.raises(BadImage, match="crop_to_image"):
        Cutter(lost).cut(0, out=out)


def test_files_that_do_not_go_together_are_refused(tiny_world: Path, tmp_path: Path) -> None:
    table = storage.read_parquet(str(tiny_world / "studio"))
    wrong = {
        "schema version 99": table.replace_schema_metadata({**(table.schema.metadata or {}), b"schema_version": b"99"}),
        "mixes joint sets": storage.read_parquet(str(tiny_world / "studio")).replace_schema_metadata(
            {**(table.schema.metadata or {}), b"joint_set": b"other"}
        ),
        "lacks columns of the samples table: camera": table.drop_columns(["camera"]),
    }
    for number, (said, second) in enumerate(wrong.items()):
        storage.write_parquet(table, str(tmp_path / str(number) / "a.parquet"))
        storage.write_parquet(second, str(tmp_path / str(number) / "b.parquet"))
        with pytest.raises(ValueError, match=said):
            open_source(str(tmp_path / str(number)))
