"""What every reader of a dataset gives: people, one at a time, in our units and our camera frame.

A reader is a frozen dataclass whose fields say where the owners' files lie. It splits its dataset into units that can
be read on their own, in parallel, and reads a unit as a stream: no dataset need fit in memory.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mesh_lib.body.joints import JointSet

MOCAP, ITW_2D, ITW_3D = "mocap", "itw_2d", "itw_3d"
"""Supervision of a sample: 3D truth of a studio, 2D of real life, 3D of real life."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Perspective camera of the whole picture; world to camera where the dataset has a world."""

    focal_px: np.ndarray
    """(2,)"""
    princpt_px: np.ndarray
    """(2,)"""
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    """(3, 3)"""
    translation_m: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """(3,): point_cam = rotation @ point_world + translation."""

    def to_camera(self, world_m: np.ndarray) -> np.ndarray:
        """(…, 3) points of the world, in the camera's frame."""
        return world_m @ self.rotation.T + self.translation_m

    def project(self, camera_m: np.ndarray) -> np.ndarray:
        """(…, 3) points of the camera's frame → (…, 2) pixels."""
        return camera_m[..., :2] / camera_m[..., 2:] * self.focal_px + self.princpt_px


@dataclass(frozen=True, kw_only=True)
class SmplTruth:
    """SMPL parameters in the camera's frame; `transl_m` moves the body's vertices, as smplx does."""

    global_orient: np.ndarray
    """(3,) axis-angle."""
    body_pose: np.ndarray
    """(69,) axis-angle."""
    betas: np.ndarray
    """(10,)"""
    transl_m: np.ndarray
    """(3,)"""
    gender: str | None = None
    """m or f, where the parameters are of the body model of that gender; None: neutral, or nobody says."""


@dataclass(frozen=True, kw_only=True)
class ManoTruth:
    """MANO parameters of the left hand, then the right, in the camera's frame; NaN where unknown."""

    pose: np.ndarray
    """(2, 48) axis-angle: global orientation, then 15 joints; flat_hand_mean is False, as in smplx."""
    betas: np.ndarray
    """(2, 10)"""
    transl_m: np.ndarray
    """(2, 3)"""
    valid: np.ndarray
    """(2,)"""


@dataclass(frozen=True, kw_only=True)
class Person:
    """One person of one picture, as a dataset has them."""

    image_id: str
    person_id: str
    picture: str
    """Path of the picture; of the video where `video_frame` is set."""
    keypoints_2d_px: np.ndarray
    """(J, 3): x, y of the whole picture, confidence (0: not labelled)."""
    bbox_xywh_px: np.ndarray | None = None
    """(4,); None where the dataset has none of four finite numbers: the keypoints' box takes its place."""
    keypoints_3d_m: np.ndarray | None = None
    """(J, 4): x, y, z in the camera's frame, validity."""
    smpl: SmplTruth | None = None
    mano: ManoTruth | None = None
    camera: Camera | None = None
    sequence: str | None = None
    frame: int | None = None
    supervision: str = ITW_2D
    image: bytes | None = None
    """The picture itself, where the annotation file holds it."""
    video_frame: int | None = None
    """Which frame of the video, from 0."""


@runtime_checkable
class Files(Protocol):
    """Where a dataset lies: a local disk, or object storage."""

    def open(self, path: str) -> io.BufferedReader: ...

    def exists(self, path: str) -> bool: ...

    def list(self, folder: str, suffix: str = "") -> list[str]:
        """Paths of the files under a folder, sorted; none where it is absent. A system's own, whose names start with a
        dot, are left out."""
        ...


class LocalFiles:
    """Files of this machine."""

    def open(self, path: str) -> io.BufferedReader:
        return Path(path).open("rb")

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def list(self, folder: str, suffix: str = "") -> list[str]:
        found = (path for path in Path(folder).rglob(f"*{suffix}") if path.is_file())
        return sorted(str(path) for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts))


class Reader(ABC):
    """A dataset as its owners distribute it; subclasses are frozen dataclasses, their fields the command's options."""

    @property
    @abstractmethod
    def joint_set(self) -> JointSet:
        """Names of the keypoints, in their order."""

    @property
    @abstractmethod
    def inputs(self) -> Sequence[str]:
        """Files and folders that the reader reads."""

    @property
    def boxes_only(self) -> bool:
        """Whether people come without keypoints."""
        return False

    @property
    def turns_pictures(self) -> bool:
        """Whether keypoints lie on pictures as their EXIF orientation turns them, rather than on what is stored."""
        return False

    @abstractmethod
    def units(self, files: Files) -> list[Any]:
        """Parts that can be read on their own, in their order. Raises ValueError where the dataset is not there."""

    @abstractmethod
    def people(self, unit: Any, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        """The people of one unit; those left out are counted in `skipped` by reason.

        Raises ValueError for a file that is not what its dataset's files are.
        """


def need(files: Files, path: str, *, what: str, fix: str) -> str:
    """The path. Raises ValueError where nothing is there."""
    if not files.exists(path):
        raise ValueError(f"no {what} at {path}\n  fix: {fix}")
    return path


def below(folder: str, name: str, *, where: str) -> str:
    """Path of a file that a dataset names. Raises ValueError for a name that leaves the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or ":" in path.parts[:1]:
        raise ValueError(f"{where}: file name {name!r} leaves the folder {folder}; refused")
    return f"{folder.rstrip('/')}/{path}"


def base_name(path: str) -> str:
    """The last part of a path, without its ending."""
    return os.path.splitext(path.rstrip("/").rpartition("/")[2])[0]


def is_box(box: Any) -> bool:
    """Whether a value is four finite numbers."""
    try:
        values = np.asarray(box, np.float64)
    except (TypeError, ValueError, OverflowError):
        return False
    return values.shape == (4,) and bool(np.isfinite(values).all())


def array(value: Any, shape: tuple[int, ...], *, what: str, where: str) -> np.ndarray:
    """Numbers of a shape (-1: any length). Raises ValueError for anything else."""
    try:
        values = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: {what} is not an array of numbers") from None
    if values.ndim != len(shape) or any(want not in (-1, have) for want, have in zip(shape, values.shape, strict=True)):
        raise ValueError(f"{where}: {what} has shape {values.shape}; expected {shape} (-1: any)")
    return values
