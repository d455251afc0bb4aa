"""A user's own folder: every format by its name, every mistake in it said."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh_lib.body.joints import BODY33, COCO17, FACE68, LSP14, SMPL24
from mesh_lib.datasets.folder import Folder
from mesh_lib.datasets.named_csv import NAMED
from mesh_lib.datasets.openpose import OPENPOSE137
from mesh_lib.datasets.people import Files, LocalFiles, Person
from pipelines import storage


def read(**options: Any) -> tuple[list[Person], Counter[str]]:
    skipped: Counter[str] = Counter()
    given: dict[str, Any] = {name: str(value) for name, value in options.items()}
    reader = Folder(**given)
    found = [p for unit in reader.units(LocalFiles()) for p in reader.people(unit, LocalFiles(), skipped)]
    for person in found:
        assert person.keypoints_2d_px.shape == (len(reader.joint_set), 3)
    return found, skipped


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Names of pictures; readers do not open them."""
    for name in ("a.jpg", "b.c.PNG", "sub/a.jpg", "notes.txt"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"")
    return tmp_path / "photos"


def triples(count: int, first: float, confidence: float = 0.5) -> list[float]:
    """Joint k lies at (first + k, 7)."""
    return [n for k in range(count) for n in (first + k, 7, confidence)]


def person(body: int = 25, **parts: Any) -> dict[str, Any]:
    return {
        "person_id": [-1], "pose_keypoints_2d": triples(body, 100), "face_keypoints_2d": [],
        "hand_left_keypoints_2d": [], "hand_right_keypoints_2d": [], "pose_keypoints_3d": [], **parts,
    }  # fmt: skip


def openpose(folder: Path, **pictures: Any) -> Path:
    for name, people in pictures.items():
        path = folder / f"{name.replace('__', '/')}_keypoints.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"version": 1.3, "people": people}))
    return folder


def at(found: Person, joint: str) -> list[float]:
    return found.keypoints_2d_px[OPENPOSE137.index(joint)].tolist()


@pytest.mark.parametrize("files", [LocalFiles(), storage.Files()])
def test_cameras_name_pictures_with_an_underscore(tmp_path: Path, files: Files) -> None:
    """Canon's and Nikon's _MG_0001.jpg; what starts with a dot is a system's."""
    made = openpose(tmp_path / "keypoints", **{name: [person()] for name in ("_MG_0001", "_raw__IMG_2", "b", "._b")})
    for name in ("_MG_0001.jpg", "_raw/IMG_2.jpg", "b.jpg", "._b.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"")
    reader = Folder(images=str(tmp_path / "photos"), keypoints=str(made))
    found = [p.picture for unit in reader.units(files) for p in reader.people(unit, files, Counter())]
    assert found == [f"{tmp_path}/photos/{name}.jpg" for name in ("_MG_0001", "_raw/IMG_2", "b")]


# COCO's JSON


def coco(path: Path) -> Path:
    flat = [n for k in range(17) for n in (k, 2 * k, 2)]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"id": 4, "image_id": 1, "keypoints": flat}],
    }
    path.write_text(json.dumps(content))
    return path


def test_a_json_file_is_cocos(tmp_path: Path, photos: Path) -> None:
    (found,), _ = read(images=photos, keypoints=coco(tmp_path / "x.json"))
    assert (found.image_id, found.person_id, found.picture) == ("1", "4", f"{photos}/a.jpg")
    assert found.keypoints_2d_px[COCO17.index("right_ankle")].tolist() == [16, 32, 1]


def test_the_format_can_be_given(tmp_path: Path, photos: Path) -> None:
    (found,), _ = read(images=photos, keypoints=coco(tmp_path / "labels.txt"), format="coco")
    assert found.person_id == "4"
    openpose(tmp_path / "found.json", a=[person()])
    assert len(read(images=photos, keypoints=tmp_path / "found.json", format="openpose")[0]) == 1


def test_one_file_of_openpose_is_not_taken_for_coco(tmp_path: Path, photos: Path) -> None:
    openpose(tmp_path / "found", a=[person()])
    with pytest.raises(ValueError, match=r"a_keypoints\.json is OpenPose's file of one picture[\s\S]*fix: pass the fo"):
        read(images=photos, keypoints=tmp_path / "found" / "a_keypoints.json")


# OpenPose's JSON


@pytest.mark.parametrize(
    ("joint", "k"),
    [
        ("nose", 0), ("neck", 1), ("right_wrist", 4), ("left_wrist", 7), ("pelvis", 8), ("right_hip", 9),
        ("left_ankle", 14), ("right_eye", 15), ("left_ear", 18), ("left_big_toe", 19), ("left_heel", 21),
        ("right_small_toe", 23), ("right_heel", 24),
    ],
)  # fmt: skip
def test_body_25(tmp_path: Path, photos: Path, joint: str, k: int) -> None:
    (found,), _ = read(images=photos, keypoints=openpose(tmp_path / "found", a=[person()]))
    assert at(found, joint) == [100 + k, 7, 0.5] and found.keypoints_2d_px[:, 2].sum() == 12.5


@pytest.mark.parametrize(
    ("joint", "k"),
    [("nose", 0), ("left_wrist", 7), ("right_hip", 8), ("left_ankle", 13), ("right_eye", 14), ("left_ear", 17)],
)  # fmt: skip
def test_coco_18(tmp_path: Path, photos: Path, joint: str, k: int) -> None:
    (found,), _ = read(images=photos, keypoints=openpose(tmp_path / "found", a=[person(18)]))
    assert at(found, joint) == [100 + k, 7, 0.5] and found.keypoints_2d_px[:, 2].sum() == 9
    assert at(found, "pelvis") == [0, 0, 0] and at(found, "left_heel") == [0, 0, 0]


def test_hands_and_face_where_they_are(tmp_path: Path, photos: Path) -> None:
    left, right, face = triples(21, 1000), triples(21, 2000), triples(70, 3000)
    whole = person(hand_left_keypoints_2d=left, hand_right_keypoints_2d=right, face_keypoints_2d=face)
    (found, bare), _ = read(images=photos, keypoints=openpose(tmp_path / "found", a=[whole, person()]))
    expected = {
        "left_hand_root": 1000, "left_thumb1": 1001, "left_pinky4": 1020, "right_hand_root": 2000,
        "right_index1": 2005, "right_jaw1": 3000, "left_jaw1": 3016, FACE68.names[67]: 3067, "right_pupil": 3068,
        "left_pupil": 3069,
    }  # fmt: skip
    assert {joint: at(found, joint)[0] for joint in expected} == expected
    assert at(found, "left_wrist")[0] == 107 and at(bare, "left_hand_root") == [0, 0, 0]


def test_all_people_of_all_pictures_by_sub_folder(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openpose(tmp_path / "found", **{"a": [person(), person()], "b.c": [person()], "sub__a": [person()]})
    openpose(tmp_path / "found", **{"gone": [person(), person()], "b": []})
    monkeypatch.chdir(tmp_path)
    for images, keypoints in (
        (photos, tmp_path / "found"),
        ("./photos/", "found"),
        (photos, os.path.join("found", "")),
    ):
        found, skipped = read(images=images, keypoints=keypoints)
        ids = [(p.image_id, p.person_id) for p in found]
        assert ids == [("a.jpg", "0"), ("a.jpg", "1"), ("b.c.PNG", "0"), ("sub/a.jpg", "0")]
        assert all(Path(p.picture).exists() for p in found) and skipped == {"no_picture": 2}


def test_many_files_are_several_units(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh_lib.datasets.folder.FILES_A_UNIT", 2)
    openpose(tmp_path / "found", **{"a": [person()], "b.c": [person()], "sub__a": [person()]})
    reader = Folder(images=str(photos), keypoints=str(tmp_path / "found"))
    assert [len(unit) for unit in reader.units(LocalFiles())] == [2, 1]


def test_confidences_are_between_0_and_1_and_what_is_no_number_is_quarantined_later(
    tmp_path: Path, photos: Path
) -> None:
    body = triples(25, 100, confidence=1.02)
    body[2], body[3], body[8] = 0.0, float("nan"), float("nan")
    (found,), _ = read(images=photos, keypoints=openpose(tmp_path / "found", a=[person(pose_keypoints_2d=body)]))
    assert at(found, "nose")[2] == 0 and at(found, "neck")[2] == 1 and np.isnan(at(found, "neck")[0])
    assert at(found, "right_heel")[2] == 1 and at(found, "right_shoulder") == [102, 7, 1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (person(15), "pose_keypoints_2d has 15 joints; BODY_25 has 25"),
        (person(pose_keypoints_2d=[1, 2]), "no list of x, y, confidence"),
        (person(pose_keypoints_2d=[10**400, 2, 1]), "no list of x, y, confidence"),
        ({}, "no list of x, y, confidence"),
        (3, "is no object"),
        (person(hand_left_keypoints_2d=triples(20, 0)), "hand_left_keypoints_2d has 20 joints"),
        (person(face_keypoints_2d=triples(68, 0)), "face_keypoints_2d has 68 joints"),
        (person(pose_keypoints_2d=[0.5, 0.25, 0.9] * 25), "--keypoint_scale 0"),
    ],
)
def test_what_openpose_does_not_write_is_one_clear_error(tmp_path: Path, photos: Path, wrong: Any, said: str) -> None:
    with pytest.raises(ValueError, match=r"a_keypoints\.json: person 1") as error:
        read(images=photos, keypoints=openpose(tmp_path / "found", a=[person(), wrong]))
    assert said in str(error.value)


def test_a_cut_file_of_openpose_and_two_pictures_of_one_name(tmp_path: Path, photos: Path) -> None:
    path = openpose(tmp_path / "found", a=[person()]) / "a_keypoints.json"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"a_keypoints\.json is not JSON"):
        read(images=photos, keypoints=tmp_path / "found")
    (photos / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a_keypoints\.json may be of a\.jpg or of a\.png"):
        read(images=photos, keypoints=tmp_path / "found")


# CSV


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_csv_names_its_joints(tmp_path: Path, photos: Path) -> None:
    path = table(
        tmp_path / "x.CSV",
        "\ufeffperson,picture,left_wrist_y,left_wrist_x,nose_x,nose_y,nose_confidence,bbox_x,bbox_y,bbox_w,bbox_h",
        "first,sub/a.jpg,20,10.5,1,2,0.25,5,6,70,80",
        "",
        '"second, the other",a.jpg,,,3,4,,,,,',
    )
    (one, two), skipped = read(images=photos, keypoints=path)
    assert (one.image_id, one.person_id, one.picture) == ("sub/a.jpg", "first", f"{photos}/sub/a.jpg")
    assert one.keypoints_2d_px[NAMED.index("left_wrist")].tolist() == [10.5, 20, 1]
    assert one.keypoints_2d_px[NAMED.index("nose")].tolist() == [1, 2, 0.25]
    assert (one.keypoints_2d_px[:, 2] > 0).sum() == 2
    np.testing.assert_array_equal(one.bbox_xywh_px, (5, 6, 70, 80))  # type: ignore[arg-type]
    assert two.person_id == "second, the other" and two.bbox_xywh_px is None
    assert not two.keypoints_2d_px.any() and not skipped  # empty cells: not labelled


def test_every_joint_of_ours_can_be_a_column() -> None:
    for joint_set in (COCO17, BODY33, SMPL24, LSP14, FACE68):
        assert set(joint_set.names) <= set(NAMED.names)
    assert {"head_top", "upper_neck", "right_toe", "left_pinky4", "right_hand_root"} <= set(NAMED.names)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.jpg,1,2", "malformed_row"), ("a.jpg,1,2,3,1,9", "malformed_row"),
        ("a.jpg,1,two,3,1", "malformed_keypoints"), (",1,2,3,1", "no_picture_or_no_person"),
        ("a.jpg, ,2,3,1", "no_picture_or_no_person"),
    ],
)  # fmt: skip
def test_rows_left_out_are_counted_by_reason(tmp_path: Path, photos: Path, row: str, reason: str) -> None:
    path = table(tmp_path / "x.csv", "picture,person,nose_x,nose_y,nose_confidence", row, "a.jpg,2,3,4,2")
    (found,), skipped = read(images=photos, keypoints=path)
    assert found.person_id == "2" and found.keypoints_2d_px[NAMED.index("nose")].tolist() == [3, 4, 1]
    assert skipped == {reason: 1}


def test_nan_in_a_csv_stays_for_annotate_to_quarantine(tmp_path: Path, photos: Path) -> None:
    (found,), _ = read(
        images=photos, keypoints=table(tmp_path / "x.csv", "picture,person,nose_x,nose_y", "a.jpg,1,nan,2")
    )
    nose = found.keypoints_2d_px[NAMED.index("nose")]
    assert np.isnan(nose[0]) and nose[2] == 1


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("person,nose_x,nose_y", "no column 'picture'"),
        ("picture;person;nose_x;nose_y", "comma-separated"),
        ("picture,person", "no joints"),
        ("picture,person,bbox_x,bbox_y,bbox_w,bbox_h", "pass it as boxes"),
        ("picture,person,nose_x,nose_y,bbox_x", "no column 'bbox_y'"),
        ("picture,person,nose_x", "no nose_x or no nose_y"),
        ("picture,person,nose_x,nose_y,nose_x", "more than once"),
        ("picture,person,nose_x,nose_y,left_wirst_x", "near it are left_wrist"),
        ("picture,person,nose_x,nose_y,camera", "'camera' is no joint of ours"),
        ("", "it has: nothing"),
    ],
)
def test_a_header_that_is_wrong_is_one_clear_error_before_any_work(
    tmp_path: Path, photos: Path, header: str, said: str
) -> None:
    reader = Folder(images=str(photos), keypoints=str(table(tmp_path / "x.csv", header)))
    with pytest.raises(ValueError, match=r"x\.csv") as error:
        reader.units(LocalFiles())
    assert said in str(error.value)


@pytest.mark.parametrize(
    "content", [b"picture,person,nose_x,nose_y\n\xff\xfe,1,2,3\n", b'picture,person,nose_x,nose_y\n"a.jpg,1,2']
)
def test_what_is_no_csv_is_one_clear_error(tmp_path: Path, photos: Path, content: bytes) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.csv is no CSV in UTF-8"):
        read(images=photos, keypoints=tmp_path / "x.csv")


def test_names_that_leave_the_folder_are_refused(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.csv: row 2: file name '\.\./secret\.jpg' leaves the folder"):
        read(images=photos, keypoints=table(tmp_path / "x.csv", "picture,person,nose_x,nose_y", "../secret.jpg,1,2,3"))
    with pytest.raises(ValueError, match="NUL"):
        read(images=photos, keypoints=table(tmp_path / "x.csv", "picture,person,nose_x,nose_y", "a.jpg,1\0,2,3"))


# Boxes alone


def test_boxes_alone(tmp_path: Path, photos: Path) -> None:
    header = "picture,person,bbox_x,bbox_y,bbox_w,bbox_h"
    path = table(tmp_path / "x.csv", header, "a.jpg,1,10,20,30,40.5", "a.jpg,2,10,20,,40", "a.jpg,3,1,1,0,5")
    (found,), skipped = read(images=photos, boxes=path)
    np.testing.assert_array_equal(found.bbox_xywh_px, (10, 20, 30, 40.5))  # type: ignore[arg-type]
    assert not found.keypoints_2d_px.any() and skipped == {"no_box": 2}
    assert Folder(images="x", boxes="y").boxes_only and not Folder(images="x", keypoints="y").boxes_only


@pytest.mark.parametrize(
    ("header", "said"), [("picture,person,nose_x,nose_y,bbox_x,bbox_y,bbox_w,bbox_h", "pass it as keypoints"),
                         ("picture,person,bbox_x,bbox_y,bbox_w", "no column 'bbox_h'"), ("picture,person", "'bbox_x'")]
)  # fmt: skip
def test_a_file_that_is_not_of_boxes_alone_is_refused(tmp_path: Path, photos: Path, header: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(images=photos, boxes=table(tmp_path / "x.csv", header))


# What is missing


@pytest.mark.parametrize("options", [{}, {"keypoints": "x.csv", "boxes": "y.csv"}])
def test_keypoints_or_boxes_and_not_both(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"either keypoints or boxes, not (both|neither)[\s\S]*fix:"):
        Folder(images="x", **options)


def test_what_is_not_there_says_where_it_was_looked_for(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(ValueError, match=r"no annotations at .*x\.csv[\s\S]*fix:"):
        read(images=photos, keypoints=tmp_path / "x.csv")
    with pytest.raises(ValueError, match=r"no folder of pictures at .*gone"):
        read(images=tmp_path / "gone", keypoints=coco(tmp_path / "x.json"))
    with pytest.raises(ValueError, match=r"no \*_keypoints\.json in"):
        read(images=photos, keypoints=photos)
