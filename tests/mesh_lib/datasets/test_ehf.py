"""EHF: OpenPose's joints by our names, and the one camera."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh_lib.datasets.ehf import CAMERA, Ehf
from mesh_lib.datasets.openpose import OPENPOSE137
from mesh_lib.datasets.people import LocalFiles, Person

SIZES = {"pose": 25, "face": 70, "hand_left": 21, "hand_right": 21}
NUMBERED = {
    f"{part}_keypoints_2d": [n for k in range(size) for n in (1000 * i + k, 7, 0.5)]
    for i, (part, size) in enumerate(SIZES.items())
}
"""Joint k of part i has x = 1000 i + k."""


def write(folder: Path, name: str, *people: Any, picture: str = "jpg") -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_2Djnt.json").write_text(json.dumps({"version": 1.1, "people": people}))
    (folder / f"{name}_img.{picture}").touch()


def read(folder: Path) -> tuple[list[Person], Counter[str]]:
    skipped: Counter[str] = Counter()
    reader = Ehf(folder=str(folder))
    return [p for unit in reader.units(LocalFiles()) for p in reader.people(unit, LocalFiles(), skipped)], skipped


@pytest.mark.parametrize(
    ("joint", "x"),
    [
        ("nose", 0), ("neck", 1), ("right_shoulder", 2), ("left_wrist", 7), ("pelvis", 8), ("right_hip", 9),
        ("left_hip", 12), ("right_eye", 15), ("left_ear", 18), ("left_big_toe", 19), ("right_heel", 24),
        ("right_jaw1", 1000), ("chin", 1008), ("nose_tip", 1030), ("right_pupil", 1068), ("left_pupil", 1069),
        ("left_hand_root", 2000), ("left_thumb4", 2004), ("right_index1", 3005), ("right_pinky4", 3020),
    ],
)  # fmt: skip
def test_each_joint_is_openposes_of_that_name(tmp_path: Path, joint: str, x: float) -> None:
    write(tmp_path, "01", NUMBERED)
    ((person,), _) = read(tmp_path)
    np.testing.assert_array_equal(person.keypoints_2d_px[OPENPOSE137.index(joint)], [x, 7, 0.5])


def test_pictures_come_as_png_where_there_is_one(tmp_path: Path) -> None:
    write(tmp_path, "01", NUMBERED)
    write(tmp_path, "100", NUMBERED, picture="png")
    found, skipped = read(tmp_path)
    assert {(p.image_id, p.picture) for p in found} == {
        ("01_img", f"{tmp_path}/01_img.jpg"), ("100_img", f"{tmp_path}/100_img.png"),
    }  # fmt: skip
    assert not skipped


def test_pictures_without_a_detection_and_further_detections_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "01")
    write(tmp_path, "02", NUMBERED, NUMBERED, NUMBERED)
    found, skipped = read(tmp_path)
    assert [p.image_id for p in found] == ["02_img"] and skipped == {"no_detection": 1, "other_detection": 2}


def test_the_camera_looks_at_its_world_from_the_front_and_y_is_down() -> None:
    """The world of the meshes has y up, and z towards the camera, as SMPL-X at rest: a man's left is right of him."""
    origin, above, left, ahead = CAMERA.to_camera(np.array([[0, 0, 0], [0, 1.0, 0], [0.3, 0, 0], [0, 0, 0.3]]))
    middle, top, side = CAMERA.project(np.stack([origin, above, left]))
    assert (middle > 0).all() and (middle < [1600, 1200]).all()  # pictures are 1600 x 1200
    assert middle[1] - top[1] > 500 and abs(middle[0] - top[0]) < 40  # up is up
    assert side[0] - middle[0] > 100 and ahead[2] < origin[2] - 0.25
    np.testing.assert_allclose(origin, [-0.03609917, 0.43416458, 2.37101226])


@pytest.mark.parametrize(
    ("people", "said"),
    [
        ([NUMBERED | {"pose_keypoints_2d": [0] * 57}], "pose_keypoints_2d has 19 joints"),
        ([NUMBERED | {"face_keypoints_2d": [0] * 6}], "face_keypoints_2d has 2 joints"),
        ([[1, 2]], "is no object"),
    ],
)
def test_what_is_not_openposes_is_one_clear_error(tmp_path: Path, people: Any, said: str) -> None:
    write(tmp_path, "01", *people)
    with pytest.raises(ValueError, match=said) as error:
        read(tmp_path)
    assert "01_2Djnt.json" in str(error.value)


def test_cut_files_and_missing_folders_say_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"EHF\.zip"):
        read(tmp_path)
    write(tmp_path, "01", NUMBERED)
    path = tmp_path / "01_2Djnt.json"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(ValueError, match="truncated or damaged"):
        read(tmp_path)
