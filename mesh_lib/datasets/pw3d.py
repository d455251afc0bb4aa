"""3DPW: one or two people in real life, filmed with a moving phone, with SMPL from body-worn sensors.

von Marcard et al., 2018 (https://virtualhumans.mpi-inf.mpg.de/3DPW/): `sequenceFiles/{train,validation,test}/*.pkl`,
each with `imageFiles/<sequence>/image_%05d.jpg` from 0. Licence: non-commercial research only. Metres in a world of its
own; `cam_poses` takes it to the camera of each picture, whose frame is ours. 30 pictures a second, the arrays without
`_60Hz` go with them. Standard: the three splits as they are, every frame whose camera was aligned (`campose_valid`, one
flag for each actor); the test set is that of most papers.

Traps. The files are Python 2 pickles: they are read by an unpickler that knows arrays and runs nothing. Bodies turn
about their pelvis; where that is at rest is the first of `jointPositions` less `trans`, so the translation in the
camera's frame is exact without a body model (NaN where the two do not agree). `betas` and SMPL are those of the actor's
gendered model, which samples name: meshes of a neutral one are not the truth, and `gender` chooses the actors of one.
2D joints are projections of SMPL's, confidence 1; nose, eyes and ears are detections (OpenPose) with theirs, 0 where
there is none, and have no 3D. Person 0 and 1 are the same people all through a sequence. Clothed meshes and textures
are not kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mesh_lib.body.files import BETAS
from mesh_lib.body.joints import SMPL24, JointSet
from mesh_lib.datasets.people import ITW_3D, Camera, Files, Person, Reader, SmplTruth, array, base_name
from mesh_lib.datasets.world_bodies import is_rotation, to_camera
from mesh_lib.pickles import read_pkl

POSES2D = JointSet(
    "openpose_coco18",
    (
        "nose", "mid_shoulder", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
        "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye",
        "left_eye", "right_ear", "left_ear",
    ),
)  # fmt: skip
FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
PW3D29 = JointSet("pw3d29", (*SMPL24.names, *FACE))
"""SMPL's joints, then those of the face that only 2D detections know."""
PER_ACTOR = ("poses", "trans", "betas", "jointPositions", "poses2d", "campose_valid", "genders")
SAME_PLACE_M = 0.005
WHAT = "a sequence of 3DPW"
SITE = "https://virtualhumans.mpi-inf.mpg.de/3DPW/"


@dataclass(frozen=True)
class _Actor:
    """One actor of a sequence, frame by frame, in the world."""

    poses: np.ndarray
    """(F, 72)"""
    trans: np.ndarray
    """(F, 3)"""
    betas: np.ndarray
    """(10,)"""
    joints: np.ndarray
    """(F, 24, 3)"""
    poses2d: np.ndarray
    """(F, 3, 18)"""
    valid: np.ndarray
    """(F,)"""
    gender: str

    def roots(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the pelvis is at rest, and in which frames joints and translation agree on that."""
        roots = self.joints[:, 0] - self.trans
        root = np.nanmedian(roots, axis=0) if np.isfinite(roots).any() else np.full(3, np.nan)
        return root, np.linalg.norm(roots - root, axis=1) <= SAME_PLACE_M


@dataclass(frozen=True, kw_only=True)
class Pw3d(Reader):
    """3DPW (3D Poses in the Wild)."""

    folder: str
    """Folder of imageFiles and sequenceFiles."""
    subset: Literal["train", "validation", "test"] = "train"
    gender: Literal["both", "m", "f"] = "both"
    """Read the actors of one gender alone, whose SMPL parameters belong to one body model."""

    @property
    def joint_set(self) -> JointSet:
        return PW3D29

    @property
    def inputs(self) -> Sequence[str]:
        return (self.folder,)

    def units(self, files: Files) -> list[str]:
        folder = f"{self.folder.rstrip('/')}/sequenceFiles/{self.subset}"
        if not (found := files.list(folder, ".pkl")):
            raise ValueError(
                f"no *.pkl in {folder}\n  fix: pass the folder that sequenceFiles.zip and imageFiles.zip of 3DPW "
                f"({SITE}) were unpacked in"
            )
        return found

    def people(self, unit: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        with files.open(unit) as stream:
            content = read_pkl(stream.read(), where=unit, what=WHAT)
        world_to_camera = array(content.get("cam_poses"), (-1, 4, 4), what="cam_poses", where=unit)
        matrix = array(content.get("cam_intrinsics"), (3, 3), what="cam_intrinsics", where=unit)
        actors = _actors(content, len(world_to_camera), where=unit)
        del content  # textures and clothed meshes
        roots = [actor.roots() for actor in actors]
        for frame, outer in enumerate(world_to_camera):
            if not is_rotation(outer[:3, :3]) or not np.isfinite(outer).all():
                skipped["malformed_camera"] += len(actors)
                continue
            camera = Camera(
                focal_px=np.diag(matrix)[:2].copy(),
                princpt_px=matrix[:2, 2],
                rotation=outer[:3, :3],
                translation_m=outer[:3, 3],
            )
            for number, (actor, (root, agreed)) in enumerate(zip(actors, roots, strict=True)):
                if not actor.valid[frame] or self.gender not in ("both", actor.gender):
                    skipped["other_gender" if actor.valid[frame] else "camera_not_aligned"] += 1
                    continue
                yield self._person(base_name(unit), frame, number, actor, camera, root if agreed[frame] else None)

    def _person(
        self, sequence: str, frame: int, number: int, actor: _Actor, camera: Camera, root: np.ndarray | None
    ) -> Person:
        points_m = camera.to_camera(actor.joints[frame])
        before = points_m[:, 2] > 0
        pixels = camera.project(np.where(before[:, None], points_m, 1.0))
        detected = actor.poses2d[frame].T[POSES2D.indices(FACE)]
        orient, transl_m = to_camera(
            camera, global_orient=actor.poses[frame, :3], transl_m=actor.trans[frame], root_m=root
        )
        return Person(
            image_id=f"{sequence}/image_{frame:05d}",
            person_id=str(number),
            picture=f"{self.folder.rstrip('/')}/imageFiles/{sequence}/image_{frame:05d}.jpg",
            keypoints_2d_px=np.concatenate([np.column_stack([pixels, before]), detected]),
            keypoints_3d_m=np.concatenate([np.column_stack([points_m, np.ones(24)]), np.zeros((len(FACE), 4))]),
            smpl=SmplTruth(
                global_orient=orient,
                body_pose=actor.poses[frame, 3:],
                betas=actor.betas,
                transl_m=transl_m,
                gender=actor.gender,
            ),
            camera=camera,
            sequence=sequence,
            frame=frame,
            supervision=ITW_3D,
        )


def _actors(content: dict[str, Any], frames: int, *, where: str) -> list[_Actor]:
    if lacking := [name for name in PER_ACTOR if not isinstance(content.get(name), (list, tuple, np.ndarray))]:
        raise ValueError(f"{where} is not {WHAT}: no {', '.join(lacking)} in it\n  fix: fetch it again from {SITE}")
    counts = {name: len(content[name]) for name in PER_ACTOR}
    if len(set(counts.values())) != 1:
        raise ValueError(f"{where} is not {WHAT}: its lists differ in their number of actors: {counts}")
    return [
        _actor({name: content[name][i] for name in PER_ACTOR}, frames, where=f"{where}: actor {i}")
        for i in range(counts["poses"])
    ]


def _actor(values: dict[str, Any], frames: int, *, where: str) -> _Actor:
    def part(name: str, *shape: int) -> np.ndarray:
        return array(values[name], shape, what=name, where=where)

    betas = np.ravel(part("betas", -1))
    if len(betas) < BETAS:
        raise ValueError(f"{where}: betas has shape {betas.shape}; expected at least {BETAS}")
    return _Actor(
        poses=part("poses", frames, 72),
        trans=part("trans", frames, 3),
        betas=betas[:BETAS],
        joints=part("jointPositions", frames, 72).reshape(frames, 24, 3),
        poses2d=part("poses2d", frames, 3, 18),
        valid=part("campose_valid", frames) > 0,
        gender=str(values["genders"])[:1].lower(),
    )
