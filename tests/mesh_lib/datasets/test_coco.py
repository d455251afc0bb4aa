"""COCO files: who is kept, who is counted, and what is not COCO."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh_lib.body.joints import COCO17
from mesh_lib.datasets.coco import CHUNK, Coco, Pictures, index_pictures
from mesh_lib.datasets.people import LocalFiles, Person

Read = Callable[..., tuple[list[Person], Counter[str]]]


def file(*records: dict[str, Any], images: list[dict[str, Any]] | None = None) -> bytes:
    images = images if images is not None else [{"id": 7, "file_name": "a.jpg"}]
    return json.dumps({"images": images, "annotations": list(records)}).encode()


def record(visible: int = 17, **changed: Any) -> dict[str, Any]:
    flat = [n for k in range(17) for n in (10.0 + k, 20.0 + k, 2 if k < visible else 0)]
    return {"id": 1, "image_id": 7, "keypoints": flat, "bbox": [1, 2, 30, 40], **changed}


def people(path: Path) -> tuple[list[Person], Counter[str]]:
    skipped: Counter[str] = Counter()
    reader = Coco(annotations=str(path), images="pictures")
    (unit,) = reader.units(LocalFiles())
    return list(reader.people(unit, LocalFiles(), skipped)), skipped


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(*records: dict[str, Any]) -> tuple[list[Person], Counter[str]]:
        (tmp_path / "x.json").write_bytes(file(*records))
        return people(tmp_path / "x.json")

    return read


def test_a_person_comes_as_the_file_has_them(read: Read) -> None:
    (person,), skipped = read(record(visible=9))
    assert (person.person_id, person.image_id, person.picture) == ("1", "7", "pictures/a.jpg")
    nose, hip = COCO17.index("nose"), COCO17.index("right_hip")
    np.testing.assert_array_equal(person.keypoints_2d_px[nose], (10, 20, 1))
    assert person.keypoints_2d_px[hip, 2] == 0 and person.keypoints_2d_px[:, 2].sum() == 9
    np.testing.assert_array_equal(person.bbox_xywh_px, (1, 2, 30, 40))
    assert not skipped


def test_a_hidden_but_labelled_keypoint_counts_as_labelled(read: Read) -> None:
    flat = [1.0, 1.0, 1] * 17
    (person,), _ = read(record(keypoints=flat))
    assert person.keypoints_2d_px[:, 2].sum() == 17


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"iscrowd": 1}, "crowd"),
        ({"image_id": 8}, "image_not_listed"),
        ({"keypoints": [1, 2, 3]}, "malformed_keypoints"),
        ({"keypoints": "none"}, "malformed_keypoints"),
        ({"keypoints": None}, "malformed_keypoints"),
    ],
)
def test_who_is_left_out_is_counted_by_reason(read: Read, wrong: dict[str, Any], reason: str) -> None:
    found, skipped = read(record(**wrong), record(id=2))
    assert [person.person_id for person in found] == ["2"] and skipped == {reason: 1}


def test_nan_keypoints_stay_a_row_for_annotate_to_quarantine(read: Read) -> None:
    flat = record()["keypoints"]
    flat[0] = float("nan")
    (person,), skipped = read(record(keypoints=flat))
    assert np.isnan(person.keypoints_2d_px[0, 0]) and not skipped


@pytest.mark.parametrize(
    "box", [None, "wide", [1, 2, 3], [1, 2, None, 4], [float("nan"), 2, 3, 4], [1, 2, float("inf"), 4]]
)
def test_a_record_without_a_box_has_none(read: Read, box: Any) -> None:
    (person,), _ = read(record(bbox=box))
    assert person.bbox_xywh_px is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b'{"images": [', "truncated or damaged"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[]", "not JSON of an object"),
        (b"3", "not JSON of an object"),
        (b"{}", "no `images`"),
        (b'{"images": []}', "no `annotations`"),
        (b'{"images": [], "annotations": []} {"more": 1}', "something follows"),
        (b"[" * 100_000, "not JSON"),
        (b'{"images": [' + b"[" * 100_000 + b"}", "too deeply"),
        (b'{"images": [{"id": 1}], "annotations": []}', "no `file_name`"),
        (b'{"images": [5], "annotations": []}', "no `id`"),
        (b'{"images": [], "annotations": [{"id": 3}]}', "no image_id"),
        (b'{"images": [], "annotations": [7]}', "no id"),
        (b'{"images": [], "annotations": [{"id": 3, "image_id": 1, "segmentation": []}]}', "instances_"),
        (file(record(), images=[{"id": 7, "file_name": "../../etc/passwd"}]), "leaves the folder"),
        (file(record(), images=[{"id": 7, "file_name": "/etc/passwd"}]), "leaves the folder"),
    ],
)
def test_what_is_not_coco_is_one_clear_error(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json") as error:
        people(tmp_path / "x.json")
    assert said in str(error.value)


def test_people_are_decoded_once_not_with_the_pictures_too(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(file(record()).replace(b'"bbox"', b"damage"))
    assert len(index_pictures(LocalFiles(), str(path), fields=("file_name",))) == 1
    with pytest.raises(ValueError, match=r"x\.json is not JSON of an object"):
        people(path)


@pytest.mark.parametrize("count", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_any_number_of_pictures_is_found_by_id(count: int) -> None:
    """Numbers are numbers: whole in the first of many pictures, with a fraction later."""
    listed = ({"id": i, "name": str(i), "f": [1500, 1500] if i < CHUNK else [1500.5, 1]} for i in range(count))
    pictures = Pictures(listed, fields=("name", "f"), where="x.json")
    assert len(pictures) == count and pictures.of({"image_id": count}) is None
    if count:
        assert pictures.of({"image_id": count - 1}) == (str(count - 1), [1500.5, 1] if count > CHUNK else [1500, 1500])


def test_pictures_whose_entries_differ_in_kind_are_refused() -> None:
    listed = ({"id": i, "f": 1500 if i < CHUNK else "wide"} for i in range(CHUNK + 1))
    with pytest.raises(ValueError, match=r"x\.json: entries of `images` differ in kind"):
        Pictures(listed, fields=("f",), where="x.json")


@pytest.mark.samples
def test_the_real_file_is_read_whole(samples_dir: Path) -> None:
    path = samples_dir / "coco" / "annotations" / "person_keypoints_val2017.json"
    content = json.loads(path.read_bytes())
    found, skipped = people(path)
    assert len(found) + skipped.total() == len(content["annotations"]) and found
    for person in found:
        if not person.keypoints_2d_px[:, 2].any():
            continue
        seen = person.keypoints_2d_px[person.keypoints_2d_px[:, 2] > 0]
        assert person.bbox_xywh_px is not None
        x, y, w, h = person.bbox_xywh_px
        inside = (seen[:, 0] > x - 5) & (seen[:, 0] < x + w + 5) & (seen[:, 1] > y - 5) & (seen[:, 1] < y + h + 5)
        assert inside.mean() > 0.9
