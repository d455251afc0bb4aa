"""Labels stand in for the truth of the samples that they are of; samples without one are counted, never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines import storage
from pipelines.labelled import body_of, with_labels
from pipelines.sources import open_source
from pipelines.stream import batches
from pipelines.windows import Feed, StreamConfig

pytestmark = pytest.mark.ray
PAIRS = {
    "smpl_betas": "betas", "smpl_transl_m": "transl_m", "focal_px": "focal_px", "princpt_px": "princpt_px",
}  # fmt: skip


def labels_by_key(folder: str) -> dict[int, dict[str, Any]]:
    table = storage.read_parquet(folder)
    return {row["sample_key"]: row for row in table.to_pylist()}


@pytest.mark.parametrize("kind", ["labels of f", "the truth kept aside"])
def test_every_sample_comes_with_its_own_label(tiny_world: Path, tiny_labels: Path, kind: str) -> None:
    folder = str(tiny_labels) if kind == "labels of f" else str(tiny_world / "truth" / "street")
    source, dropped = with_labels(open_source(str(tiny_world / "street")), folder, unlabelled="error")
    assert source.rows == 24 and not dropped
    feed = Feed("wild", (source,), 8)
    found = list(batches(feed, config=StreamConfig(), input_size=(64, 64), steps=range(3), device=torch.device("cpu")))
    wanted = labels_by_key(str(tiny_labels / "pseudo_gt" / "status=ok") if kind == "labels of f" else folder)
    seen = set()
    for batch in found:
        assert batch["smpl_valid"].all() and not batch["weak"].any()
        assert not batch["keypoints_3d_m"].any(), "of 3D, the label's alone teaches"
        assert (batch["keypoints_2d_px"][..., 2] > 0).any(dim=1).all(), "2D is the sample's own"
        for i, key in enumerate(batch["sample_key"].tolist()):
            label = wanted[key]
            seen.add(key)
            for ours, theirs in PAIRS.items():
                np.testing.assert_array_equal(batch[ours][i].numpy(), np.float32(label[theirs]))
            pose = np.array([*label["global_orient"], *label["body_pose"]], np.float32).reshape(24, 3)
            np.testing.assert_array_equal(batch["smpl_rotvec"][i].numpy(), pose)
    assert seen == set(wanted) and len(seen) == 24


def test_samples_without_a_label_are_counted_by_reason_or_refused(photo_labels: Path) -> None:
    samples = open_source(str(photo_labels / "samples"))
    source, dropped = with_labels(samples, str(photo_labels), unlabelled="drop")
    assert source.rows + dropped.total() == samples.rows and 0 < source.rows < samples.rows
    folders = {p.name.removeprefix("status=") for p in (photo_labels / "pseudo_gt").iterdir() if p.name[0] == "s"}
    assert set(dropped) == folders - {"ok"}
    with pytest.raises(ValueError, match=rf"{dropped.total()} of {samples.rows} samples .* no label .*missing_image"):
        with_labels(samples, str(photo_labels), unlabelled="error")


def test_labels_that_know_fewer_samples_leave_the_others_out(
    tiny_world: Path, tiny_labels: Path, tmp_path: Path
) -> None:
    whole = storage.read_parquet(str(tiny_labels / "pseudo_gt" / "status=ok"))
    pq.write_table(whole.slice(3, 15), tmp_path / "some.parquet", row_group_size=4)
    source, dropped = with_labels(open_source(str(tiny_world / "street")), str(tmp_path), unlabelled="drop")
    assert source.rows == 15 and dropped == {"no_row": 9}
    feed = Feed("wild", (source,), 5)
    found = list(batches(feed, config=StreamConfig(), input_size=(64, 64), steps=range(3), device=torch.device("cpu")))
    keys = torch.cat([batch["sample_key"] for batch in found]).tolist()
    assert sorted(keys) == sorted(whole.slice(3, 15).column("sample_key").to_pylist())


def test_labels_that_do_not_fit_are_refused(tiny_world: Path, tiny_labels: Path, tmp_path: Path) -> None:
    street, studio = (open_source(str(tiny_world / name)) for name in ("street", "studio"))
    with pytest.raises(ValueError, match=r"none of the labels in .* is of a sample in .*studio"):
        with_labels(studio, str(tiny_labels), unlabelled="drop")
    whole = storage.read_parquet(str(tiny_labels / "pseudo_gt" / "status=ok"))
    pq.write_table(pa.concat_tables([whole, whole.slice(0, 2)]), tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match="2 samples have two labels"):
        with_labels(street, str(tmp_path), unlabelled="drop")
    with pytest.raises(ValueError, match="does not hold labels: its files lack betas, body_pose"):
        with_labels(street, str(tiny_world / "studio"), unlabelled="drop")
    with pytest.raises(ValueError, match="no labels at"):
        with_labels(street, str(tmp_path / "nowhere"), unlabelled="drop")


def test_the_body_that_labels_speak_of_is_found(tiny_world: Path, tiny_labels: Path, tmp_path: Path) -> None:
    assert body_of(str(tiny_labels)) == body_of(str(tiny_world / "truth" / "street")) is not None
    assert body_of(str(tmp_path)) is None
