"""Human3.6M: the world's joints seen by each camera, the standard thinning, and SMPL turned about its root."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mesh_lib.datasets.human36m import CAMERA_NAMES, HUMAN36M17, Human36m, project
from mesh_lib.datasets.people import MOCAP, Camera, LocalFiles, Person

R = Rotation.from_euler("x", 100, degrees=True).as_matrix()
"""The world's z is up, the picture's y down."""
CAMERA = {"R": R.tolist(), "t": [100.0, 200.0, 5000.0], "f": [1145.0, 1143.0], "c": [512.0, 515.0]}


def world_mm(frame: int) -> np.ndarray:
    return np.random.default_rng(frame).normal(0, 400, (17, 3)) + [0, 0, 900]


def write(
    folder: Path, subject: int = 1, frames: int = 11, *, smpl: dict[str, Any] | None = None, **spoil: Any
) -> None:
    """Action 2, subaction 1, of cameras 1 and 4; ids count up, the camera innermost."""
    images, annotations = [], []
    for frame in range(frames):
        for camera in (1, 4):
            number = len(images) + 1000 * subject
            name = f"s_{subject:02d}_act_02_subact_01_ca_{camera:02d}"
            images.append(
                {"id": number, "file_name": f"{name}/{name}_{frame + 1:06d}.jpg", "width": 1000, "height": 1002,
                 "subject": subject, "action_name": "Directions", "action_idx": 2, "subaction_idx": 1,
                 "cam_idx": camera, "frame_idx": frame}
            )  # fmt: skip
            seen = [True] * 16 + [False]
            annotations.append({"id": number + 7, "image_id": number, "bbox": [1, 2, 30, 40], "keypoints_vis": seen})
    files = {
        "data": {"images": images, "annotations": annotations},
        "camera": {"1": CAMERA, "4": CAMERA},
        "joint_3d": {"2": {"1": {str(frame): world_mm(frame).tolist() for frame in range(frames)}}},
    } | spoil
    if smpl:
        files["SMPL_NeuralAnnot"] = {"2": {"1": {str(frame): smpl for frame in range(frames)}}}
    for name, content in files.items():
        (folder / f"Human36M_subject{subject}_{name}.json").write_text(json.dumps(content))


def read(folder: Path, subjects: tuple[int, ...] = (1,), **options: Any) -> tuple[list[Person], Counter[str]]:
    skipped: Counter[str] = Counter()
    reader = Human36m(annotations=str(folder), images="pictures", subjects=subjects, **options)
    units = reader.units(LocalFiles())
    return [person for unit in units for person in reader.people(unit, LocalFiles(), skipped)], skipped


def test_the_right_leg_is_where_the_owners_have_it_first() -> None:
    """Joints 1 to 3 and 14 to 16 are one side; see the trap of the copy that calls 1 to 3 left."""
    names = HUMAN36M17.names
    assert names[1:4] == ("right_hip", "right_knee", "right_ankle") and names[14] == "right_shoulder"
    assert names[4:7] == ("left_hip", "left_knee", "left_ankle") and names[11] == "left_shoulder"
    assert not {"neck", "nose", "head"} & set(names)  # none of its joints is what ours of these names are


def test_people_are_the_worlds_joints_seen_by_the_camera(tmp_path: Path) -> None:
    write(tmp_path)
    found, _ = read(tmp_path)
    person = found[2]
    assert (person.frame, person.image_id, person.person_id) == (5, "1010", "1017")
    assert person.picture.endswith("pictures/s_01_act_02_subact_01_ca_01/s_01_act_02_subact_01_ca_01_000006.jpg")
    assert person.sequence == "s_01_act_02_subact_01_ca_01" and person.supervision == MOCAP
    assert person.keypoints_3d_m is not None and person.camera is not None and person.bbox_xywh_px is not None
    expected = (R @ world_mm(5)[3] + [100, 200, 5000]) / 1000
    np.testing.assert_allclose(person.keypoints_3d_m[3], [*expected, 1])
    x, y = expected[:2] / expected[2] * [1145, 1143] + [512, 515]
    np.testing.assert_allclose(person.keypoints_2d_px[3], [x, y, 1])
    assert person.keypoints_2d_px[16, 2] == 0 and person.keypoints_3d_m[16, 3] == 1
    assert person.bbox_xywh_px.tolist() == [1, 2, 30, 40]


@pytest.mark.parametrize(
    ("options", "kept", "skipped"),
    [
        ({}, [0, 0, 5, 5, 10, 10], {"subsampled": 16}),
        ({"cameras": (4,)}, [0, 5, 10], {"subsampled": 8, "other_camera": 11}),
        ({"subset": "test"}, [0, 0], {"subsampled": 20}),
        ({"every": 4}, [0, 0, 4, 4, 8, 8], {"subsampled": 16}),
    ],
)
def test_frames_are_thinned_as_is_standard_and_the_others_counted(
    tmp_path: Path, options: Any, kept: list[int], skipped: dict[str, int]
) -> None:
    write(tmp_path)
    found, counted = read(tmp_path, **options)
    assert [p.frame for p in found] == kept and counted == skipped


def test_of_the_test_set_every_64th_frame_is_taken(tmp_path: Path) -> None:
    write(tmp_path, frames=129)
    found, _ = read(tmp_path, subset="test", cameras=(4,))
    assert [p.frame for p in found] == [0, 64, 128]


@pytest.mark.parametrize(("subset", "subjects"), [("train", [1, 5, 6, 7, 8]), ("test", [9, 11])])
def test_the_standard_actors_are_the_units(tmp_path: Path, subset: str, subjects: list[int]) -> None:
    for subject in (1, 5, 6, 7, 8, 9, 11):
        write(tmp_path, subject, 1)
    reader = Human36m(annotations=str(tmp_path), images="x", subset=subset)  # type: ignore[arg-type]
    assert reader.units(LocalFiles()) == subjects
    (tmp_path / f"Human36M_subject{subjects[-1]}_joint_3d.json").unlink()
    with pytest.raises(ValueError, match=f"subject{subjects[-1]}_joint_3d.json"):
        reader.units(LocalFiles())


def test_smpl_is_turned_with_the_camera_and_its_translation_is_unknown_without_a_body(tmp_path: Path) -> None:
    turn = Rotation.from_euler("z", 30, degrees=True).as_rotvec()
    write(tmp_path, smpl={"pose": [*turn, *[0.1] * 69], "shape": [0.5] * 10, "trans": [0.0, 0.0, 1.0]})
    (person, *_), _ = read(tmp_path)
    assert person.smpl is not None
    seen = Rotation.from_rotvec(person.smpl.global_orient).as_matrix()
    np.testing.assert_allclose(seen, R @ Rotation.from_rotvec(turn).as_matrix(), atol=1e-12)
    assert (person.smpl.body_pose == 0.1).all() and (person.smpl.betas == 0.5).all()
    assert np.isnan(person.smpl.transl_m).all()


def test_with_a_body_the_translation_is_exact(tmp_path: Path) -> None:
    root = np.array([0.0, -0.22, 0.03])
    write(tmp_path, smpl={"pose": [0.0] * 72, "shape": [0.0] * 10, "trans": [0.3, 0.1, 1.0]})
    template = np.array([root, root + [1, 0, 0]])
    np.savez(
        tmp_path / "body.npz", v_template=template, shapedirs=np.zeros((2, 3, 10)), J_regressor=np.eye(2),
        weights=np.eye(2), kintree_table=np.array([[-1, 0], [0, 1]]), f=np.array([[0, 1, 0]]),
    )  # fmt: skip
    (person, *_), _ = read(tmp_path, body=str(tmp_path / "body.npz"))
    assert person.smpl is not None
    # Where the root is: at rest plus the translation in the world, and the same in the camera's frame.
    np.testing.assert_allclose(root + person.smpl.transl_m, R @ (root + [0.3, 0.1, 1]) + [0.1, 0.2, 5])


def test_the_lens_is_the_owners_and_moves_the_2d_labels_alone(tmp_path: Path) -> None:
    """As their code has it: XX (radial + tan) + (p2, p1) r², tan = p1 y + p2 x, which OpenCV takes twice."""
    coefficients = [-0.207098910824901, 0.247775183068982, -0.00142447157470321, -0.000975698859, -0.003075150350]
    intrinsics = {name: {"distortion": coefficients} for name in CAMERA_NAMES.values()}
    (tmp_path / "lens.json").write_text(json.dumps({"intrinsics": intrinsics, "extrinsics": {}}))
    write(tmp_path)
    (plain, *_), _ = read(tmp_path)
    (bent, *_), _ = read(tmp_path, lens=str(tmp_path / "lens.json"))
    assert bent.keypoints_3d_m is not None and plain.keypoints_3d_m is not None
    k1, k2, p1, p2, k3 = coefficients
    for pixel, (x_m, y_m, z_m, _) in zip(bent.keypoints_2d_px, bent.keypoints_3d_m, strict=True):
        x, y = x_m / z_m, y_m / z_m
        r2 = x**2 + y**2
        scale = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) + (p1 * y + p2 * x)
        expected = [1145 * (x * scale + p2 * r2) + 512, 1143 * (y * scale + p1 * r2) + 515]
        np.testing.assert_allclose(pixel[:2], expected, atol=1e-6)
    np.testing.assert_array_equal(bent.keypoints_3d_m, plain.keypoints_3d_m)
    assert np.abs(bent.keypoints_2d_px - plain.keypoints_2d_px).max() > 0.1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"camera": {"1": {"R": [[1]], "t": [1, 2, 3], "f": [1, 1], "c": [0, 0]}}}, "R has 1 numbers"),
        ({"camera": {"1": CAMERA | {"R": [[2, 0, 0], [0, 2, 0], [0, 0, 2]]}}}, "R is no rotation"),
        ({"camera": {"1": CAMERA}}, "has no camera 4"),
        ({"joint_3d": {"2": {"1": {"0": [[1, 2, 3]]}}}}, "joints has shape"),
        ({"joint_3d": {"2": {"1": [1]}}}, "no object of frames"),
        ({"joint_3d": []}, "not JSON of an object"),
        ({"smpl_param": {"2": {"1": {"0": {"pose": [0]}}}}}, "pose has 1 numbers"),
    ],
)
def test_what_is_not_human36m_is_one_clear_error(tmp_path: Path, spoil: Any, said: str) -> None:
    write(tmp_path, **spoil)
    with pytest.raises(ValueError, match=said) as error:
        read(tmp_path)
    assert "Human36M_subject1_" in str(error.value)


def test_frames_without_3d_are_counted_and_names_that_leave_the_folder_refused(tmp_path: Path) -> None:
    write(tmp_path, joint_3d={"2": {"1": {"0": world_mm(0).tolist()}}})
    found, skipped = read(tmp_path)
    assert len(found) == 2 and skipped == {"no_3d": 4, "subsampled": 16}
    path = tmp_path / "Human36M_subject1_data.json"
    path.write_text(path.read_text().replace("s_01_act_02_subact_01_ca_01/", "../../"))
    with pytest.raises(ValueError, match="leaves the folder"):
        read(tmp_path)
    write(tmp_path)
    path.write_text(path.read_text()[:-400])
    with pytest.raises(ValueError, match="truncated or damaged"):
        read(tmp_path)


@pytest.mark.samples
def test_the_real_cameras_see_a_person_in_the_middle_of_the_room_upright(samples_dir: Path) -> None:
    content = json.loads((samples_dir / "human36m" / "camera-parameters.json").read_text())
    reader = Human36m(annotations="x", images="x", lens=str(samples_dir / "human36m" / "camera-parameters.json"))
    lenses = reader._lenses(LocalFiles())
    moved_px = []
    for subject in ("S1", "S5", "S6", "S7", "S8", "S9", "S11"):
        for number, name in CAMERA_NAMES.items():
            inner = np.array(content["intrinsics"][name]["calibration_matrix"])
            outer = content["extrinsics"][subject][name]
            camera = Camera(
                focal_px=np.diag(inner)[:2], princpt_px=inner[:2, 2], rotation=np.array(outer["R"]),
                translation_m=np.ravel(outer["t"]) / 1000,
            )  # fmt: skip
            np.testing.assert_allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-9)
            assert np.linalg.det(camera.rotation) > 0
            centre = -camera.rotation.T @ camera.translation_m
            assert 1 < centre[2] < 2.5 and 3 < np.linalg.norm(centre[:2]) < 7  # on a tripod, some metres away
            head, feet = camera.to_camera(np.array([[0, 0, 1.7], [0, 0, 0.0]]))
            bent = project(np.stack([head, feet]), camera, lenses[number])
            plain = camera.project(np.stack([head, feet]))
            assert (bent > 0).all() and (bent < 1000).all() and bent[1, 1] - bent[0, 1] > 250
            assert abs(bent[0, 0] - bent[1, 0]) < 60  # upright
            moved_px.append(np.linalg.norm(bent - plain, axis=1))
    moved = np.concatenate(moved_px)
    sys.stdout.write(f"the lens moves head and feet by {np.median(moved):.2f} px (median), {moved.max():.2f} at most\n")
    assert 0.5 < np.median(moved) < 4 and moved.max() < 12
