"""MPII: one person in five files, the same whichever is read; what each form has of its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from mesh_lib.datasets.mpii import MPII16, Mpii, box_of
from mesh_lib.datasets.people import LocalFiles, Person

HIDDEN, ABSENT = MPII16.index("left_knee"), MPII16.index("right_ankle")
OBJPOS, SCALE = [300.0, 200.0], 1.5


def point(k: int) -> list[float]:
    """Where joint k of the fixtures' person lies, in pixels that count from 1."""
    return [101.0 + k, 301.0 - 10 * k]


def struct(**fields: Any) -> np.ndarray:
    return structs(fields)


def structs(*items: dict[str, Any]) -> np.ndarray:
    """A MATLAB struct array (1, N)."""
    names = list(dict.fromkeys(name for item in items for name in item))
    made = np.empty((1, len(items)), [(name, object) for name in names])
    for i, item in enumerate(items):
        for name in names:
            made[name][0, i] = item.get(name, np.zeros((0, 0)))
    return made


def points(visible: Any = lambda k: int(k != HIDDEN)) -> np.ndarray:
    """In another order than the joints', as the owners' are."""
    return struct(
        point=structs(
            *(
                {"x": point(k)[0], "y": point(k)[1], "id": np.uint8(k), "is_visible": visible(k)}
                for k in reversed(range(16))
                if k != ABSENT
            )
        )
    )


def person(**changed: Any) -> dict[str, Any]:
    head = {"x1": 90.0, "y1": 100.0, "x2": 120.0, "y2": 140.0}
    place = struct(x=OBJPOS[0], y=OBJPOS[1])
    given = {**head, "scale": SCALE, "objpos": place, "annopoints": points(), **changed}
    return {name: value for name, value in given.items() if value is not None}


def release(path: Path, *images: dict[str, Any], train: list[int] | None = None) -> Path:
    annolist = structs(*({"vididx": 7, "frame_sec": 3, **image} for image in images))
    train = [1] * len(images) if train is None else train
    content = struct(annolist=annolist, img_train=np.array([train], np.uint8), version="V1.2 ")
    scipy.io.savemat(path, {"RELEASE": content}, do_compression=True)
    return path


def image(*people: dict[str, Any], name: str = "015601864.jpg") -> dict[str, Any]:
    return {"image": struct(name=name)} | ({"annorect": structs(*people)} if people else {})


def as_mat(path: Path) -> Path:
    other = person(annopoints=None)
    return release(
        path, image(name="empty.jpg"), image(other, person()), image(person(), name="test.jpg"), train=[1, 1, 0]
    )


def as_hrnet(path: Path) -> Path:
    joints = [[-1.0, -1.0] if k == ABSENT else point(k) for k in range(16)]
    visible = [int(k != ABSENT) for k in range(16)]
    record = {"joints_vis": visible, "joints": joints, "image": "015601864.jpg", "scale": SCALE, "center": OBJPOS}
    test = {"image": "015601864.jpg", "scale": SCALE, "center": OBJPOS}
    path.write_text(json.dumps([test, record]))
    return path


def as_cpm(path: Path, *, root: bool = False, **changed: Any) -> Path:
    joints = [[0, 0, 0] if k == ABSENT else [*point(k), int(k != HIDDEN)] for k in range(16)]
    record = {
        "dataset": "MPI", "isValidation": 0.0, "img_paths": "015601864.jpg", "img_width": 1280.0, "img_height": 720.0,
        "objpos": OBJPOS, "joint_self": joints, "scale_provided": SCALE, "joint_others": [], "annolist_index": 5.0,
        "people_index": 2.0, "numOtherPeople": 1.0, **changed,
    }  # fmt: skip
    records = [record | {"isValidation": 1.0, "people_index": 1.0}, record]
    path.write_text(json.dumps({"root": records} if root else records))
    return path


def as_cpm_root(path: Path) -> Path:
    return as_cpm(path, root=True)


def read(path: Path, **options: Any) -> tuple[list[Person], Counter[str]]:
    skipped: Counter[str] = Counter()
    reader = Mpii(annotations=str(path), images="images", **options)
    (unit,) = reader.units(LocalFiles())
    return list(reader.people(unit, LocalFiles(), skipped)), skipped


@pytest.mark.parametrize(
    ("write", "name", "left_out"),
    [
        (as_mat, "mpii_human_pose_v1_u12_1.mat", {"no_joints": 1, "test_image": 1}),
        (as_hrnet, "train.json", {"no_joints": 1}),
        (as_cpm, "mpii_annotations.json", {"not_train": 1}),
        (as_cpm_root, "MPI_annotations.json", {"not_train": 1}),
    ],
)
def test_the_same_person_comes_from_every_form(
    tmp_path: Path, write: Callable[[Path], Path], name: str, left_out: dict[str, int]
) -> None:
    (found,), skipped = read(write(tmp_path / name))
    assert (found.image_id, found.person_id, found.picture) == ("015601864.jpg", "2", "images/015601864.jpg")
    for k, joint in enumerate(found.keypoints_2d_px):
        # Pixels count from 1 in these files, from 0 here; hidden joints are labelled, absent ones are not.
        expected = (0, 0, 0) if k == ABSENT else (point(k)[0] - 1, point(k)[1] - 1, 1)
        np.testing.assert_array_equal(joint, expected)
    # A square of 200 · 1.5 px about (299, 199), moved down by 15 · 1.5.
    np.testing.assert_allclose(found.bbox_xywh_px, (149, 71.5, 300, 300))  # type: ignore[arg-type]
    assert skipped == left_out


@pytest.mark.parametrize(
    ("joint", "at"), [("pelvis", 6), ("head_top", 9), ("right_wrist", 10), ("left_shoulder", 13), ("left_ankle", 5)]
)
def test_joints_by_name(tmp_path: Path, joint: str, at: int) -> None:
    (found,), _ = read(as_mat(tmp_path / "x.mat"))
    np.testing.assert_array_equal(found.keypoints_2d_px[MPII16.index(joint), :2], np.array(point(at)) - 1)


@pytest.mark.parametrize("visible", ["char", "mixed", "empty"])
def test_is_visible_may_be_anything(tmp_path: Path, visible: str) -> None:
    value: dict[str, Any] = {"char": "1", "mixed": np.uint8(0), "empty": np.zeros((0, 0))}
    (found,), _ = read(release(tmp_path / "x.mat", image(person(annopoints=points(lambda k: value[visible])))))
    assert found.keypoints_2d_px[:, 2].sum() == 15


def test_people_without_place_height_or_joints(tmp_path: Path) -> None:
    people = (
        person(scale=None), person(objpos=None), person(annopoints=struct(point=np.zeros((0, 0)))), person(scale=-1.0)
    )  # fmt: skip
    found, skipped = read(release(tmp_path / "x.mat", image(*people)))
    assert [p.person_id for p in found] == ["1", "2", "4"] and skipped == {"no_joints": 1}
    assert all(p.bbox_xywh_px is None for p in found)


def test_an_unknown_joint_is_counted(tmp_path: Path) -> None:
    wrong = struct(point=structs({"x": 1.0, "y": 2.0, "id": 16}))
    found, skipped = read(release(tmp_path / "x.mat", image(person(annopoints=wrong), person())))
    assert [p.person_id for p in found] == ["2"] and skipped == {"malformed_keypoints": 1}


def test_cpm_s_validation_is_read_when_asked_for(tmp_path: Path) -> None:
    path = as_cpm(tmp_path / "x.json")
    found, skipped = read(path, subset="validation")
    assert [p.person_id for p in found] == ["1"] and skipped == {"not_validation": 1}
    found, skipped = read(path, subset="all")
    assert [p.person_id for p in found] == ["1", "2"] and not skipped
    with pytest.raises(ValueError, match="does not mark"):
        read(as_hrnet(tmp_path / "y.json"), subset="validation")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"joint_self": [[1, 2, 3]]}, "malformed_keypoints"),
        ({"joint_self": "none"}, "malformed_keypoints"),
        ({"joint_self": [[10**400, 1, 1]] * 16}, "malformed_keypoints"),
        ({"people_index": None}, "no_people_index"),
        ({"dataset": "LEEDS"}, "other_dataset"),
    ],
)
def test_who_is_left_out_of_cpm_is_counted(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    path = tmp_path / "x.json"
    good = json.loads(as_cpm(path).read_text())[1]
    path.write_text(json.dumps([good | changed, good]))
    found, skipped = read(path)
    assert len(found) == 1 and skipped == {reason: 1}


def coco(path: Path, joints: int = 16) -> Path:
    flat = [n for k in range(joints) for n in (point(k)[0], point(k)[1], 0 if k == ABSENT else 1)]
    content = {
        "images": [{"id": 3, "file_name": "images/015601864.jpg", "width": 1280, "height": 720}],
        "annotations": [{"id": 8, "image_id": 3, "bbox": [10.0, 20.0, 30.0, 40.0], "keypoints": flat, "iscrowd": 0}],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(("one_based", "shift"), [(None, 0), (False, 0), (True, 1)])
def test_a_coco_like_file_keeps_its_ids_and_counts_from_zero_unless_told(
    tmp_path: Path, one_based: bool | None, shift: int
) -> None:
    (found,), _ = read(coco(tmp_path / "train.json"), one_based=one_based)
    assert (found.image_id, found.person_id, found.picture) == ("3", "8", "images/images/015601864.jpg")
    np.testing.assert_array_equal(found.keypoints_2d_px[9], (110 - shift, 211 - shift, 1))
    np.testing.assert_array_equal(found.bbox_xywh_px, (10 - shift, 20 - shift, 30, 40))
    assert found.keypoints_2d_px[ABSENT, 2] == 0


def test_the_others_count_from_zero_when_told(tmp_path: Path) -> None:
    (found,), _ = read(as_hrnet(tmp_path / "x.json"), one_based=False)
    np.testing.assert_array_equal(found.keypoints_2d_px[9, :2], point(9))


def test_a_place_that_is_not_known_makes_no_box() -> None:
    nowhere = np.array([-2.0, -2.0])
    assert box_of(nowhere, 1.0) is None and box_of(np.array([1.0, np.nan]), 1.0) is None
    assert box_of(np.array([5.0, 5.0]), float("nan")) is None and box_of(np.array([5.0, 5.0]), 1e308) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no annotation file of MPII"),
        (b"\x89HDF\r\n\x1a\n", "PyraNet"),
        (b"[3]", "no annotation file of MPII"),
        (b'[{"a": 1}]', "no annotation file of MPII"),
        (b"[[", "truncated"),
        (b'{"root": [{}]}', "no img_paths"),
        (b'[{"image": "a.jpg"}, {}]', "names no image"),
        (b'{"images": []}', "no `annotations`"),
        (b'[{"image": "../a.jpg", "joints": 3}]', ""),
        (b"MATLAB 5.0 MAT-file", "no readable MATLAB file"),
    ],
)
def test_what_is_not_mpii_is_one_clear_error(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    if not said:
        assert read(tmp_path / "x.json") == ([], {"malformed_keypoints": 1})
        return
    with pytest.raises(ValueError, match=r"x\.json") as error:
        read(tmp_path / "x.json")
    assert said in str(error.value)


def test_names_that_leave_the_folder_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leaves the folder"):
        read(release(tmp_path / "x.mat", image(person(), name="../../etc/passwd")))
    with pytest.raises(ValueError, match=r"none\.mat[\s\S]*fix:"):
        read(tmp_path / "none.mat")
    with pytest.raises(ValueError, match="none of 1 records has x, y, v of the 16 joints"):
        read(coco(tmp_path / "x.json", joints=17))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"RELEASE": np.zeros(3)}, "not a struct with `annolist`"),
        ({"other": 1.0}, "no RELEASE"),
        ({"RELEASE": struct(annolist=structs(image()), img_train=np.zeros((1, 2)))}, "img_train 2"),
        ({"RELEASE": struct(annolist=structs({"vididx": 1}), img_train=np.zeros((1, 1)))}, "names no image"),
    ],
)
def test_a_mat_of_something_else_says_so(tmp_path: Path, content: dict[str, Any], said: str) -> None:
    scipy.io.savemat(tmp_path / "x.mat", content)
    with pytest.raises(ValueError, match=r"x\.mat") as error:
        read(tmp_path / "x.mat")
    assert said in str(error.value)


def test_a_cut_mat_is_a_clear_error(tmp_path: Path) -> None:
    path = as_mat(tmp_path / "x.mat")
    whole = path.read_bytes()
    for end in (20, 127, 130, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"x\.mat"):
            read(path)


@pytest.mark.samples
def test_the_real_file_and_the_owners_struct_made_from_it_agree(samples_dir: Path) -> None:
    from_json, skipped = read(samples_dir / "mpii" / "annot" / "trainval.json")
    folder = samples_dir / "mpii" / "mpii_human_pose_v1_u12_2"
    from_mat, _ = read(folder / "mpii_human_pose_v1_u12_1.RECONSTRUCTED.mat")
    assert [p.image_id for p in from_json] == ["052475643.jpg", "004645041.jpg", "060754485.jpg"] and not skipped
    for one, other in zip(from_json, from_mat, strict=True):
        assert (one.image_id, one.person_id) == (other.image_id, other.person_id)
        np.testing.assert_allclose(one.keypoints_2d_px, other.keypoints_2d_px)
        np.testing.assert_allclose(one.bbox_xywh_px, other.bbox_xywh_px)  # type: ignore[arg-type]
    assert [int(p.keypoints_2d_px[:, 2].sum()) for p in from_json] == [16, 14, 16]
    np.testing.assert_array_equal(from_json[0].keypoints_2d_px[MPII16.index("right_ankle")], (316, 411, 1))
    for found in from_json:  # all three face the camera: their left is on the right of the picture
        at = {name: found.keypoints_2d_px[i, :2] for i, name in enumerate(MPII16.names)}
        for joint in ("shoulder", "hip", "knee"):
            assert at[f"left_{joint}"][0] > at[f"right_{joint}"][0]
        assert at["head_top"][1] < at["upper_neck"][1] < at["thorax"][1] + 1 < at["pelvis"][1]
        seen = found.keypoints_2d_px[found.keypoints_2d_px[:, 2] > 0, :2]
        assert found.bbox_xywh_px is not None
        low, size = found.bbox_xywh_px[:2], found.bbox_xywh_px[2:]
        assert (seen >= low).all() and (seen <= low + size).all()
