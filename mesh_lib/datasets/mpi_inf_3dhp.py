"""MPI-INF-3DHP: eight actors before many cameras in a green-screen studio (training), and six test sequences.

Mehta et al., 2017 (https://vcai.mpi-inf.mpg.de/3dhp-dataset/). Licence: non-commercial research only. Training:
`S1 … S8/Seq1, Seq2/{annot.mat, camera.calibration, imageSequence/video_%d.avi}`; test: `TS1 … TS6/{annot_data.mat,
imageSequence/img_%06d.jpg}` (TS1 to TS4 studio, TS5 and TS6 outdoors). Millimetres in the camera's frame, x right,
y down; pixels of the whole picture. Standard: of training the eight cameras at chest height and every third frame
(Pose2Pose), of test every frame that its owners call valid.

Traps. Training lists 28 joints, left before right; test 17, right before left: both come out as `MPI21`, test without
hands and toes. Row i is frame i of the video, and frame i + 1 of extracted pictures. Some videos end before their
annotations: rows past `LAST_FRAMES` are left out, and counted. camera.calibration is read by its keywords, never by
columns. The 2D hips and spine are 1 to 2 px off their projected 3D, all other joints a hundredth. The test set has no
intrinsics: they are found from its 3D and 2D labels. `univ_annot3` (everyone scaled to one height) does not fit the
picture, and is not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mesh_lib.body.joints import JointSet
from mesh_lib.datasets.matlab import load_mat, open_hdf5
from mesh_lib.datasets.people import ITW_3D, MOCAP, Camera, Files, Person, Reader, array, need
from mesh_lib.datasets.pinhole_fit import fit_camera

TEST17 = (
    "head_top", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "pelvis", "spine", "head",
)  # fmt: skip
TRAIN28 = JointSet(
    "mpi_inf_3dhp28",
    (
        "chest_lower", "chest_upper", "belly", "spine", "pelvis", "neck", "head", "head_top", "left_clavicle",
        "left_shoulder", "left_elbow", "left_wrist", "left_hand", "right_clavicle", "right_shoulder", "right_elbow",
        "right_wrist", "right_hand", "left_hip", "left_knee", "left_ankle", "left_foot_middle", "left_toe",
        "right_hip", "right_knee", "right_ankle", "right_foot_middle", "right_toe",
    ),
)  # fmt: skip
"""As annot.mat has them. The owners call the first three spine3, spine4 and spine2: not SMPL's."""
MPI21 = JointSet("mpi_inf_3dhp21", (*TEST17, "right_hand", "left_hand", "right_toe", "left_toe"))
"""The owners' 17 relevant joints, hands and toes. The neck lies above the shoulders, as SMPL's does."""

LAST_FRAMES = {
    (1, 1): 6416, (1, 2): 12430, (2, 1): 6502, (2, 2): 6081, (3, 1): 12488, (3, 2): 12283, (4, 1): 6171, (4, 2): 6675,
    (5, 1): 12820, (5, 2): 12312, (6, 1): 6188, (6, 2): 6145, (7, 1): 6239, (7, 2): 6320, (8, 1): 6468, (8, 2): 6054,
}  # fmt: skip
"""Frames that all videos of a training sequence have, by actor and sequence, as the owners document them."""
CAMERAS = 14
EVERY = {"train": 3, "test": 1}
OUTDOORS = {5, 6}
SITE = "https://vcai.mpi-inf.mpg.de/3dhp-dataset/"
TRAIN_FILE = "MPI-INF-3DHP's annot.mat: annot2, a cell of 14 cameras' (frames, 56), annot3, one of (frames, 84)"
TEST_FILE = "MPI-INF-3DHP's annot_data.mat: annot2 (frames, 1, 17, 2), annot3 (frames, 1, 17, 3), valid_frame"


@dataclass(frozen=True, kw_only=True)
class MpiInf3dhp(Reader):
    """MPI-INF-3DHP: its training set, or its test set."""

    folder: str
    """Folder of S1 … S8 for training, of TS1 … TS6 for test."""
    subset: Literal["train", "test"] = "train"
    subjects: tuple[int, ...] = ()
    """Numbers of S or of TS to read; by default all that are there."""
    every: int = 0
    """Every how many frames to take one; 0: every third of training, each of test."""
    cameras: tuple[int, ...] = (0, 1, 2, 4, 5, 6, 7, 8)
    """Training cameras: those at chest height. The others look from above and below."""
    frames: str = "imageFrames/video_{camera}/frame_{frame:06d}.jpg"
    """Pictures extracted from a training sequence's videos, from frame 1; without them the videos are read."""

    def __post_init__(self) -> None:
        if self.every < 0 or not set(self.cameras) <= set(range(CAMERAS)) or len(set(self.cameras)) < len(self.cameras):
            raise ValueError(f"every is at least 0, cameras are some of 0 … {CAMERAS - 1}, each once")
        try:
            self.frames.format(camera=0, frame=1)
        except (KeyError, IndexError, ValueError):
            raise ValueError(f"frames has parts {{camera}} and {{frame}} alone; it is {self.frames!r}") from None

    @property
    def joint_set(self) -> JointSet:
        return MPI21

    @property
    def inputs(self) -> Sequence[str]:
        return (self.folder,)

    def units(self, files: Files) -> list[Any]:
        train = self.subset == "train"
        numbers = self.subjects or tuple(range(1, 9 if train else 7))
        units = [(s, q) for s in numbers for q in (1, 2)] if train else [(s, 0) for s in numbers]
        fix = f"pass the folder of {'S1 … S8' if train else 'TS1 … TS6'} of MPI-INF-3DHP ({SITE})"
        if self.subjects:
            for unit in units:
                need(files, self._file(unit), what="annotation file", fix=fix)
        found = [unit for unit in units if files.exists(self._file(unit))]
        if not found:
            raise ValueError(f"no {self._file(units[0])}, nor any of the others\n  fix: {fix}")
        return found

    def people(self, unit: Any, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        read = self._train if self.subset == "train" else self._test
        yield from read(unit, files, skipped)

    def _folder(self, unit: tuple[int, int]) -> str:
        part = f"S{unit[0]}/Seq{unit[1]}" if self.subset == "train" else f"TS{unit[0]}"
        return f"{self.folder.rstrip('/')}/{part}"

    def _file(self, unit: tuple[int, int]) -> str:
        return f"{self._folder(unit)}/{'annot.mat' if self.subset == 'train' else 'annot_data.mat'}"

    @property
    def _step(self) -> int:
        return self.every or EVERY[self.subset]

    def _train(self, unit: tuple[int, int], files: Files, skipped: Counter[str]) -> Iterator[Person]:
        path, folder = self._file(unit), self._folder(unit)
        sequence = f"S{unit[0]}/Seq{unit[1]}"
        cameras = read_calibration(files, f"{folder}/camera.calibration")
        cells = load_mat(files, path, "annot2", "annot3", expected=TRAIN_FILE)
        for camera in self.cameras:
            if camera not in cameras:
                raise ValueError(f"{folder}/camera.calibration has no camera {camera}")
            pixels = _of_camera(cells["annot2"], camera, 2, where=path)
            points_m = _of_camera(cells["annot3"], camera, 3, where=path) / 1000
            if len(pixels) != len(points_m):
                raise ValueError(f"{path}: camera {camera} has {len(pixels)} rows of annot2, {len(points_m)} of annot3")
            rows = min(len(pixels), LAST_FRAMES.get(unit, len(pixels)))
            if len(pixels) > rows:
                skipped["past_end_of_video"] += len(pixels) - rows
            jpg = files.exists(self._picture(folder, camera, 0))
            for row in range(rows):
                if row % self._step:
                    skipped["subsampled"] += 1
                    continue
                yield Person(
                    image_id=f"{sequence}/video_{camera}/{row + 1:06d}",
                    person_id="0",
                    picture=self._picture(folder, camera, row) if jpg else f"{folder}/imageSequence/video_{camera}.avi",
                    video_frame=None if jpg else row,
                    keypoints_2d_px=_keypoints(pixels[row], TRAIN28, cameras[camera][1]),
                    keypoints_3d_m=_known(points_m[row], TRAIN28),
                    camera=cameras[camera][0],
                    sequence=sequence,
                    frame=row,
                    supervision=MOCAP,
                )

    def _picture(self, folder: str, camera: int, row: int) -> str:
        return f"{folder}/{self.frames.format(camera=camera, frame=row + 1)}"

    def _test(self, unit: tuple[int, int], files: Files, skipped: Counter[str]) -> Iterator[Person]:
        path, sequence = self._file(unit), f"TS{unit[0]}"
        with open_hdf5(files, path, "annot2", "annot3", "valid_frame", expected=TEST_FILE) as found:
            raw = {name: np.asarray(values) for name, values in found.items()}
        pixels = array(raw["annot2"], (-1, 1, 17, 2), what="annot2", where=path)[:, 0]
        points_m = array(raw["annot3"], (-1, 1, 17, 3), what="annot3", where=path)[:, 0] / 1000
        valid = array(raw["valid_frame"].reshape(-1), (len(pixels),), what="valid_frame", where=path) > 0
        if len(points_m) != len(pixels):
            raise ValueError(f"{path}: {len(pixels)} frames of annot2, {len(points_m)} of annot3")
        camera = fit_camera(points_m[valid].reshape(-1, 3), pixels[valid].reshape(-1, 2))
        joints = JointSet("mpi_inf_3dhp17", TEST17)
        size = (1920.0, 1080.0) if unit[0] in OUTDOORS else (2048.0, 2048.0)
        for row in range(len(pixels)):
            if not valid[row] or row % self._step:
                skipped["subsampled" if valid[row] else "invalid_frame"] += 1
                continue
            image_id = f"{sequence}/img_{row + 1:06d}"
            yield Person(
                image_id=image_id,
                person_id="0",
                picture=f"{self._folder(unit)}/imageSequence/img_{row + 1:06d}.jpg",
                keypoints_2d_px=_keypoints(pixels[row], joints, size),
                keypoints_3d_m=_known(points_m[row], joints),
                camera=camera,
                sequence=sequence,
                frame=row,
                supervision=ITW_3D if unit[0] in OUTDOORS else MOCAP,
            )


def _of_camera(cell: np.ndarray, camera: int, axes: int, *, where: str) -> np.ndarray:
    """(frames, 28, axes) of one camera's labels."""
    if cell.dtype != object or cell.size != CAMERAS:
        raise ValueError(f"{where} has labels of another layout: {cell.shape}\n  expected: {TRAIN_FILE}")
    what, size = f"annot{axes} of camera {camera}", len(TRAIN28) * axes
    return array(cell.ravel()[camera], (-1, size), what=what, where=where).reshape(-1, len(TRAIN28), axes)


def _keypoints(pixels: np.ndarray, source: JointSet, size: tuple[float, float]) -> np.ndarray:
    """(joints, 3) of `MPI21`; what lies outside the picture has confidence 0."""
    outside = ((pixels < 0) | (pixels > np.array(size) - 1)).any(axis=1, keepdims=True)
    return MPI21.take_from(np.concatenate([pixels, ~outside], axis=1), source)


def _known(points_m: np.ndarray, source: JointSet) -> np.ndarray:
    """(joints, 4) of `MPI21`."""
    return MPI21.take_from(np.concatenate([points_m, np.ones((len(source), 1))], axis=1), source)


def read_calibration(files: Files, path: str) -> dict[int, tuple[Camera, tuple[float, float]]]:
    """Each camera and its picture's size, of the owners' camera.calibration. Raises ValueError for another file."""
    with files.open(need(files, path, what="camera.calibration", fix="it lies beside annot.mat")) as stream:
        lines = stream.read().decode("utf-8", errors="replace").splitlines()
    found: dict[int, dict[str, np.ndarray]] = {}
    values: dict[str, np.ndarray] = {}
    for line in lines:
        keyword, *words = line.split() or [""]
        if keyword == "name" and words and words[0].isdecimal():
            values = found.setdefault(int(words[0]), {})
        elif keyword in ("size", "intrinsic", "extrinsic"):
            count = 2 if keyword == "size" else 16
            try:
                values[keyword] = array([float(word) for word in words], (count,), what=keyword, where=path)
            except ValueError:
                raise ValueError(f"{path}: a line `{keyword}` has not {count} numbers: {line!r}") from None
    for name, one in found.items():
        if lacking := {"size", "intrinsic", "extrinsic"} - set(one):
            raise ValueError(f"{path}: camera {name} has no {', '.join(sorted(lacking))}")
    if not found:
        raise ValueError(f"{path} names no camera\n  expected: the camera.calibration of a training sequence")
    return {name: _camera(one) for name, one in found.items()}


def _camera(values: dict[str, np.ndarray]) -> tuple[Camera, tuple[float, float]]:
    inner, outer = values["intrinsic"].reshape(4, 4), values["extrinsic"].reshape(4, 4)
    width, height = values["size"]
    camera = Camera(
        focal_px=np.diag(inner)[:2].copy(),
        princpt_px=inner[:2, 2],
        rotation=outer[:3, :3],
        translation_m=outer[:3, 3] / 1000,
    )
    return camera, (float(width), float(height))
