"""What an export must not do: call two pictures or people one thing, pass off a body as SMPL's, keep all in memory."""

from __future__ import annotations

import json
import logging
import tarfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import export as export_job
from mesh_lib import tables
from mesh_lib.datasets.images import encode_jpeg
from pipelines import export as exports
from pipelines import runs, storage
from pipelines.export import FILE, Found, Joined, export
from tests.people import Someone, write_labels, write_samples

NAMED: Sequence[Any] = ("spin", "eft", "humandata", "coco")


def export_of(people: Sequence[Someone], folder: Path, to: Any, *, vertices: int = 260, **more: Any) -> Found:
    samples = write_samples(folder / "samples", people)
    labels = write_labels(folder / "run", people, vertices=vertices)
    return export(str(folder / "out"), labels=labels, samples=samples, to=to, **{"key": "sample_id", **more})


def names_in(folder: Path, to: Any) -> list[str]:
    path = folder / "out" / FILE[to]
    if to == "coco":
        return [entry["file_name"] for entry in json.loads(path.read_text())["images"]]
    if to == "eft":
        return [entry["imageName"] for entry in json.loads(path.read_text())["data"]]
    with np.load(path, allow_pickle=to == "humandata") as file:
        return [str(name) for name in file["imgname" if to == "spin" else "image_path"]]


TWO_SEQUENCES = [Someone(f"{name}/{i}", f"/data/{name}/image_{i}.jpg") for i in range(4) for name in ("a", "b")]


@pytest.mark.parametrize("to", NAMED)
def test_one_name_for_two_pictures_is_refused_with_the_way_out(tmp_path: Path, to: Any) -> None:
    with pytest.raises(ValueError, match=r"two pictures 'image_\d.jpg': /data/(.|\n)*--images-root /data$") as error:
        export_of(TWO_SEQUENCES, tmp_path, to)
    assert all(f"/data/{name}/image_" in str(error.value) for name in "ab")
    assert not list((tmp_path / "out").glob("[!.]*")), "a file that is wrong is none"


@pytest.mark.parametrize("to", NAMED)
def test_names_below_the_root_are_each_pictures_own(tmp_path: Path, to: Any) -> None:
    assert export_of(TWO_SEQUENCES, tmp_path, to, strip="/data").labels == 8
    assert sorted(names_in(tmp_path, to)) == [f"{name}/image_{i}.jpg" for name in "ab" for i in range(4)]


@pytest.mark.parametrize("to", NAMED)
def test_pictures_without_a_file_are_called_by_their_whole_id(tmp_path: Path, to: Any) -> None:
    people = [Someone(f"S{s}/Seq1/video_0/{i:06d}") for s in (1, 2) for i in range(3)]
    export_of(people, tmp_path, to)
    assert sorted(names_in(tmp_path, to)) == [one.image_id for one in people]


@pytest.mark.parametrize("to", NAMED)
def test_equal_ids_of_two_datasets_are_two_pictures(tmp_path: Path, to: Any) -> None:
    people = [Someone("17"), Someone("17", dataset="other")]
    with pytest.raises(ValueError, match=r"two pictures '17'(.|\n)*one dataset and split at a time"):
        export_of(people, tmp_path, to)


def test_an_image_id_of_two_pictures_is_refused_by_coco(tmp_path: Path) -> None:
    people = [Someone("17", "/data/a.jpg"), Someone("17", "/data/b.jpg", dataset="other")]
    with pytest.raises(ValueError, match=r"two pictures '17': /data/a.jpg and /data/b.jpg(.|\n)*at a time"):
        export_of(people, tmp_path, "coco")


def test_neuralannot_names_no_picture_and_so_refuses_none(tmp_path: Path) -> None:
    assert export_of(TWO_SEQUENCES, tmp_path, "neuralannot").labels == 8


def test_several_people_of_a_picture_share_its_name(tmp_path: Path) -> None:
    people = [Someone("1", "/data/x.jpg", str(i), x=100.0 + i) for i in range(5)]
    assert export_of(people, tmp_path, "coco").labels == 5
    assert names_in(tmp_path, "coco") == ["x.jpg"]


@pytest.mark.parametrize("to", ["neuralannot", "eft", "coco"])
def test_an_annotation_id_that_comes_twice_is_refused(tmp_path: Path, to: Any) -> None:
    """LSP-Extended's person of every picture is 0."""
    people = [Someone("1", "/data/1.jpg"), Someone("2", "/data/2.jpg")]
    with pytest.raises(ValueError, match=r"two labels have the annotation id '0'(.|\n)*--key sample_id"):
        export_of(people, tmp_path, to, key="person_id")
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_eft_keeps_ids_apart_that_are_equal_as_numbers(tmp_path: Path) -> None:
    people = [Someone("1", "/data/1.jpg", "7"), Someone("2", "/data/2.jpg", "07")]
    export_of(people, tmp_path, "eft", key="person_id")
    data = json.loads((tmp_path / "out" / "eft.json").read_text())["data"]
    assert {entry["imageName"]: entry["annotId"] for entry in data} == {"1.jpg": 7, "2.jpg": "07"}


def test_cocos_pictures_are_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names four kilobytes long show what is kept of each."""
    folder = "x" * 4000
    people = [Someone(str(i), f"/{folder}/{i}.jpg") for i in range(1500)]
    labels, samples = write_labels(tmp_path / "run", people), write_samples(tmp_path / "s", people)
    monkeypatch.setattr(exports.coco_smpl, "person_records", lambda labels: [{"id": n} for n in labels.person_id])
    tracemalloc.start()
    found = export(str(tmp_path / "out"), labels=labels, samples=samples, to="coco", key="sample_id", strip="/")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.labels == 1500 and len(names_in(tmp_path, "coco")) == 1500
    assert peak < 1500 * 4000, "less than the names alone"


@pytest.mark.parametrize("to", [*NAMED, "neuralannot"])
def test_labels_of_another_body_than_smpl_come_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, to: Any
) -> None:
    with caplog.at_level(logging.WARNING):
        assert not export_of([Someone("1", "/d/x.jpg")], tmp_path, to).smpl_mesh
    assert "not of SMPL" in caplog.text and str(tmp_path / "run" / "body.npz") in caplog.text


def test_labels_of_smpl_come_without_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert export_of([Someone("1", "/d/x.jpg")], tmp_path, "eft", vertices=6890).smpl_mesh
    assert not caplog.text


def test_mesh_files_of_different_people_have_different_names() -> None:
    parts = [
        "photo 1.jpg",
        "photo_1.jpg",
        "photo%201.jpg",
        ".a",
        "a",
        "%2Ea",
        "..",
        "",
        "%",
        "é",
        "e",
        "a:b",
        "a*b",
        "?",
    ]
    names = [exports._safe(part) for part in parts]
    assert len(set(names)) == len(parts)
    assert not any(name.startswith(".") or "/" in name or not name for name in names)
    assert exports._safe("COCO_train2014_000000000036.jpg") == "COCO_train2014_000000000036.jpg"


@pytest.fixture
def half_readable(tmp_path: Path) -> list[Someone]:
    """Pictures 1 and 4 can be read, 2 is gone, 3 and 5 are damaged."""
    whole = encode_jpeg(np.full((40, 40, 3), 90, np.uint8))
    (tmp_path / "cut.jpg").write_bytes(whole[:200])
    (tmp_path / "good.jpg").write_bytes(whole)
    return [
        Someone("1", str(tmp_path / "good.jpg")), Someone("2", str(tmp_path / "gone.jpg")),
        Someone("3", str(tmp_path / "cut.jpg")), Someone("4", image=whole), Someone("5", image=b"no picture"),
    ]  # fmt: skip


def test_pictures_that_cannot_be_read_have_a_reason(tmp_path: Path, half_readable: list[Someone]) -> None:
    samples, labels = write_samples(tmp_path / "s", half_readable), write_labels(tmp_path / "run", half_readable)
    joined = Joined(labels, samples, strip="", pixels=True)
    said = {}
    for group in range(len(joined.groups)):
        made, table = joined.batch(group)
        for i, image_id in enumerate(made.image_id):
            try:
                said[image_id] = exports._picture(table, i)[:2]
            except exports.BadImage as error:
                said[image_id] = error.reason
    jpeg = b"\xff\xd8"
    assert said == {"1": jpeg, "2": "missing_image", "3": "bad_image", "4": jpeg, "5": "bad_image"}
    assert set(exports.UNREADABLE) <= set(tables.QUARANTINE)


@pytest.mark.ray
def test_a_label_without_its_picture_is_in_no_tar_and_is_counted(
    ray_cluster: None, tmp_path: Path, half_readable: list[Someone], caplog: pytest.LogCaptureFixture
) -> None:
    samples, labels = write_samples(tmp_path / "s", half_readable), write_labels(tmp_path / "run", half_readable)
    storage.write_json(f"{labels}/run.json", {"job": "annotate", "status": "complete", "run_id": "x"})
    out = tmp_path / "tars"
    with caplog.at_level(logging.INFO):
        export_job.main(export_job.Job(to="webdataset", labels=labels, samples=samples, out=str(out)))
    assert "2 labels: " in caplog.text and "1 left out: missing_image" in caplog.text
    assert "2 left out: bad_image" in caplog.text
    result = runs.load_run(out, job="export")["result"]
    assert result["labels"] == 2 and result["left_out"] == {"missing_image": 1, "bad_image": 2}
    ids = set()
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            for name in tar.getnames():
                member = tar.extractfile(name)
                assert member is not None
                if name.endswith(".json"):
                    ids.add(json.loads(member.read())["sample_id"])
    assert ids == {"made/train/1/0", "made/train/4/0"}


@pytest.mark.ray
def test_every_person_has_a_mesh_file_of_their_own(ray_cluster: None, tmp_path: Path) -> None:
    people = [Someone(name) for name in ("photo 1.jpg", "photo_1.jpg", ".a", "a")]
    assert export_of(people, tmp_path, "ply").labels == 4
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.ply"))
    names = ("%2Ea", "a", "photo%201.jpg", "photo_1.jpg")
    assert files == [f"made/train/{name}/0.ply" for name in names]
