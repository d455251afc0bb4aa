"""COCO-WholeBody: parts in their places, scores kept, parts that do not count unlabelled."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh_lib.body.joints import COCO17, FACE68
from mesh_lib.datasets.coco_wholebody import WHOLEBODY133, CocoWholeBody
from mesh_lib.datasets.people import LocalFiles, Person

SIZES = {"keypoints": 17, "foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
FIRST = {"keypoints": 1000, "foot_kpts": 2000, "face_kpts": 3000, "lefthand_kpts": 4000, "righthand_kpts": 5000}


def record(**changed: Any) -> dict[str, Any]:
    """Joint k of a part lies at x = the part's thousand + k, y = 7."""
    parts = {name: [n for k in range(count) for n in (FIRST[name] + k, 7, 2)] for name, count in SIZES.items()}
    valid = {f"{part}_valid": True for part in ("foot", "face", "lefthand", "righthand")}
    return {"id": 5, "image_id": 9, "bbox": [1, 2, 30, 40], "iscrowd": 0, **parts, **valid, **changed}


def read(path: Path, *records: dict[str, Any]) -> tuple[list[Person], Counter[str]]:
    if records:
        images = [{"id": 9, "file_name": "000000000009.jpg"}]
        path.write_text(json.dumps({"images": images, "annotations": records}))
    skipped: Counter[str] = Counter()
    reader = CocoWholeBody(annotations=str(path), images="val2017")
    (unit,) = reader.units(LocalFiles())
    return list(reader.people(unit, LocalFiles(), skipped)), skipped


@pytest.mark.parametrize(
    ("joint", "x"),
    [
        ("nose", 1000), ("right_ankle", 1016), ("left_big_toe", 2000), ("left_heel", 2002), ("right_heel", 2005),
        ("right_jaw1", 3000), ("chin", 3008), ("left_jaw1", 3016), ("right_eye_outer_corner", 3036),
        ("left_eye_outer_corner", 3045), ("left_mouth_corner", 3054), ("left_hand_root", 4000), ("left_thumb1", 4001),
        ("left_pinky4", 4020), ("right_hand_root", 5000), ("right_index1", 5005), ("right_pinky4", 5020),
    ],
)  # fmt: skip
def test_each_part_is_where_its_names_are(tmp_path: Path, joint: str, x: float) -> None:
    (person,), _ = read(tmp_path / "x.json", record())
    np.testing.assert_array_equal(person.keypoints_2d_px[WHOLEBODY133.index(joint)], (x, 7, 1))


def test_the_root_of_a_hand_is_not_the_bodys_wrist() -> None:
    assert len(WHOLEBODY133) == 133
    assert "left_wrist" in COCO17.names and WHOLEBODY133.names.count("left_wrist") == 1
    assert WHOLEBODY133.names[WHOLEBODY133.mirror[WHOLEBODY133.index("left_hand_root")]] == "right_hand_root"


def test_a_score_of_a_detector_is_kept_and_a_flag_of_two_is_one(tmp_path: Path) -> None:
    scores = [0.04, 1, 2, 0, -1] + [0.5] * 16
    hand = [n for score in scores for n in (3, 4, score)]
    (person,), _ = read(tmp_path / "x.json", record(righthand_kpts=hand))
    first = WHOLEBODY133.index("right_hand_root")
    np.testing.assert_array_equal(person.keypoints_2d_px[first : first + 6, 2], (0.04, 1, 1, 0, 0, 0.5))


@pytest.mark.parametrize(
    ("part", "joints"),
    [
        ("foot", ("left_big_toe", "right_heel")), ("face", ("right_jaw1", "right_inner_lower_lip")),
        ("lefthand", ("left_hand_root", "left_pinky4")), ("righthand", ("right_hand_root", "right_pinky4")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["not valid", "no flag", "absent"])
def test_a_part_that_does_not_count_is_unlabelled_and_the_others_stay(
    tmp_path: Path, part: str, joints: tuple[str, str], how: str
) -> None:
    given = record(**{f"{part}_valid": False} if how == "not valid" else {})
    if how != "not valid":
        del given[f"{part}_valid" if how == "no flag" else f"{part}_kpts"]
    (person, _), skipped = read(tmp_path / "x.json", given, record(id=6))
    off = range(WHOLEBODY133.index(joints[0]), WHOLEBODY133.index(joints[1]) + 1)
    assert len(off) == SIZES[f"{part}_kpts"] and not person.keypoints_2d_px[off, 2].any()
    assert person.keypoints_2d_px[:, 2].sum() == 133 - len(off) and not skipped


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"iscrowd": 1}, "crowd"),
        ({"image_id": 8}, "image_not_listed"),
        ({"keypoints": None}, "malformed_keypoints"),
        ({"face_kpts": [1, 2, 3]}, "malformed_keypoints"),
        ({"face_kpts": [10**400] * 204}, "malformed_keypoints"),
        ({"lefthand_kpts": "none"}, "malformed_keypoints"),
    ],
)
def test_who_is_left_out_is_counted_by_reason(tmp_path: Path, wrong: dict[str, Any], reason: str) -> None:
    found, skipped = read(tmp_path / "x.json", record(**wrong), record(id=2))
    assert [person.person_id for person in found] == ["2"] and skipped == {reason: 1}


def test_a_plain_coco_file_is_refused_with_what_to_pass(tmp_path: Path) -> None:
    plain = {name: value for name, value in record().items() if "kpts" not in name and "valid" not in name}
    with pytest.raises(ValueError, match=r"no face_kpts[\s\S]*coco_wholebody_val_v1\.0\.json"):
        read(tmp_path / "x.json", plain)


def test_a_missing_or_cut_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(ValueError, match=r"x\.json[\s\S]*fix:"):
        read(path)
    read(path, record())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="truncated"):
        read(path)


def test_nan_stays_a_row_for_annotate_to_quarantine(tmp_path: Path) -> None:
    feet = [float("nan"), 1, 2] + [1, 1, float("nan")] + [1, 1, 2] * 4
    (person,), skipped = read(tmp_path / "x.json", record(foot_kpts=feet))
    toe = person.keypoints_2d_px[WHOLEBODY133.index("left_big_toe")]
    assert np.isnan(toe[0]) and toe[2] == 1 and not skipped
    assert person.keypoints_2d_px[WHOLEBODY133.index("left_small_toe"), 2] == 1


@pytest.mark.samples
def test_the_real_file(samples_dir: Path) -> None:
    found, skipped = read(samples_dir / "coco_wholebody" / "annotations" / "coco_wholebody_val_v1.0.json")
    people = {person.person_id: person for person in found}
    assert list(people) == ["442619", "437295", "467657", "531914", "533949", "543117"] and not skipped
    assert {person.picture for person in found} == {"val2017/000000000785.jpg", "val2017/000000197388.jpg"}

    def joint(person: str, name: str) -> list[float]:
        return people[person].keypoints_2d_px[WHOLEBODY133.index(name)].tolist()

    assert joint("442619", "nose") == [367, 81, 1]
    assert joint("442619", "left_big_toe") == [439, 378, 1] and joint("442619", "right_heel") == [413, 353, 1]
    assert joint("442619", "right_hand_root") == [304.10366, 181.75134, 1]
    assert joint("442619", "left_hand_root")[2] == 0  # lefthand_valid is false
    assert joint("531914", "right_thumb1") == [568, 156, 0.04602484405040741]
    # Where a hand or a face is labelled, it is near the body's own wrist or nose, and of the same side.
    checked = 0
    for person in found:
        points = {name: person.keypoints_2d_px[i] for i, name in enumerate(WHOLEBODY133.names)}
        size = float(np.max(person.bbox_xywh_px[2:]))  # type: ignore[index]
        pairs = [("left_hand_root", "left_wrist"), ("right_hand_root", "right_wrist"), ("nose_tip", "nose")]
        pairs += [("left_heel", "left_ankle"), ("right_heel", "right_ankle")]
        for near, to in pairs:
            if points[near][2] and points[to][2]:
                assert np.linalg.norm(points[near][:2] - points[to][:2]) < 0.12 * size, (person.person_id, near)
                checked += 1
    assert checked >= 10
    skier = people["442619"].keypoints_2d_px
    face = skier[WHOLEBODY133.indices(FACE68.names), :2]
    assert face[FACE68.index("right_jaw1"), 0] < face[FACE68.index("left_jaw1"), 0]  # she looks into the camera
    down = face[FACE68.indices(("nose_bridge1", "nose_tip", "upper_lip", "lower_lip", "chin")), 1]
    assert (np.diff(down) > 0).all()
