"""MuCo-3DHP: people of MPI-INF-3DHP's training set, one to four of them composited into each picture.

Mehta et al., 2018 (https://vcai.mpi-inf.mpg.de/projects/SingleShotMultiPerson/): the owners give scripts that make it
from MPI-INF-3DHP; this reads the widely used parsed form (https://github.com/mks0601/3DMPPE_POSENET_RELEASE), its
`MuCo-3DHP.json`, like COCO's, beside `augmented_set` and `unaugmented_set` (with and without backgrounds put in).
Licence: MPI-INF-3DHP's, non-commercial research only. Each annotation has pixels of the whole picture and millimetres
in the camera's frame (x right, y down), each picture its own intrinsics. All of it is for training, unthinned.

Traps. Joint 1 is often called thorax; it is MPI-INF-3DHP's neck, above the shoulders, and is called so here as there.
A joint that a person in front hides keeps its 3D truth; its 2D has confidence 0 where `keypoints_vis` is 0. Fits of
SMPL (`smpl_param.json`, by annotation id) are taken to be in the camera's frame; that is checked against the joints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mesh_lib.body.joints import JointSet
from mesh_lib.datasets import json_stream
from mesh_lib.datasets.coco import index_pictures, person_records
from mesh_lib.datasets.people import MOCAP, Camera, Files, Person, Reader, SmplTruth, below, is_box, need
from mesh_lib.datasets.row_file import RowFile
from mesh_lib.datasets.world_bodies import ORIENT, TRANSL, numbers, parameters

MUCO21 = JointSet(
    "muco21",
    (
        "head_top", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
        "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "pelvis",
        "spine", "head", "right_hand", "left_hand", "right_toe", "left_toe",
    ),
)  # fmt: skip
FIX = "pass MuCo-3DHP.json (https://github.com/mks0601/3DMPPE_POSENET_RELEASE, MuCo)"
NEAR_M = 1.0
"""A body's translation and its pelvis lie closer than this; SMPL's root at rest is 0.2 m from the origin."""
TRIES = 100


@dataclass(frozen=True, kw_only=True)
class Muco(Reader):
    """MuCo-3DHP, parsed to one JSON."""

    annotations: str
    """MuCo-3DHP.json"""
    images: str
    """Folder of augmented_set and unaugmented_set."""
    pictures: Literal["both", "augmented", "unaugmented"] = "both"
    """Which of the two sets to read."""
    smpl: str = ""
    """smpl_param.json, where it was fetched."""

    @property
    def joint_set(self) -> JointSet:
        return MUCO21

    @property
    def inputs(self) -> Sequence[str]:
        return tuple(path for path in (self.annotations, self.images, self.smpl) if path)

    def units(self, files: Files) -> list[str]:
        if self.smpl:
            need(files, self.smpl, what="smpl_param.json", fix="leave `smpl` out to read MuCo without it")
        return [need(files, self.annotations, what="annotation file", fix=FIX)]

    def people(self, unit: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        pictures = index_pictures(files, unit, fields=("file_name", "f", "c"))
        far = fits = 0
        with RowFile(self._fits(files), width=85) as bodies:
            for record in person_records(files, unit, needs="keypoints_cam"):
                picture = pictures.of(record)
                if picture is None:
                    skipped["image_not_listed"] += 1
                    continue
                if self.pictures != "both" and not str(picture[0]).startswith(f"{self.pictures}_set"):
                    skipped["other_set"] += 1
                    continue
                keypoints = _keypoints(record)
                if keypoints is None:
                    skipped["malformed_keypoints"] += 1
                    continue
                body = bodies.of(str(record["id"]))
                if body is not None:
                    fits += 1
                    far += bool(np.linalg.norm(body[TRANSL] - keypoints[1][MUCO21.index("pelvis"), :3]) > NEAR_M)
                    if fits == TRIES and far > fits / 2:
                        raise ValueError(
                            f"{self.smpl}: most bodies lie far from their joints: is it in another frame?\n"
                            "  expected: metres, in the frame of each picture's camera"
                        )
                yield self._person(record, picture, keypoints, body, where=unit)

    def _person(
        self,
        record: dict[str, Any],
        picture: Sequence[Any],
        keypoints: tuple[np.ndarray, np.ndarray],
        body: np.ndarray | None,
        *,
        where: str,
    ) -> Person:
        name, focal, princpt = picture
        shown = f"{where}: image {record['image_id']}"
        smpl = None
        if body is not None:
            smpl = SmplTruth(global_orient=body[ORIENT], body_pose=body[3:72], betas=body[72:82], transl_m=body[TRANSL])
        return Person(
            image_id=str(record["image_id"]),
            person_id=str(record["id"]),
            picture=below(self.images, str(name), where=where),
            keypoints_2d_px=keypoints[0],
            bbox_xywh_px=np.asarray(record["bbox"], np.float64) if is_box(record.get("bbox")) else None,
            keypoints_3d_m=keypoints[1],
            smpl=smpl,
            camera=Camera(
                focal_px=numbers(focal, 2, what="f", where=shown), princpt_px=numbers(princpt, 2, what="c", where=shown)
            ),
            supervision=MOCAP,
        )

    def _fits(self, files: Files) -> Iterator[tuple[str, np.ndarray]]:
        if not self.smpl:
            return
        with files.open(self.smpl) as stream:
            for name, value in json_stream.members(stream, where=self.smpl):
                yield name, parameters(value, pose=72, where=f"{self.smpl}: {name}")


def _keypoints(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """(21, 3) in pixels with confidence and (21, 4) in metres with validity; None where they are malformed."""
    count = len(MUCO21)
    try:
        pixels = np.asarray(record.get("keypoints_img"), np.float64).reshape(count, 2)
        points_m = np.asarray(record.get("keypoints_cam"), np.float64).reshape(count, 3) / 1000
        visible = np.asarray(record.get("keypoints_vis", np.ones(count)), np.float64).reshape(count) > 0
    except (TypeError, ValueError):
        return None
    return np.column_stack([pixels, visible]), np.column_stack([points_m, np.ones(count)])
