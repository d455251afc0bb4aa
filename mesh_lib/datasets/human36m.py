"""Human3.6M in the layout of its widely used parsed form: one JSON of pictures, cameras and 3D joints per actor.

Ionescu et al., 2014 (http://vision.imar.ro/human3.6m): seven actors, four cameras, 50 frames a second. Licence:
academic research only, no passing on. The owners' videos and CDF files, parsed by Moon's I2L-MeshNet and Pose2Pose:
`annotations/Human36M_subject<N>_{data,camera,joint_3d}.json` and, where fetched, `_SMPL_NeuralAnnot.json` or
`_smpl_param.json` (the first is preferred), beside `images/s_01_act_02_subact_01_ca_01/*.jpg`. Millimetres in the
world (z up); boxes are pixels. Standard: training S1, 5, 6, 7, 8, every fifth frame (10 a second); test S9, 11, every
64th; protocol 2 scores camera 4 alone, the frontal one.

Traps. A published COCO-like copy calls joints 1 to 3 left; they are the RIGHT leg, and are called so here. Joint 8
lies between the shoulders (a thorax, lower than SMPL's neck), joint 9 is in the face, neither nose nor neck. 2D labels
are projections. The owners' own have the lens' distortion, which moves them by 1 to 2 px: it is put in where `lens`
names its coefficients, else the projection is a pinhole's. SMPL parameters are the world's: see
mesh_lib/datasets/world_bodies.py; without `body` their translation is NaN, and training does not use that mesh.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mesh_lib.body.joints import JointSet
from mesh_lib.datasets import json_stream
from mesh_lib.datasets.coco import Pictures, index_pictures, person_records
from mesh_lib.datasets.people import MOCAP, Camera, Files, Person, Reader, SmplTruth, array, below, is_box, need
from mesh_lib.datasets.row_file import RowFile
from mesh_lib.datasets.world_bodies import (
    ORIENT,
    TRANSL,
    RestRoot,
    numbers,
    parameters,
    read_rest_root,
    rotation,
    to_camera,
)

HUMAN36M17 = JointSet(
    "human36m17",
    (
        "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "spine",
        "thorax", "face", "head_top", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder",
        "right_elbow", "right_wrist",
    ),
)  # fmt: skip

SUBJECTS = {"train": (1, 5, 6, 7, 8), "test": (9, 11)}
EVERY = {"train": 5, "test": 64}
CAMERA_NAMES = {1: "54138969", 2: "55011271", 3: "58860488", 4: "60457274"}
"""Serial numbers, by which the lens' file knows the cameras."""
PICTURE = ("file_name", "action_idx", "subaction_idx", "cam_idx", "frame_idx")
SMPL_FILES = ("SMPL_NeuralAnnot", "smpl_param")
FIX = "pass the folder of Human36M_subject*_data.json (https://github.com/mks0601/Hand4Whole_RELEASE, Human3.6M)"


@dataclass(frozen=True, kw_only=True)
class Human36m(Reader):
    """Human3.6M, parsed to JSON and pictures."""

    annotations: str
    """Folder of Human36M_subject*_data.json, _camera.json and _joint_3d.json."""
    images: str
    """Folder of the pictures' folders, s_01_act_02_subact_01_ca_01 and so on."""
    subset: Literal["train", "test"] = "train"
    """Chooses the standard actors and the standard thinning."""
    subjects: tuple[int, ...] = ()
    """Actors to read; by default 1, 5, 6, 7, 8 for training, 9 and 11 for test."""
    every: int = 0
    """Every how many frames to take one; 0: every fifth of training, every 64th of test."""
    cameras: tuple[int, ...] = (1, 2, 3, 4)
    """Cameras to read; protocol 2 is 4 alone."""
    lens: str = ""
    """camera-parameters.json with the lens' distortion (https://github.com/karfly/human36m-camera-parameters)."""
    body: str = ""
    """SMPL model (.npz or .pkl) that the SMPL parameters belong to; their translation is not known without it."""

    def __post_init__(self) -> None:
        if self.every < 0 or not set(self.cameras) <= set(CAMERA_NAMES):
            raise ValueError("every is at least 0, cameras are some of 1, 2, 3, 4")

    @property
    def joint_set(self) -> JointSet:
        return HUMAN36M17

    @property
    def inputs(self) -> Sequence[str]:
        return tuple(path for path in (self.annotations, self.images, self.lens, self.body) if path)

    def units(self, files: Files) -> list[int]:
        subjects = self.subjects or SUBJECTS[self.subset]
        for subject in subjects:
            for kind in ("data", "camera", "joint_3d"):
                need(files, self._file(subject, kind), what="annotation file", fix=FIX)
        return list(subjects)

    def people(self, unit: int, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        path = self._file(unit, "data")
        every = self.every or EVERY[self.subset]
        cameras, lenses = self._cameras(unit, files), self._lenses(files)
        root = read_rest_root(files, self.body)
        pictures = index_pictures(files, path, fields=PICTURE)
        with self._joints(unit, files) as joints, self._bodies(unit, files) as bodies:
            for record in person_records(files, path, needs="bbox"):
                shown = _shown(record, pictures, skipped, where=path)
                if shown is None:
                    continue
                name, action, subaction, camera, frame = shown
                if camera not in self.cameras or frame % every:
                    skipped["other_camera" if camera not in self.cameras else "subsampled"] += 1
                    continue
                world_mm = joints.of(f"{action}/{subaction}/{frame}")
                if world_mm is None:
                    skipped["no_3d"] += 1
                    continue
                if camera not in cameras:
                    raise ValueError(f"{self._file(unit, 'camera')} has no camera {camera}")
                seen, visible = cameras[camera], _visible(record)
                if visible is None:
                    skipped["malformed_keypoints"] += 1
                    continue
                points_m = seen.to_camera(world_mm.reshape(-1, 3) / 1000)
                body = bodies.of(f"{action}/{subaction}/{frame}")
                yield Person(
                    image_id=str(record["image_id"]),
                    person_id=str(record["id"]),
                    picture=below(self.images, name, where=path),
                    keypoints_2d_px=np.column_stack([project(points_m, seen, lenses.get(camera)), visible]),
                    bbox_xywh_px=np.asarray(record["bbox"], np.float64) if is_box(record.get("bbox")) else None,
                    keypoints_3d_m=np.column_stack([points_m, np.ones(len(points_m))]),
                    smpl=None if body is None else _smpl(body, seen, root),
                    camera=seen,
                    sequence=name.rpartition("/")[0] or None,
                    frame=frame,
                    supervision=MOCAP,
                )

    def _file(self, subject: int, kind: str) -> str:
        return f"{self.annotations.rstrip('/')}/Human36M_subject{subject}_{kind}.json"

    def _joints(self, subject: int, files: Files) -> RowFile:
        path, size = self._file(subject, "joint_3d"), len(HUMAN36M17)

        def row(value: Any, where: str) -> np.ndarray:
            return array(value, (size, 3), what="joints", where=where).ravel()

        return RowFile(((key, row(value, f"{path}: {key}")) for key, value in _frames(files, path)), width=size * 3)

    def _bodies(self, subject: int, files: Files) -> RowFile:
        paths = [self._file(subject, kind) for kind in SMPL_FILES]
        path = next((path for path in paths if files.exists(path)), None)
        found = _frames(files, path) if path else ()
        return RowFile(((key, parameters(value, pose=72, where=f"{path}: {key}")) for key, value in found), width=85)

    def _cameras(self, subject: int, files: Files) -> dict[int, Camera]:
        path = self._file(subject, "camera")
        found: dict[int, Camera] = {}
        with files.open(path) as stream:
            for name, value in json_stream.members(stream, where=path):
                where = f"{path}: camera {name}"
                if not name.isdecimal() or not isinstance(value, dict):
                    raise ValueError(f'{where} is not a camera\n  expected: {{"1": {{"R", "t", "f", "c"}}, …}}')
                found[int(name)] = Camera(
                    focal_px=numbers(value.get("f"), 2, what="f", where=where),
                    princpt_px=numbers(value.get("c"), 2, what="c", where=where),
                    rotation=rotation(value.get("R"), what="R", where=where),
                    translation_m=numbers(value.get("t"), 3, what="t", where=where) / 1000,
                )
        return found

    def _lenses(self, files: Files) -> dict[int, np.ndarray]:
        """k1, k2, p1, p2, k3 of each camera (OpenCV's order); none where no file is named."""
        if not self.lens:
            return {}
        path = need(files, self.lens, what="camera-parameters.json", fix="see its docstring, or leave `lens` out")
        with files.open(path) as stream:
            found = {key: entry for _, key, entry in json_stream.entries(stream, "intrinsics", where=path)}
        lenses: dict[int, np.ndarray] = {}
        for number, name in CAMERA_NAMES.items():
            coefficients = (found.get(name) or {}).get("distortion")
            lenses[number] = numbers(coefficients, 5, what=f"distortion of {name}", where=path)
        return lenses


def _frames(files: Files, path: str) -> Iterator[tuple[str, Any]]:
    """("action/subaction/frame", value) of a file that nests them."""
    with files.open(path) as stream:
        for action, subaction, frames in json_stream.entries(stream, where=path):
            if not isinstance(frames, dict):
                raise ValueError(f"{path}: {action}, {subaction} is no object of frames")
            for frame, value in frames.items():
                yield f"{action}/{subaction}/{frame}", value


def _shown(
    record: dict[str, Any], pictures: Pictures, skipped: Counter[str], *, where: str
) -> tuple[str, int, int, int, int] | None:
    """The picture's name, action, subaction, camera and frame."""
    picture = pictures.of(record)
    if picture is None:
        skipped["image_not_listed"] += 1
        return None
    name, *numbers = picture
    if not isinstance(name, str) or not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"{where}: image {record['image_id']} has no {', '.join(PICTURE)} as name and numbers")
    action, subaction, camera, frame = numbers
    return name, action, subaction, camera, frame


def _visible(record: dict[str, Any]) -> np.ndarray | None:
    """(17,) of 0 and 1; all 1 where the record does not say; None where what it says is malformed."""
    try:
        values = np.asarray(record.get("keypoints_vis", np.ones(len(HUMAN36M17))), np.float64).ravel()
    except (TypeError, ValueError):
        return None
    return (values > 0).astype(np.float64) if len(values) == len(HUMAN36M17) else None


def project(points_m: np.ndarray, camera: Camera, lens: np.ndarray | None) -> np.ndarray:
    """(…, 3) → (…, 2) pixels, through the lens (k1, k2, p1, p2, k3) where it is known.

    The lens is the owners': OpenCV's, of the same five numbers, has p1 y + p2 x twice.
    """
    if lens is None:
        return camera.project(points_m)
    k1, k2, p1, p2, k3 = lens
    x, y = points_m[..., 0] / points_m[..., 2], points_m[..., 1] / points_m[..., 2]
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3)) + p1 * y + p2 * x
    return np.stack([x * radial + p2 * r2, y * radial + p1 * r2], axis=-1) * camera.focal_px + camera.princpt_px


def _smpl(row: np.ndarray, camera: Camera, root: RestRoot | None) -> SmplTruth:
    betas = row[72:82]
    orient, transl_m = to_camera(
        camera, global_orient=row[ORIENT], transl_m=row[TRANSL], root_m=None if root is None else root.at(betas)
    )
    return SmplTruth(global_orient=orient, body_pose=row[3:72], betas=betas, transl_m=transl_m)
