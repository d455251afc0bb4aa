"""Ingest: nobody is lost, stored crops lead back to the picture, and mistakes are named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from jobs.ingest import Job, main
from mesh_lib import tables
from mesh_lib.body.joints import COCO17
from mesh_lib.datasets.coco import Coco
from mesh_lib.datasets.images import decode
from pipelines import runs, storage
from pipelines.ingest import IngestStage, store

pytestmark = pytest.mark.ray


def ingest(photos: Path, out: Path, stage: IngestStage | None = None) -> Path:
    reader = Coco(annotations=str(photos / "keypoints.json"), images=str(photos))
    main(Job(reader=reader, out=str(out), stage=stage or IngestStage()))
    return out


def test_everyone_is_kept_or_counted(ray_cluster: None, photos: Path, tmp_path: Path) -> None:
    out = ingest(photos, tmp_path / "out")
    rows = storage.read_parquet(str(out))
    assert sorted(rows["person_id"].to_pylist()) == ["1", "4", "5", "6", "7"]
    found = runs.load_run(out, job="ingest")["result"]
    assert found == {"rows": 5, "unreadable_pictures": 2, "skipped": {"no_keypoints": 1, "too_few_keypoints": 1}}
    assert tables.joint_set_of(rows.schema, where="out") == COCO17
    assert set(rows["supervision"].to_pylist()) == {"itw_2d"} and not any(rows["smpl_valid"].to_pylist())


def test_the_least_number_of_keypoints_is_a_setting(ray_cluster: None, photos: Path, tmp_path: Path) -> None:
    out = ingest(photos, tmp_path / "out", IngestStage(min_keypoints=3))
    assert "3" in storage.read_parquet(str(out))["person_id"].to_pylist()


@pytest.mark.parametrize("box", [(90, 50, 100, 170), (250, 150, 200, 300), (2, 2, 316, 236)])
def test_a_stored_crop_leads_back_to_the_picture(box: tuple[int, ...]) -> None:
    """A smooth picture whose colours are its coordinates says where each stored pixel came from."""
    y, x = np.mgrid[0:240, 0:320].astype(np.float64)
    picture = np.stack([x * 0.7, y, x * 0], axis=2).astype(np.uint8)
    data, affine = store(picture, b"", box, IngestStage(margin=1.5, max_side_px=96))
    crop = decode(data).astype(float)
    at = np.array([[10, 10], [40, 30], [60, 70]])
    at = at[(at < np.array(crop.shape[1::-1])).all(axis=1)]
    places = at @ affine[:, :2].T + affine[:, 2]
    for (column, row), (px, py) in zip(at, places, strict=True):
        assert abs(crop[row, column, 0] / 0.7 - px) < 4 and abs(crop[row, column, 1] - py) < 3


def test_the_whole_picture_or_only_its_place_can_be_stored(ray_cluster: None, photos: Path, tmp_path: Path) -> None:
    whole = storage.read_parquet(str(ingest(photos, tmp_path / "whole", IngestStage(store="whole"))))
    uri = storage.read_parquet(str(ingest(photos, tmp_path / "uri", IngestStage(store="uri"))))
    first = whole["image"].to_pylist()[0]
    assert first == (photos / "a.jpg").read_bytes()
    assert uri["image"].null_count == uri.num_rows and uri["image_uri"].to_pylist()[0].endswith("photos/a.jpg")


def test_mistakes_are_named(ray_cluster: None, photos: Path, tmp_path: Path) -> None:
    reader = Coco(annotations=str(photos / "keypoints.json"), images=str(photos))

    def run(out: str = "out", **changed: str) -> None:
        main(Job(reader=dataclasses.replace(reader, **changed), out=str(tmp_path / out)))

    with pytest.raises(ValueError, match=r"no annotation file at .*nope"):
        run(annotations=str(photos / "nope.json"))
    (photos / "other.json").write_text(json.dumps({"pictures": []}))
    with pytest.raises(ValueError, match="has no `images`"):
        run(annotations=str(photos / "other.json"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="none of the pictures is under"):
        run(images=str(empty))
    with pytest.raises(ValueError, match="no such input"):
        run("out2", images=str(tmp_path / "gone"))
    (photos / "nobody.json").write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(ValueError, match="no person to keep"):
        run("out3", annotations=str(photos / "nobody.json"))
    with pytest.raises(ValueError, match="store is crop, whole or uri"):
        IngestStage(store="all")


def test_a_person_with_two_records_of_one_id_is_refused(ray_cluster: None, photos: Path, tmp_path: Path) -> None:
    content = json.loads((photos / "keypoints.json").read_text())
    content["annotations"].append(content["annotations"][0])
    (photos / "keypoints.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="appears twice"):
        ingest(photos, tmp_path / "out")


@pytest.mark.samples
def test_real_coco_pictures(ray_cluster: None, samples_dir: Path, tmp_path: Path) -> None:
    coco = samples_dir / "coco"
    annotations = coco / "annotations" / "person_keypoints_val2017.json"
    main(Job(reader=Coco(annotations=str(annotations), images=str(coco / "val2017")), out=str(tmp_path / "out")))
    rows = storage.read_parquet(str(tmp_path / "out"))
    assert len(rows) and not rows["image"].null_count
    for data, affine in zip(rows["image"].to_pylist(), rows["crop_to_image"].to_pylist(), strict=True):
        picture = decode(data)
        corner = np.array(affine).reshape(2, 3) @ [picture.shape[1] - 1, picture.shape[0] - 1, 1]
        assert (corner > 0).all()
