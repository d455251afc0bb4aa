"""MuCo-3DHP: everyone of a picture with its camera, hidden joints, and SMPL fits by annotation."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh_lib.datasets.mpi_inf_3dhp import MPI21
from mesh_lib.datasets.muco import MUCO21, Muco
from mesh_lib.datasets.people import MOCAP, LocalFiles, Person

PELVIS = MUCO21.index("pelvis")


def points_mm(number: int) -> np.ndarray:
    points = np.random.default_rng(number).normal(0, 300, (21, 3)) + [100, 200, 3500]
    points[PELVIS] = 100 * number, 200, 3500
    return points


def record(number: int, image: int, **changed: Any) -> dict[str, Any]:
    points = points_mm(number)
    pixels = points[:, :2] / points[:, 2:] * [1500, 1499] + [1024, 1023]
    return {
        "id": number, "image_id": image, "bbox": [1, 2, 300, 400], "keypoints_img": pixels.tolist(),
        "keypoints_cam": points.tolist(), "keypoints_vis": [1] * 20 + [0],
    } | changed  # fmt: skip


def read(folder: Path, *records: dict[str, Any], **options: Any) -> tuple[list[Person], Counter[str]]:
    names = ("unaugmented_set/1/a.jpg", "augmented_set/1/b.jpg")
    images = [
        {"id": i + 5, "file_name": name, "width": 2048, "height": 2048, "f": [1500 + i, 1499.5], "c": [1024, 1023]}
        for i, name in enumerate(names)
    ]
    (folder / "MuCo-3DHP.json").write_text(json.dumps({"images": images, "annotations": records}))
    skipped: Counter[str] = Counter()
    reader = Muco(annotations=str(folder / "MuCo-3DHP.json"), images="pictures", **options)
    (unit,) = reader.units(LocalFiles())
    return list(reader.people(unit, LocalFiles(), skipped)), skipped


def test_the_people_of_a_picture_come_with_its_camera(tmp_path: Path) -> None:
    (first, second), skipped = read(tmp_path, record(1, 5), record(2, 6))
    assert (first.image_id, first.person_id, first.picture) == ("5", "1", "pictures/unaugmented_set/1/a.jpg")
    assert second.picture == "pictures/augmented_set/1/b.jpg" and not skipped and first.supervision == MOCAP
    assert first.camera is not None and second.camera is not None and first.keypoints_3d_m is not None
    assert second.camera.focal_px.tolist() == [1501, 1499.5] and second.camera.princpt_px.tolist() == [1024, 1023]
    np.testing.assert_allclose(first.keypoints_3d_m[PELVIS], [0.1, 0.2, 3.5, 1])
    off = first.camera.project(first.keypoints_3d_m[:, :3]) - first.keypoints_2d_px[:, :2]
    assert np.abs(off).max() < 0.5  # half a pixel of focal length apart, as written above


def test_a_hidden_joint_has_no_2d_and_keeps_its_3d(tmp_path: Path) -> None:
    (person,), _ = read(tmp_path, record(1, 5))
    toe = MUCO21.index("left_toe")
    assert person.keypoints_2d_px[toe, 2] == 0 and person.keypoints_2d_px[:, 2].sum() == 20
    assert person.keypoints_3d_m is not None and person.keypoints_3d_m[toe, 3] == 1


def test_its_joints_have_the_names_that_they_have_where_they_come_from() -> None:
    assert MUCO21.names == MPI21.names


def test_one_of_the_two_sets_can_be_chosen(tmp_path: Path) -> None:
    found, skipped = read(tmp_path, record(1, 5), record(2, 6), pictures="augmented")
    assert [p.person_id for p in found] == ["2"] and skipped == {"other_set": 1}
    found, _ = read(tmp_path, record(1, 5), record(2, 6), pictures="unaugmented")
    assert [p.person_id for p in found] == ["1"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"image_id": 99}, "image_not_listed"),
        ({"keypoints_cam": [[1, 2, 3]]}, "malformed_keypoints"),
        ({"keypoints_img": "none"}, "malformed_keypoints"),
        ({"keypoints_vis": [1, 1]}, "malformed_keypoints"),
    ],
)
def test_who_is_left_out_is_counted_by_reason(tmp_path: Path, changed: Any, reason: str) -> None:
    found, skipped = read(tmp_path, record(1, 5, **changed), record(2, 5))
    assert [p.person_id for p in found] == ["2"] and skipped == {reason: 1}


def test_a_fit_belongs_to_its_annotation_and_who_has_none_stays(tmp_path: Path) -> None:
    fit = {"pose": np.arange(72.0).tolist(), "shape": [[0.5] * 10], "trans": [0.2, 0.4, 3.5]}
    (tmp_path / "smpl_param.json").write_text(json.dumps({"2": fit, "77": fit}))
    (first, second), _ = read(tmp_path, record(1, 5), record(2, 6), smpl=str(tmp_path / "smpl_param.json"))
    assert first.smpl is None and second.smpl is not None
    assert second.smpl.global_orient.tolist() == [0, 1, 2] and second.smpl.body_pose[0] == 3
    assert (second.smpl.betas == 0.5).all() and second.smpl.transl_m.tolist() == [0.2, 0.4, 3.5]


def test_fits_in_another_frame_are_refused(tmp_path: Path) -> None:
    fit = {"pose": [0] * 72, "shape": [0] * 10, "trans": [200, 400, 3500]}  # millimetres
    (tmp_path / "smpl_param.json").write_text(json.dumps({str(i): fit for i in range(100)}))
    with pytest.raises(ValueError, match=r"smpl_param\.json: most bodies lie far"):
        read(tmp_path, *[record(i, 5) for i in range(100)], smpl=str(tmp_path / "smpl_param.json"))


def test_what_is_not_muco_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no annotation file"):
        Muco(annotations=str(tmp_path / "none.json"), images="x").units(LocalFiles())
    with pytest.raises(ValueError, match="no keypoints_cam"):
        read(tmp_path, {"id": 1, "image_id": 5, "keypoints": []})
    (tmp_path / "smpl_param.json").write_text('{"1": {"pose": [0]')
    with pytest.raises(ValueError, match=r"smpl_param\.json is not JSON"):
        read(tmp_path, record(1, 5), smpl=str(tmp_path / "smpl_param.json"))
