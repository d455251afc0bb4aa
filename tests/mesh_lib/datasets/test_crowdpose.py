"""CrowdPose: its joints by their right names, its empty people kept."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh_lib.datasets.coco import Coco
from mesh_lib.datasets.crowdpose import CROWDPOSE14, CrowdPose
from mesh_lib.datasets.people import LocalFiles, Person


def record(**changed: Any) -> dict[str, Any]:
    """Joint k lies at (100 + k, 200 + k); the even ones are hidden, the last is not labelled."""
    flat = [n for k in range(14) for n in (100 + k, 200 + k, 0 if k == 13 else 1 + k % 2)]
    return {
        "id": 1, "image_id": 106848, "category_id": 1, "iscrowd": 0, "num_keypoints": 13, "keypoints": flat,
        "bbox": [90, 190, 40, 30], **changed,
    }  # fmt: skip


def read(path: Path, *records: dict[str, Any]) -> tuple[list[Person], Counter[str]]:
    if records:
        images = [{"id": 106848, "file_name": "106848.jpg", "width": 640, "height": 425, "crowdIndex": 1.13}]
        # The owners' skeleton is COCO's: it names joints that the 14 do not have.
        categories = [{"id": 1, "name": "person", "skeleton": [[16, 14], [17, 15]], "keypoints": ["left_shoulder"]}]
        content = {"images": images, "annotations": records, "categories": categories}
        path.write_text(json.dumps(content))
    skipped: Counter[str] = Counter()
    reader = CrowdPose(annotations=str(path), images="images")
    (unit,) = reader.units(LocalFiles())
    return list(reader.people(unit, LocalFiles(), skipped)), skipped


@pytest.mark.parametrize(
    ("joint", "at"), [("left_shoulder", 0), ("right_wrist", 5), ("left_hip", 6), ("right_ankle", 11), ("head_top", 12)]
)
def test_joints_are_where_the_paper_has_them_and_hidden_ones_are_labelled(tmp_path: Path, joint: str, at: int) -> None:
    (person,), skipped = read(tmp_path / "x.json", record())
    np.testing.assert_array_equal(person.keypoints_2d_px[CROWDPOSE14.index(joint)], (100 + at, 200 + at, 1))
    assert person.keypoints_2d_px[CROWDPOSE14.index("neck"), 2] == 0 and not skipped
    assert (person.image_id, person.person_id, person.picture) == ("106848", "1", "images/106848.jpg")
    np.testing.assert_array_equal(person.bbox_xywh_px, (90, 190, 40, 30))


def test_the_top_of_the_head_does_not_pass_for_the_bodys_head_joint() -> None:
    assert "head" not in CROWDPOSE14.names and len(CROWDPOSE14) == 14


def test_a_person_without_keypoints_stays(tmp_path: Path) -> None:
    (person,), skipped = read(tmp_path / "x.json", record(keypoints=[0] * 42, num_keypoints=0))
    assert not person.keypoints_2d_px.any() and not skipped


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"iscrowd": 1}, "crowd"), ({"image_id": 8}, "image_not_listed"),
        ({"keypoints": [1] * 51}, "malformed_keypoints"), ({"keypoints": None}, "malformed_keypoints"),
    ],
)  # fmt: skip
def test_who_is_left_out_is_counted_by_reason(tmp_path: Path, wrong: dict[str, Any], reason: str) -> None:
    found, skipped = read(tmp_path / "x.json", record(**wrong), record(id=2))
    assert [person.person_id for person in found] == ["2"] and skipped == {reason: 1}


def test_a_file_of_other_joints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.json: none of 2 records has x, y, v of the 14 joints[\s\S]*fix:"):
        read(tmp_path / "x.json", record(keypoints=[1] * 51), record(id=2, keypoints=[1] * 51))


def test_a_missing_or_cut_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(ValueError, match=r"x\.json[\s\S]*crowdpose_"):
        read(path)
    read(path, record())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="truncated"):
        read(path)


def test_the_reader_is_no_kind_of_coco() -> None:
    """jobs/ingest.py names a dataset after the first reader in its list that it is an instance of."""
    assert not issubclass(CrowdPose, Coco)


@pytest.mark.samples
def test_the_real_file(samples_dir: Path) -> None:
    found, skipped = read(samples_dir / "crowdpose" / "json" / "crowdpose_train.json")
    assert [person.person_id for person in found] == ["123803", "131039", "147481"] and not skipped
    left_man, nobody, right_man = (person.keypoints_2d_px for person in found)
    assert left_man[:, 2].sum() == 7 and not nobody[:, 2].any() and right_man[:, 2].sum() == 12
    np.testing.assert_array_equal(right_man[CROWDPOSE14.index("head_top")], (407, 29, 1))
    np.testing.assert_array_equal(right_man[CROWDPOSE14.index("neck")], (420, 110, 1))
    # The right man faces us: his left is on the right of the picture. His head is above his neck, above his hips.
    at = {name: right_man[i] for i, name in enumerate(CROWDPOSE14.names)}
    for joint in ("shoulder", "hip", "knee"):
        assert at[f"left_{joint}"][0] > at[f"right_{joint}"][0]
    assert at["head_top"][1] < at["neck"][1] < at["left_hip"][1] < at["left_knee"][1]
    for person in found:
        assert person.bbox_xywh_px is not None
        x, y, w, h = person.bbox_xywh_px
        seen = person.keypoints_2d_px[person.keypoints_2d_px[:, 2] > 0]
        inside = (seen[:, 0] > x - 6) & (seen[:, 0] < x + w + 6) & (seen[:, 1] > y - 6) & (seen[:, 1] < y + h + 6)
        assert inside.sum() >= len(seen) - 2  # the knees of the right man are behind the cake, below his box
