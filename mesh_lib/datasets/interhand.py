"""InterHand2.6M: single and interacting hands in a studio of many cameras.

Moon et al., 2020 (https://mks0601.github.io/InterHand2.6M/). Licence: CC BY-NC 4.0. One folder:
`images/{train,val,test}/Capture*/<sequence>/cam*/image*.jpg` (512 x 334 or 334 x 512) and
`annotations/{train,val,test}/InterHand2.6M_<split>_{data,camera,joint_3d}.json`, beside them `_MANO_NeuralAnnot.json`.
Millimetres in the world of each capture; point_cam = camrot (point - campos), x right, y down. One record a picture,
for both hands. Standard: the owners' splits as they are, in the release of 5 pictures a second.

Traps. The order is right hand then left, each finger from its TIP to its base, the wrist last; the names say so. In
frames of a single hand the other's points are (1, 1, 1): they count as unknown, as does every joint that either file
calls invalid. 2D is the projection. MANO is in the world's frame: a camera turns it about its wrist, whose place at
rest only MANO's files tell; without them its translation is NaN (mesh_lib/datasets/world_bodies.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mesh_lib.body.joints import FINGERS, JointSet
from mesh_lib.datasets import json_stream
from mesh_lib.datasets.coco import index_pictures, person_records
from mesh_lib.datasets.people import MOCAP, Camera, Files, ManoTruth, Person, Reader, array, below, is_box, need
from mesh_lib.datasets.row_file import RowFile
from mesh_lib.datasets.world_bodies import (
    ORIENT,
    TRANSL,
    RestRoot,
    mend_left,
    numbers,
    parameters,
    read_rest_root,
    rotation,
    to_camera,
)

INTERHAND42 = JointSet(
    "interhand42",
    tuple(
        name
        for side in ("right", "left")
        for name in (*(f"{side}_{finger}{i}" for finger in FINGERS for i in (4, 3, 2, 1)), f"{side}_wrist")
    ),
)
SIDES = ("left", "right")
"""Order of MANO's columns."""
PICTURE = ("file_name", "capture", "seq_name", "camera", "frame_idx")
CAMERA_PARTS = ("campos", "camrot", "focal", "princpt")
MANO = 61
FIX = "pass the folder of InterHand2.6M's annotations and images (https://mks0601.github.io/InterHand2.6M/)"


@dataclass(frozen=True, kw_only=True)
class InterHand(Reader):
    """InterHand2.6M."""

    folder: str
    """Folder of annotations and images."""
    subset: Literal["train", "val", "test"] = "train"
    mano_left: str = ""
    """MANO_LEFT (.pkl or .npz); without it translations of the left hand are not known. Beside MANO_RIGHT its known
    fault, shapes that are not mirrored, is seen and mended."""
    mano_right: str = ""
    """MANO_RIGHT, for the right hand."""

    @property
    def joint_set(self) -> JointSet:
        return INTERHAND42

    @property
    def inputs(self) -> Sequence[str]:
        return tuple(path for path in (self.folder, self.mano_left, self.mano_right) if path)

    def units(self, files: Files) -> list[str]:
        for kind in ("data", "camera", "joint_3d"):
            need(files, self._file(kind), what="annotation file", fix=FIX)
        return [self._file("data")]

    def people(self, unit: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        pictures = index_pictures(files, unit, fields=PICTURE)
        cameras = self._cameras(files)
        left, right = (read_rest_root(files, path) for path in (self.mano_left, self.mano_right))
        roots = [mend_left(left, right), right]
        folder = f"{self.folder.rstrip('/')}/images/{self.subset}"
        with RowFile(self._joints(files), width=42 * 4) as joints, RowFile(self._hands(files), width=2 * MANO) as hands:
            for record in person_records(files, unit, needs="joint_valid"):
                picture = pictures.of(record)
                if picture is None:
                    skipped["image_not_listed"] += 1
                    continue
                name, capture, sequence, camera, frame = picture
                row, labelled = joints.of(f"{capture}/{frame}"), _flags(record.get("joint_valid"))
                if row is None or labelled is None:
                    skipped["no_3d" if row is None else "malformed_keypoints"] += 1
                    continue
                if (seen := cameras.get((str(capture), str(camera)))) is None:
                    raise ValueError(f"{self._file('camera')} has no camera {camera} of capture {capture}")
                world_mm, valid = row[: 42 * 3].reshape(42, 3), (row[42 * 3 :] > 0) & labelled
                points_m = np.where(valid[:, None], seen.to_camera(world_mm / 1000), 0.0)
                hand = hands.of(f"{capture}/{frame}")
                yield Person(
                    image_id=str(record["image_id"]),
                    person_id=str(record["id"]),
                    picture=below(folder, str(name), where=unit),
                    keypoints_2d_px=_project(points_m, valid, seen),
                    bbox_xywh_px=np.asarray(record["bbox"], np.float64) if is_box(record.get("bbox")) else None,
                    keypoints_3d_m=np.column_stack([points_m, valid]),
                    mano=None if hand is None else _mano(hand.reshape(2, MANO), seen, roots),
                    camera=seen,
                    sequence=f"Capture{capture}/{sequence}",
                    frame=int(frame),
                    supervision=MOCAP,
                )

    def _file(self, kind: str) -> str:
        return f"{self.folder.rstrip('/')}/annotations/{self.subset}/InterHand2.6M_{self.subset}_{kind}.json"

    def _cameras(self, files: Files) -> dict[tuple[str, str], Camera]:
        """By capture and name."""
        path, found = self._file("camera"), {}
        with files.open(path) as stream:
            for capture, values in json_stream.members(stream, where=path):
                parts = [values.get(key) if isinstance(values, dict) else None for key in CAMERA_PARTS]
                if not all(isinstance(part, dict) for part in parts):
                    raise ValueError(f"{path}: capture {capture} has not {', '.join(CAMERA_PARTS)}, by camera")
                position, turn, focal, princpt = (dict(part or {}) for part in parts)
                for name in position:
                    where = f"{path}: capture {capture}, camera {name}"
                    rotated = rotation(turn.get(name), what="camrot", where=where)
                    centre_m = numbers(position[name], 3, what="campos", where=where) / 1000
                    found[capture, name] = Camera(
                        focal_px=numbers(focal.get(name), 2, what="focal", where=where),
                        princpt_px=numbers(princpt.get(name), 2, what="princpt", where=where),
                        rotation=rotated,
                        translation_m=-rotated @ centre_m,
                    )
        return found

    def _joints(self, files: Files) -> Iterator[tuple[str, np.ndarray]]:
        """World points, mm, then validity, of each frame of each capture."""
        path = self._file("joint_3d")
        with files.open(path) as stream:
            for capture, frame, value in json_stream.entries(stream, where=path):
                where = f"{path}: capture {capture}, frame {frame}"
                if not isinstance(value, dict):
                    raise ValueError(f"{where} is no object with world_coord and joint_valid")
                points = array(value.get("world_coord"), (42, 3), what="world_coord", where=where)
                valid = numbers(value.get("joint_valid"), 42, what="joint_valid", where=where)
                yield f"{capture}/{frame}", np.concatenate([points.ravel(), valid])

    def _hands(self, files: Files) -> Iterator[tuple[str, np.ndarray]]:
        """pose, shape and trans of the left hand, then the right, NaN where there is none."""
        path = self._file("MANO_NeuralAnnot")
        if not files.exists(path):
            return
        with files.open(path) as stream:
            for capture, frame, value in json_stream.entries(stream, where=path):
                where = f"{path}: capture {capture}, frame {frame}"
                if not isinstance(value, dict):
                    raise ValueError(f"{where} is no object with left and right")
                row = np.full((2, MANO), np.nan)
                for side, name in enumerate(SIDES):
                    if value.get(name) is not None:
                        row[side] = parameters(value[name], pose=48, where=f"{where}, {name}")
                yield f"{capture}/{frame}", row.ravel()


def _flags(values: Any) -> np.ndarray | None:
    try:
        return np.asarray(values, np.float64).reshape(42) > 0
    except (TypeError, ValueError):
        return None


def _project(points_m: np.ndarray, valid: np.ndarray, camera: Camera) -> np.ndarray:
    """(42, 3): pixels of the valid joints that lie before the camera."""
    shown = valid & (points_m[:, 2] > 0)
    pixels = camera.project(np.where(shown[:, None], points_m, 1.0))
    return np.column_stack([np.where(shown[:, None], pixels, 0.0), shown])


def _mano(rows: np.ndarray, camera: Camera, roots: Sequence[RestRoot | None]) -> ManoTruth:
    pose, betas, transl_m = rows[:, :48].copy(), rows[:, 48:58].copy(), rows[:, TRANSL].copy()
    valid = np.array([bool(np.isfinite(row).all()) for row in rows])
    for side, root in enumerate(roots):
        if valid[side]:
            pose[side, ORIENT], transl_m[side] = to_camera(
                camera,
                global_orient=pose[side, ORIENT],
                transl_m=transl_m[side],
                root_m=None if root is None else root.at(betas[side]),
            )
    return ManoTruth(pose=pose, betas=betas, transl_m=transl_m, valid=valid)
