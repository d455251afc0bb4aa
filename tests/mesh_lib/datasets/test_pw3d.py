"""3DPW: Python 2 pickles that run nothing, two actors of one world seen by a moving camera."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mesh_lib.body.files import Body
from mesh_lib.body.joints import SMPL24
from mesh_lib.body.layer import BodyLayer
from mesh_lib.datasets.people import ITW_3D, LocalFiles, Person
from mesh_lib.datasets.pw3d import PW3D29, Pw3d
from tests.mesh_lib.datasets.test_world_bodies import away_from_the_origin, vertices

FRAMES = 4
NOSE, LEFT_EAR = PW3D29.index("nose"), PW3D29.index("left_ear")


PICKLER: Any = vars(pickle)["_Pickler"]  # the one in Python, whose ways can be changed


class Python2Pickler(PICKLER):
    """Writes strings and the bytes of arrays as Python 2 did, which knew one kind of both."""

    dispatch: ClassVar[dict[Any, Any]] = PICKLER.dispatch.copy()

    def save_as_python2(self, value: Any) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_as_python2


def python2_pickle(content: Any) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(content)
    return stream.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def sequence(body: Body) -> dict[str, Any]:
    """Two actors; the second's camera is not aligned in frame 1. Joints are the body's own."""
    rng = np.random.default_rng(3)
    layer = BodyLayer(body, dtype=torch.float64)
    content: dict[str, Any] = {name: [] for name in ("poses", "trans", "betas", "jointPositions")}
    for actor in range(2):
        poses, betas = rng.normal(0, 0.4, (FRAMES, 72)), rng.normal(0, 1, 10)
        trans = rng.normal(0, 0.3, (FRAMES, 3)) + [actor, 1, 0]
        rotmats = torch.tensor(Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(FRAMES, 24, 3, 3))
        joints = layer(rotmats=rotmats, betas=torch.tensor(np.tile(betas, (FRAMES, 1)))).joints_m.numpy()
        content["poses"].append(poses)
        content["trans"].append(trans)
        content["betas"].append(np.concatenate([betas, rng.normal(0, 1, 5)]))
        content["jointPositions"].append((joints + trans[:, None]).reshape(FRAMES, 72))
    cameras = np.tile(np.eye(4), (FRAMES, 1, 1))
    for frame in range(FRAMES):
        cameras[frame, :3, :3] = Rotation.from_euler("xy", [180, 10 * frame], degrees=True).as_matrix()
        cameras[frame, :3, 3] = 0, 1, 5 + frame
    poses2d = np.zeros((FRAMES, 3, 18))
    poses2d[0, :, 0], poses2d[0, :, 17] = (300, 200, 0.9), (310, 210, 0.4)
    return content | {
        "sequence": "downtown_test_00",
        "genders": ["m", "f"],
        "poses2d": [poses2d, poses2d],
        "campose_valid": [np.ones(FRAMES), np.array([1.0, 0, 1, 1])],
        "cam_poses": cameras,
        "cam_intrinsics": np.array([[1960.0, 0, 540], [0, 1961, 960], [0, 0, 1]]),
        "img_frame_ids": np.arange(FRAMES) * 2,
        "poses_60Hz": [np.zeros((2 * FRAMES, 72))] * 2,
        "trans_60Hz": [np.zeros((2 * FRAMES, 3))] * 2,
        "betas_clothed": [np.zeros(10)] * 2,
        "v_template_clothed": [np.zeros((6890, 3))] * 2,
        "texture_maps": [np.zeros((8, 8, 3), np.uint8)] * 2,
    }


def read(folder: Path, data: bytes | dict[str, Any], **options: Any) -> tuple[list[Person], Counter[str]]:
    path = folder / "sequenceFiles" / "train" / "downtown_test_00.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else python2_pickle(data))
    skipped: Counter[str] = Counter()
    reader = Pw3d(folder=str(folder), **options)
    return [p for unit in reader.units(LocalFiles()) for p in reader.people(unit, LocalFiles(), skipped)], skipped


@pytest.fixture
def shifted(body: Body) -> Body:
    return away_from_the_origin(body)


@pytest.fixture
def content(shifted: Body) -> dict[str, Any]:
    return sequence(shifted)


def test_both_actors_come_frame_by_frame_and_unaligned_cameras_are_counted(tmp_path: Path, content: Any) -> None:
    found, skipped = read(tmp_path, content)
    assert [(p.frame, p.person_id) for p in found] == [
        (0, "0"), (0, "1"), (1, "0"), (2, "0"), (2, "1"), (3, "0"), (3, "1"),
    ]  # fmt: skip
    assert skipped == {"camera_not_aligned": 1}
    assert found[2].image_id == "downtown_test_00/image_00001" and found[2].sequence == "downtown_test_00"
    assert found[2].picture == f"{tmp_path}/imageFiles/downtown_test_00/image_00001.jpg"
    assert {p.supervision for p in found} == {ITW_3D}


def test_pickles_of_python_3_are_read_alike(tmp_path: Path, content: Any) -> None:
    old, _ = read(tmp_path, content)
    new, _ = read(tmp_path, pickle.dumps(content, protocol=2))
    for one, other in zip(old, new, strict=True):
        np.testing.assert_array_equal(one.keypoints_2d_px, other.keypoints_2d_px)


def test_the_mesh_of_the_stored_parameters_is_the_worlds_mesh_seen_by_the_camera(
    tmp_path: Path, content: Any, shifted: Body
) -> None:
    for person in read(tmp_path, content)[0]:
        actor, frame = int(person.person_id), person.frame
        poses, trans = content["poses"][actor][frame], content["trans"][actor][frame]
        betas = content["betas"][actor][:10]
        outer = content["cam_poses"][frame]
        moved = vertices(shifted, poses[:3], poses[3:], betas, trans) @ outer[:3, :3].T + outer[:3, 3]
        assert person.smpl is not None
        smpl = person.smpl
        seen = vertices(shifted, smpl.global_orient, smpl.body_pose, smpl.betas, smpl.transl_m)
        np.testing.assert_allclose(seen, moved, atol=1e-9)


def test_joints_are_the_worlds_and_project_onto_their_2d(tmp_path: Path, content: Any) -> None:
    person = read(tmp_path, content)[0][-1]
    outer = content["cam_poses"][3]
    wrist = SMPL24.index("left_wrist")
    expected = outer[:3, :3] @ content["jointPositions"][1][3].reshape(24, 3)[wrist] + outer[:3, 3]
    assert person.keypoints_3d_m is not None
    np.testing.assert_allclose(person.keypoints_3d_m[PW3D29.index("left_wrist")], [*expected, 1])
    x, y = expected[:2] / expected[2] * [1960, 1961] + [540, 960]
    np.testing.assert_allclose(person.keypoints_2d_px[PW3D29.index("left_wrist")], [x, y, 1])
    assert not person.keypoints_3d_m[24:].any()


def test_the_face_is_what_was_detected_with_its_confidence(tmp_path: Path, content: Any) -> None:
    found, _ = read(tmp_path, content)
    np.testing.assert_array_equal(found[0].keypoints_2d_px[NOSE], [300, 200, 0.9])
    np.testing.assert_array_equal(found[0].keypoints_2d_px[LEFT_EAR], [310, 210, 0.4])
    assert not found[2].keypoints_2d_px[24:, 2].any()


def test_a_joint_behind_the_camera_has_no_2d(tmp_path: Path, content: Any) -> None:
    content["cam_poses"][0, 2, 3] = -5
    person = read(tmp_path, content)[0][0]
    assert not person.keypoints_2d_px[:24, 2].any() and np.isfinite(person.keypoints_2d_px).all()
    assert person.keypoints_3d_m is not None and person.keypoints_3d_m[:24, 3].all()


def test_a_translation_that_does_not_go_with_the_joints_is_not_stored(tmp_path: Path, content: Any) -> None:
    content["trans"][0][1] += 0.1
    found, _ = read(tmp_path, content)
    unknown = [(p.frame, p.person_id) for p in found if p.smpl is not None and np.isnan(p.smpl.transl_m).all()]
    assert unknown == [(1, "0")]


def test_actors_of_one_gender_keep_their_numbers(tmp_path: Path, content: Any) -> None:
    found, skipped = read(tmp_path, content, gender="f")
    assert [(p.frame, p.person_id) for p in found] == [(0, "1"), (2, "1"), (3, "1")]
    assert {p.smpl.gender for p in found if p.smpl} == {"f"}
    assert skipped == {"other_gender": 4, "camera_not_aligned": 1}


def test_a_camera_that_is_none_is_counted(tmp_path: Path, content: Any) -> None:
    content["cam_poses"][2] = 0
    found, skipped = read(tmp_path, content)
    assert skipped["malformed_camera"] == 2 and 2 not in {p.frame for p in found}


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, content: Any, protocol: int) -> None:
    content["texture_maps"] = [_Code(tmp_path / "owned")]
    with pytest.raises(ValueError, match=r"downtown_test_00\.pkl cannot be read as a sequence of 3DPW.*refused"):
        read(tmp_path, pickle.dumps(content, protocol=protocol))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"poses2d": None}, "no poses2d in it"),
        ({"genders": ["m"]}, "differ in their number of actors"),
        ({"poses": [np.zeros((3, 72))] * 2}, r"actor 0: poses has shape \(3, 72\)"),
        ({"betas": [np.zeros(3)] * 2}, "betas has shape"),
        ({"cam_poses": np.zeros((4, 3, 3))}, "cam_poses has shape"),
        ({"cam_intrinsics": "none"}, "cam_intrinsics is not an array"),
    ],
)
def test_a_sequence_of_another_layout_says_what_is_wrong(tmp_path: Path, content: Any, changed: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        read(tmp_path, content | changed)
    assert "downtown_test_00.pkl" in str(error.value)


def test_cut_pickles_and_missing_folders_say_so(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ValueError, match="sequenceFiles/train"):
        Pw3d(folder=str(tmp_path)).units(LocalFiles())
    whole = python2_pickle(content)
    for end in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        with pytest.raises(ValueError, match=r"downtown_test_00\.pkl cannot be read"):
            read(tmp_path, whole[:end])
    with pytest.raises(ValueError, match="holds a list"):
        read(tmp_path, pickle.dumps([1, 2]))
