"""MuPoTS-3D: twenty real-life sequences of two or three people, with 3D truth in the camera's frame. For tests only.

Mehta et al., 2018 (https://vcai.mpi-inf.mpg.de/projects/SingleShotMultiPerson/): `MultiPersonTestSet/TS1 … TS20`, each
with annot.mat, occlusion.mat and img_%06d.jpg from 0. Licence: non-commercial research only. Millimetres in the
camera's frame, x right, y down; pixels of the whole picture. All 8,370 frames are the test set, none are left out; a
person whose frame the owners call invalid is (TS12 has 23, TS15 116).

Traps. The intrinsics are not in the files: each sequence's are found from its pairs of 3D and 2D joints, which they fit
to a hundredth of a pixel. The 2D spine is wrong in TS1 and TS2 (in TS1 that of person 0 in every frame, by 70 px and
more): a 2D joint further than 10 px from where its 3D joint projects has confidence 0. The 2D hips are 1 to 3 px off
theirs, and stay. Hidden joints have both labels, found with the other cameras; they count as labelled, unless
`occluded_confidence` says otherwise. `univ_annot3` (every person scaled to one height about the root) does not fit the
picture, and is not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mesh_lib.body.joints import JointSet
from mesh_lib.datasets.matlab import entry, load_mat
from mesh_lib.datasets.people import ITW_3D, Camera, Files, Person, Reader, array
from mesh_lib.datasets.pinhole_fit import fit_camera

MUPOTS17 = JointSet(
    "mupots17",
    (
        "head_top", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
        "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "pelvis",
        "spine", "head",
    ),
)  # fmt: skip
"""The neck lies 6.5 cm above the middle of the shoulders, as SMPL's does."""

SEQUENCES = range(1, 21)
TRUST_PX = 10.0
"""A 2D label further than this from the projection of its 3D label is wrong."""
FITS_PX = 1.0
"""Largest median distance of a sequence's 2D labels from its projected 3D labels; real ones have 0.004."""
EXPECTED = "MuPoTS-3D's TS*/annot.mat: `annotations`, a cell (frames, people) of annot2, annot3, isValidFrame"


@dataclass(frozen=True, kw_only=True)
class Mupots(Reader):
    """MuPoTS-3D, the multi-person test set."""

    folder: str
    """MultiPersonTestSet, with TS1 … TS20; those of them that are there are read."""
    occluded_confidence: float = 1.0
    """2D confidence of a joint that the owners call hidden; below 1, TS*/occlusion.mat is read."""

    def __post_init__(self) -> None:
        if not 0 <= self.occluded_confidence <= 1:
            raise ValueError(f"occluded_confidence is from 0 to 1; it is {self.occluded_confidence}")

    @property
    def joint_set(self) -> JointSet:
        return MUPOTS17

    @property
    def inputs(self) -> Sequence[str]:
        return (self.folder,)

    def units(self, files: Files) -> list[str]:
        names = [f"TS{number}" for number in SEQUENCES]
        found = [name for name in names if files.exists(self._file(name, "annot.mat"))]
        if not found:
            raise ValueError(
                f"no TS1/annot.mat … TS20/annot.mat in {self.folder}\n"
                "  fix: pass the folder MultiPersonTestSet of MuPoTS-3D "
                "(https://vcai.mpi-inf.mpg.de/projects/SingleShotMultiPerson/)"
            )
        return found

    def people(self, unit: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        path = self._file(unit, "annot.mat")
        points_m, pixels, valid = _read(files, path)
        camera = _camera(points_m[valid], pixels[valid], where=path)
        trusted = np.linalg.norm(camera.project(points_m) - pixels, axis=-1) <= TRUST_PX
        confidence = trusted | ~np.isfinite(pixels).all(axis=-1)  # what is no number stays, for annotate to quarantine
        confidence = confidence * np.where(self._hidden(unit, files, valid.shape), self.occluded_confidence, 1.0)
        for frame, person in np.ndindex(*valid.shape):
            if not valid[frame, person]:
                skipped["invalid_frame"] += 1
                continue
            yield Person(
                image_id=f"{unit}/img_{frame:06d}",
                person_id=str(person),
                picture=self._file(unit, f"img_{frame:06d}.jpg"),
                keypoints_2d_px=np.concatenate([pixels[frame, person], confidence[frame, person, :, None]], axis=1),
                keypoints_3d_m=np.concatenate([points_m[frame, person], np.ones((len(MUPOTS17), 1))], axis=1),
                camera=camera,
                sequence=unit,
                frame=frame,
                supervision=ITW_3D,
            )

    def _file(self, sequence: str, name: str) -> str:
        return f"{self.folder.rstrip('/')}/{sequence}/{name}"

    def _hidden(self, unit: str, files: Files, shape: tuple[int, ...]) -> np.ndarray:
        """(frames, people, joints)"""
        hidden = np.zeros((*shape, len(MUPOTS17)), bool)
        if self.occluded_confidence == 1:
            return hidden
        path = self._file(unit, "occlusion.mat")
        cells = load_mat(files, path, "occlusion_labels", expected="`occlusion_labels`, a cell (frames, people)")
        labels = cells["occlusion_labels"]
        if labels.shape != shape:
            raise ValueError(f"{path}: occlusion_labels has shape {labels.shape}; annot.mat has {shape}")
        for at in np.ndindex(*shape):
            where = f"{path}: frame {at[0]}, person {at[1]}"
            hidden[at] = array(np.ravel(labels[at]), (len(MUPOTS17),), what="occlusion_labels", where=where) > 0
        return hidden


def _read(files: Files, path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (frames, people, joints, 3) in metres, pixels (…, 2) and validity (frames, people) of a sequence."""
    cells = load_mat(files, path, "annotations", expected=EXPECTED)["annotations"]
    if cells.ndim != 2 or cells.dtype != object:
        raise ValueError(f"{path}: annotations is no cell (frames, people)\n  expected: {EXPECTED}")
    joints = len(MUPOTS17)
    points_m, pixels = np.zeros((*cells.shape, joints, 3)), np.zeros((*cells.shape, joints, 2))
    valid = np.zeros(cells.shape, bool)
    for at in np.ndindex(*cells.shape):
        where = f"{path}: frame {at[0]}, person {at[1]}"
        points_m[at] = array(entry(cells[at], "annot3", where=where), (3, joints), what="annot3", where=where).T / 1000
        pixels[at] = array(entry(cells[at], "annot2", where=where), (2, joints), what="annot2", where=where).T
        valid[at] = array(entry(cells[at], "isValidFrame", where=where), (1, 1), what="isValidFrame", where=where) > 0
    return points_m, pixels, valid


def _camera(points_m: np.ndarray, pixels: np.ndarray, *, where: str) -> Camera:
    """Raises ValueError where no pinhole camera takes the 3D labels to the 2D labels."""
    points_m, pixels = points_m.reshape(-1, 3), pixels.reshape(-1, 2)
    camera = fit_camera(points_m, pixels)
    off_px = np.inf
    if camera is not None:
        off_px = float(np.nanmedian(np.linalg.norm(camera.project(points_m) - pixels, axis=1)))
    if camera is None or not off_px <= FITS_PX:
        raise ValueError(
            f"{where}: no camera takes annot3 to annot2; the best is {off_px:.1f} px off in the median\n"
            f"  expected: {EXPECTED}, in pixels and in millimetres of the camera's frame"
        )
    return camera
