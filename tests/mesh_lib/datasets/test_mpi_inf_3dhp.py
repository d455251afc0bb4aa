"""MPI-INF-3DHP: both sets in the owners' layout, sides and numbers kept, what is left out counted."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from mesh_lib.datasets import mpi_inf_3dhp
from mesh_lib.datasets.mpi_inf_3dhp import LAST_FRAMES, MPI21, TEST17, MpiInf3dhp, read_calibration
from mesh_lib.datasets.people import ITW_3D, MOCAP, Camera, LocalFiles, Person
from mesh_lib.datasets.pinhole_fit import fit_camera

# As the owners write it: the columns of the values differ from line to line.
CALIBRATION = """Skeletool Camera Calibration File V1.0
name          0
  sensor      10 10
  size        2048 2048
  animated    0
  intrinsic   1497.693 0 1024.704 0 0 1497.103 1051.394 0 0 0 1 0 0 0 0 1
  extrinsic   0.9650164 0.00488022 0.262144 -562.8666 -0.004488356 -0.9993728 0.0351275 1398.138 0.262151 -0.03507521 \
-0.9643893 3852.623 0 0 0 1
  radial      0
name  4
  size   1000   900
  intrinsic 1490 0 980 0 0 1491 1010 0 0 0 1 0 0 0 0 1
  extrinsic 1 0 0 0 0 1 0 0 0 0 1 2000 0 0 0 1
"""
OWNERS28 = (
    "spine3", "spine4", "spine2", "spine", "pelvis", "neck", "head", "head_top", "left_clavicle", "left_shoulder",
    "left_elbow", "left_wrist", "left_hand", "right_clavicle", "right_shoulder", "right_elbow", "right_wrist",
    "right_hand", "left_hip", "left_knee", "left_ankle", "left_foot", "left_toe", "right_hip", "right_knee",
    "right_ankle", "right_foot", "right_toe",
)  # fmt: skip
"""annot_notes.md of the owners."""


def write_train(folder: Path, frames: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """S1/Seq1; returns camera 4's pixels and points. Its head top leaves the picture at the right."""
    sequence = folder / "S1" / "Seq1"
    sequence.mkdir(parents=True)
    rng = np.random.default_rng(0)
    points, pixels = rng.normal(0, 300, (14, frames, 28, 3)) + [0, 0, 3000], rng.uniform(0, 899, (14, frames, 28, 2))
    pixels[:, :, OWNERS28.index("head_top"), 0] = 1000
    cells = {"annot2": np.empty((14, 1), object), "annot3": np.empty((14, 1), object)}
    for camera in range(14):
        cells["annot2"][camera, 0] = pixels[camera].reshape(frames, 56)
        cells["annot3"][camera, 0] = points[camera].reshape(frames, 84)
    more = {"cameras": np.arange(14)[None], "frames": np.arange(frames)[:, None], "univ_annot3": cells["annot3"]}
    scipy.io.savemat(sequence / "annot.mat", cells | more, do_compression=True)
    (sequence / "camera.calibration").write_text(CALIBRATION)
    return pixels[4], points[4]


def write_test(folder: Path, number: int = 1, frames: int = 4, **changed: np.ndarray) -> np.ndarray:
    """TS<number>, whose frame 1 is invalid; returns the points, mm."""
    points = np.random.default_rng(1).normal(0, 300, (frames, 1, 17, 3)) + [0, 0, 3000]
    content = {
        "annot3": points,
        "annot2": points[..., :2] / points[..., 2:] * [1500, 1490] + [1020, 500],
        "univ_annot3": points,
        "valid_frame": (np.arange(frames) != 1)[:, None].astype(np.float64),
    } | changed
    (folder / f"TS{number}").mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"TS{number}" / "annot_data.mat", "w") as file:
        for name, values in content.items():
            file[name] = values
    return points


def read(folder: Path, **options: Any) -> tuple[list[Person], Counter[str]]:
    skipped: Counter[str] = Counter()
    reader = MpiInf3dhp(folder=str(folder), **options)
    units = reader.units(LocalFiles())
    return [person for unit in units for person in reader.people(unit, LocalFiles(), skipped)], skipped


def test_the_joints_of_training_come_by_their_owners_names(tmp_path: Path) -> None:
    pixels, points = write_train(tmp_path)
    found, _ = read(tmp_path, cameras=(4,), every=1)
    assert len(found) == 7
    for name in ("right_toe", "left_hand", "left_hip", "right_wrist", "neck", "pelvis", "spine", "head"):
        at, owners = MPI21.index(name), OWNERS28.index(name)
        for row, person in enumerate(found):
            assert person.keypoints_3d_m is not None
            np.testing.assert_allclose(person.keypoints_2d_px[at], [*pixels[row, owners], 1])
            np.testing.assert_allclose(person.keypoints_3d_m[at], [*points[row, owners] / 1000, 1])


def test_a_joint_outside_the_picture_has_no_confidence_in_2d(tmp_path: Path) -> None:
    write_train(tmp_path)
    top = MPI21.index("head_top")
    (inside, *_), _ = read(tmp_path, cameras=(0,))
    (outside, *_), _ = read(tmp_path, cameras=(4,))
    assert inside.keypoints_2d_px[top].tolist()[0] == 1000 and inside.keypoints_2d_px[top, 2] == 1
    assert outside.keypoints_2d_px[top, 2] == 0 and outside.keypoints_2d_px[:, 2].sum() == 20
    assert outside.keypoints_3d_m is not None and outside.keypoints_3d_m[top, 3] == 1


def test_every_third_frame_is_taken_and_the_others_are_counted(tmp_path: Path) -> None:
    write_train(tmp_path)
    found, skipped = read(tmp_path, cameras=(0, 4))
    assert [(p.image_id, p.frame) for p in found] == [
        (f"S1/Seq1/video_{camera}/{row + 1:06d}", row) for camera in (0, 4) for row in (0, 3, 6)
    ]
    assert skipped == {"subsampled": 8} and {p.supervision for p in found} == {MOCAP}


def test_rows_that_the_videos_do_not_have_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_train(tmp_path)
    monkeypatch.setitem(mpi_inf_3dhp.LAST_FRAMES, (1, 1), 4)
    found, skipped = read(tmp_path, cameras=(0,))
    assert [p.frame for p in found] == [0, 3] and skipped == {"subsampled": 2, "past_end_of_video": 3}


def test_the_video_is_read_unless_its_frames_were_extracted(tmp_path: Path) -> None:
    write_train(tmp_path)
    (first, second, *_), _ = read(tmp_path, cameras=(4,))
    assert first.picture == f"{tmp_path}/S1/Seq1/imageSequence/video_4.avi"
    assert (first.video_frame, second.video_frame) == (0, 3)
    pictures = tmp_path / "S1" / "Seq1" / "jpg" / "4"
    pictures.mkdir(parents=True)
    (pictures / "1.jpg").touch()
    (first, second, *_), _ = read(tmp_path, cameras=(4,), frames="jpg/{camera}/{frame}.jpg")
    assert second.picture == f"{tmp_path}/S1/Seq1/jpg/4/4.jpg" and second.video_frame is None


def test_the_calibration_is_read_by_keyword(tmp_path: Path) -> None:
    (tmp_path / "camera.calibration").write_text(CALIBRATION)
    cameras = read_calibration(LocalFiles(), str(tmp_path / "camera.calibration"))
    assert set(cameras) == {0, 4}
    camera, size = cameras[0]
    assert size == (2048, 2048) and cameras[4][1] == (1000, 900)
    assert camera.focal_px.tolist() == [1497.693, 1497.103] and camera.princpt_px.tolist() == [1024.704, 1051.394]
    np.testing.assert_allclose(camera.translation_m, [-0.5628666, 1.398138, 3.852623])
    # World is y up, millimetres in the file: one metre above the floor is one metre less of y in the camera's frame.
    np.testing.assert_allclose((camera.to_camera(np.array([0, 1.0, 0])) - camera.translation_m)[1], -1, atol=0.01)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no camera"),
        ("name 0\n size 2 2\n intrinsic 1 2\n", "has not 16 numbers"),
        ("name 0\n size 2 x\n", "has not 2 numbers"),
        ("name 0\n size 2 2\n", "camera 0 has no extrinsic, intrinsic"),
    ],
)
def test_a_damaged_calibration_says_so(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "camera.calibration").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_calibration(LocalFiles(), str(tmp_path / "camera.calibration"))


def test_the_test_set_comes_with_the_camera_that_its_labels_tell(tmp_path: Path) -> None:
    points = write_test(tmp_path, 1)
    write_test(tmp_path, 5)
    found, skipped = read(tmp_path, subset="test")
    assert [p.image_id for p in found] == [f"TS{t}/img_{f:06d}" for t in (1, 5) for f in (1, 3, 4)]
    assert skipped == {"invalid_frame": 2}
    assert [p.supervision for p in found] == [MOCAP] * 3 + [ITW_3D] * 3
    second = found[1]
    assert second.frame == 2 and second.picture == f"{tmp_path}/TS1/imageSequence/img_000003.jpg"
    assert second.camera is not None and second.keypoints_3d_m is not None
    np.testing.assert_allclose(second.camera.focal_px, [1500, 1490])
    np.testing.assert_allclose(second.camera.princpt_px, [1020, 500])
    np.testing.assert_allclose(second.keypoints_3d_m[MPI21.indices(TEST17), :3], points[2, 0] / 1000)
    lacking = MPI21.indices(["left_hand", "right_hand", "left_toe", "right_toe"])
    assert not second.keypoints_3d_m[lacking].any() and not second.keypoints_2d_px[lacking].any()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"annot2": np.zeros((4, 1, 28, 2))}, "annot2 has shape"),
        ({"annot3": np.ones((3, 1, 17, 3))}, "4 frames of annot2, 3 of annot3"),
        ({"valid_frame": np.ones(3)}, "valid_frame has shape"),
    ],
)
def test_a_test_file_of_other_shapes_says_which(tmp_path: Path, changed: Any, said: str) -> None:
    write_test(tmp_path, **changed)
    with pytest.raises(ValueError, match=said) as error:
        read(tmp_path, subset="test")
    assert "TS1/annot_data.mat" in str(error.value)


def test_cut_files_and_missing_folders_are_one_clear_error(tmp_path: Path) -> None:
    for subset, name in (("train", "S1 … S8"), ("test", "TS1 … TS6")):
        with pytest.raises(ValueError, match=name):
            read(tmp_path, subset=subset)
    write_test(tmp_path)
    write_train(tmp_path)
    with pytest.raises(ValueError, match=r"no annotation file at .*S2/Seq1"):
        read(tmp_path, subjects=(2,))
    for subset, path in (("train", "S1/Seq1/annot.mat"), ("test", "TS1/annot_data.mat")):
        whole = (tmp_path / path).read_bytes()
        for end in (0, 200, len(whole) // 3):  # later in annot.mat lies what is not read
            (tmp_path / path).write_bytes(whole[:end])
            with pytest.raises(ValueError, match=path):
                read(tmp_path, subset=subset, cameras=(0,))


@pytest.mark.parametrize("wrong", [{"every": -1}, {"cameras": (14,)}, {"cameras": (1, 1)}, {"frames": "{place}.jpg"}])
def test_options_that_make_no_sense_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"every is|frames has"):
        MpiInf3dhp(folder="x", **wrong)


def test_the_documented_lengths_of_the_videos() -> None:
    assert set(LAST_FRAMES) == {(actor, sequence) for actor in range(1, 9) for sequence in (1, 2)}
    assert (LAST_FRAMES[1, 1], LAST_FRAMES[1, 2]) == (6416, 12430)
    at_50_hz = {unit for unit, frames in LAST_FRAMES.items() if frames > 10_000}  # four minutes, as all the others
    assert at_50_hz == {(1, 2), (3, 1), (3, 2), (5, 1), (5, 2)}


@pytest.mark.samples
def test_real_labels_project_onto_their_2d_and_the_lists_agree_on_sides(samples_dir: Path) -> None:
    """One real row of each set, in mmpose's form (the joints in the order of TEST17, metres)."""
    folder = samples_dir / "mpi_inf_3dhp" / "mmpose_form" / "annotations"
    cameras = json.loads((folder / "cameras_subset.json").read_text())
    rest = [i for i, name in enumerate(TEST17) if not name.endswith(("hip", "spine"))]
    for name, camera in (("train", cameras["train"]["S4_Seq2_Cam0"]), ("test_valid", cameras["test"]["TS1"])):
        with np.load(folder / f"mpi_inf_3dhp_{name}.npz") as row:
            points, pixels = row["S"][0][:, :3], row["part"][0][:, :2]
        theirs = Camera(focal_px=np.ravel(camera["f"]), princpt_px=np.ravel(camera["c"]))
        off = np.linalg.norm(theirs.project(points) - pixels, axis=1)
        fitted = fit_camera(points, pixels)
        assert fitted is not None
        off_fitted = np.linalg.norm(fitted.project(points) - pixels, axis=1)
        sys.stdout.write(
            f"{name}: owners' camera {off[rest].max():.3f} px, hips and spine {off.max():.2f} px; "
            f"our camera {off_fitted[rest].max():.3f} px\n"
        )
        assert off[rest].max() < 0.11 and off.max() < 2.2 and off_fitted[rest].max() < 0.012
        np.testing.assert_allclose(fitted.focal_px, np.ravel(camera["f"]), rtol=2e-4)
        at: dict[str, np.ndarray] = dict(zip(TEST17, points, strict=True))
        np.testing.assert_allclose(at["pelvis"], (at["left_hip"] + at["right_hip"]) / 2, atol=1e-3)
        thighs = [np.linalg.norm(at[f"{side}_hip"] - at[f"{side}_knee"]) for side in ("left", "right")]
        assert 0.3 < min(thighs) < max(thighs) < 0.6 and 0.15 < np.linalg.norm(at["head_top"] - at["neck"]) < 0.35
        forward = np.cross(at["left_hip"] - at["right_hip"], at["neck"] - at["pelvis"])
        bent = [
            (at[f"{side}_knee"] - (at[f"{side}_hip"] + at[f"{side}_ankle"]) / 2) @ forward for side in ("left", "right")
        ]
        assert sum(bent) > 0  # knees bend forward only where left is the person's left
