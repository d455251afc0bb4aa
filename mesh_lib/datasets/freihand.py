"""FreiHAND: right hands before a green screen (training) and in real surroundings (evaluation), with MANO.

Zimmermann et al., 2019 (https://lmb.informatik.uni-freiburg.de/projects/freihand/). Licence: research, non-commercial
only. One folder: `training/rgb/%08d.jpg`, 130,240 pictures of 224 x 224, with `training_{K,xyz,mano}.json`, lists of
32,560 labels; `evaluation/rgb`, 3,960 pictures, with `evaluation_{K,xyz,mano}.json`, which the owners gave out later
than the pictures. Metres in the camera's frame, x right, y down; pixels are K times the points, so every joint has 2D
and 3D. Standard: both sets as they are, training with all four backgrounds.

Traps. Picture i of training has label i modulo 32,560: the same hand comes before four backgrounds, and a split by
picture would leak. `sequence` is the label's number, by which to split. `mano` is 48 of pose (relative to MANO's mean
pose, as ours), 10 of shape, 2 and 1 of a root in pixels and depth, which are not read: the hand is moved so that its
wrist lies on the labelled one, for which `mano` must name MANO's file; else its translation is NaN.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat, zip_longest
from typing import Any, Literal

import numpy as np

from mesh_lib.body.joints import RIGHT_HAND21, JointSet
from mesh_lib.datasets import json_stream
from mesh_lib.datasets.people import ITW_3D, MOCAP, Camera, Files, ManoTruth, Person, Reader, array, need
from mesh_lib.datasets.world_bodies import RestRoot, numbers, read_rest_root

BACKGROUNDS = (0, 1, 2, 3)
MANO_NUMBERS = 61
SITE = "https://lmb.informatik.uni-freiburg.de/projects/freihand/"
_END = object()


@dataclass(frozen=True, kw_only=True)
class FreiHand(Reader):
    """FreiHAND: its training set, or its evaluation set."""

    folder: str
    """Folder of training_K.json, training_xyz.json and training/rgb, or of evaluation's."""
    subset: Literal["training", "evaluation"] = "training"
    backgrounds: tuple[int, ...] = BACKGROUNDS
    """Versions of each training picture: 0 is the green screen, 1 to 3 have other backgrounds."""
    mano: str = ""
    """MANO_RIGHT (.pkl or .npz); without it the translations of MANO are not known."""

    def __post_init__(self) -> None:
        if not self.backgrounds or sorted(set(self.backgrounds) & set(BACKGROUNDS)) != sorted(self.backgrounds):
            raise ValueError(f"backgrounds are some of 0, 1, 2, 3, each once; they are {self.backgrounds}")

    @property
    def joint_set(self) -> JointSet:
        return RIGHT_HAND21

    @property
    def inputs(self) -> Sequence[str]:
        return tuple(path for path in (self.folder, self.mano) if path)

    def units(self, files: Files) -> list[str]:
        for name in ("K", "xyz"):
            need(files, self._file(name), what="label file", fix=f"pass the folder of FreiHAND ({SITE})")
        return [self.subset]

    def people(self, unit: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        root = read_rest_root(files, self.mano)
        count = sum(1 for _ in self._labels(files, "K"))
        known = files.exists(self._file("mano"))
        lists = (
            self._labels(files, "K"),
            self._labels(files, "xyz"),
            self._labels(files, "mano") if known else repeat(None, count),
        )
        for number, (matrix, points, mano) in enumerate(zip_longest(*lists, fillvalue=_END)):
            where = f"{self.folder}: {self.subset} label {number}"
            if _END in (matrix, points, mano):
                raise ValueError(f"{where}: {self.subset}_K, _xyz and _mano.json have different lengths")
            yield from self._hand(number, count, matrix, points, mano, root, where=where)

    def _file(self, name: str) -> str:
        return f"{self.folder.rstrip('/')}/{self.subset}_{name}.json"

    def _labels(self, files: Files, name: str) -> Iterator[Any]:
        with files.open(self._file(name)) as stream:
            yield from json_stream.elements(stream, where=self._file(name))

    def _hand(
        self, number: int, count: int, matrix: Any, points: Any, mano: Any, root: RestRoot | None, *, where: str
    ) -> Iterator[Person]:
        """The pictures of one label."""
        inner = array(matrix, (3, 3), what="K", where=where)
        points_m = array(points, (len(RIGHT_HAND21), 3), what="xyz", where=where)
        camera = Camera(focal_px=np.diag(inner)[:2].copy(), princpt_px=inner[:2, 2])
        known = np.ones(len(RIGHT_HAND21))
        truth = None if mano is None else _mano(mano, points_m, root, where=where)
        training = self.subset == "training"
        for background in self.backgrounds if training else (0,):
            image_id = f"{number + background * count:08d}"
            yield Person(
                image_id=image_id,
                person_id="0",
                picture=f"{self.folder.rstrip('/')}/{self.subset}/rgb/{image_id}.jpg",
                keypoints_2d_px=np.column_stack([camera.project(points_m), known]),
                keypoints_3d_m=np.column_stack([points_m, known]),
                mano=truth,
                camera=camera,
                sequence=f"{number:08d}",
                supervision=MOCAP if training else ITW_3D,
            )


def _mano(value: Any, points_m: np.ndarray, root: RestRoot | None, *, where: str) -> ManoTruth:
    """Of a right hand; the left is unknown."""
    values = numbers(value, MANO_NUMBERS, what="mano", where=where)
    truth = ManoTruth(
        pose=np.full((2, 48), np.nan),
        betas=np.full((2, 10), np.nan),
        transl_m=np.full((2, 3), np.nan),
        valid=np.array([False, True]),
    )
    truth.pose[1], truth.betas[1] = values[:48], values[48:58]
    if root is not None:
        truth.transl_m[1] = points_m[RIGHT_HAND21.index("right_wrist")] - root.at(truth.betas[1])
    return truth
