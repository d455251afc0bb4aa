"""InstaVariety: videos of Instagram, one person each, with 2D joints that OpenPose found.

Kanazawa et al., 2019 (https://github.com/akanazawa/human_dynamics): folders `train` and `test` of *.tfrecord, each
record a tf.train.Example with all frames of one person's track, cut out of the video, as JPEGs. Licence: for
non-commercial research; the videos are their makers'. The standard use is every frame (2.2 million); the standard split
is the owners' folders. Read as the owners' code says of its records; no original was at hand.

Keypoints are pixels of the stored picture, which is a crop: the whole video frame is not in the dataset. `xys` holds
all x, then all y, of 14 joints a frame; `face_pts` and `toe_pts` hold all x, all y and all confidences of 5 and 6 more.
An absent one of these two is unlabelled. Labels above 0 are labelled; the number is the confidence, at most 1.

Traps. Joints 0 and 5 are HEELS, though they stand where LSP has ankles; the ankles are the last two of `toe_pts`.
Labels are a network's, not people's: left and right may be swapped in turns. There is no 3D truth: `mosh/gt3ds` holds
zeros, `mosh/poses` -1; they are not read. No boxes: the keypoints' box takes their place. Names of frames repeat
between tracks: the id of a frame is its file, the number of its record and its place in the track. VIBE's
insta_train_db.h5 and NeuralAnnot's insta_train_db.pt have no pictures, and are refused.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mesh_lib.body.joints import JointSet
from mesh_lib.datasets.people import Files, Person, Reader, base_name
from mesh_lib.datasets.tfrecord import Feature, parse_example, records

INSTAVARIETY25 = JointSet(
    "instavariety25",
    (
        "right_heel", "right_knee", "right_hip", "left_hip", "left_knee", "left_heel", "right_wrist", "right_elbow",
        "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top",
        "nose", "left_eye", "right_eye", "left_ear", "right_ear",
        "left_big_toe", "right_big_toe", "left_small_toe", "right_small_toe", "left_ankle", "right_ankle",
    ),
)  # fmt: skip

FIX = "pass the folder of InstaVariety's *.tfrecord files, train or test (https://github.com/akanazawa/human_dynamics)"


@dataclass(frozen=True, kw_only=True)
class InstaVariety(Reader):
    """InstaVariety: people in videos of Instagram."""

    folder: str
    """Folder of the *.tfrecord files, train or test."""
    every: int = 1
    """Read every so manieth frame of a track; the standard is all."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every is at least 1; it is {self.every}")

    @property
    def joint_set(self) -> JointSet:
        return INSTAVARIETY25

    @property
    def inputs(self) -> Sequence[str]:
        return (self.folder,)

    def units(self, files: Files) -> list[str]:
        found = [path for path in files.list(self.folder, ".tfrecord") if path.endswith(".tfrecord")]
        if found:
            return found
        for suffix, whose in ((".h5", "VIBE"), (".pt", "NeuralAnnot")):
            if self.folder.endswith(suffix) or files.list(self.folder, suffix):
                raise ValueError(
                    f"{self.folder} is {whose}'s form of InstaVariety, which has no pictures\n  fix: {FIX}"
                )
        raise ValueError(f"no *.tfrecord in {self.folder}\n  fix: {FIX}")

    def people(self, unit: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        folder = self._inside(unit)
        with files.open(unit) as stream:
            for number, data in enumerate(records(stream, where=unit)):
                where = f"{unit}: record {number}"
                pictures, keypoints = _track(parse_example(data, where=where), where=where)
                for frame, picture in enumerate(pictures):
                    if frame % self.every:
                        skipped["not_every_frame"] += 1
                        continue
                    yield Person(
                        image_id=f"{folder}/{number:06d}/{frame:06d}",
                        person_id="0",
                        picture=f"{unit}#{number}/{frame}",
                        keypoints_2d_px=keypoints[frame],
                        sequence=f"{folder}/{number:06d}",
                        frame=frame,
                        image=picture,
                    )

    def _inside(self, unit: str) -> str:
        """Where a file lies in the folder, without its ending: files of one name in two folders are two."""
        folder, path = (p if "://" in p else os.path.abspath(p) for p in (self.folder, unit))
        inside = path.removeprefix(folder.rstrip("/")).lstrip("/") if path != folder else base_name(path)
        return inside.removesuffix(".tfrecord")


def _track(features: dict[str, Feature], *, where: str) -> tuple[list[bytes], np.ndarray]:
    """Pictures of a track's frames and their keypoints (frames, 25, 3). Raises ValueError, naming the feature."""
    pictures = features.get("image/encoded")
    if not isinstance(pictures, list) or not pictures:
        raise ValueError(f"{where} has no image/encoded, the pictures\n  fix: {FIX}")
    frames = len(pictures)
    counted = _numbers(features, "meta/N", (1,), where=where)
    if counted[0] != frames:
        raise ValueError(f"{where}: meta/N is {int(counted[0])}, but image/encoded has {frames} pictures")
    body = [
        _numbers(features, "image/xys", (frames, 2, 14), where=where),
        _numbers(features, "image/visibilities", (frames, 1, 14), where=where),
    ]
    parts = [np.concatenate(body, axis=1)]
    for name, count in (("image/face_pts", 5), ("image/toe_pts", 6)):
        absent = name not in features
        parts.append(
            np.zeros((frames, 3, count)) if absent else _numbers(features, name, (frames, 3, count), where=where)
        )
    keypoints = np.concatenate(parts, axis=2).transpose(0, 2, 1)
    # What is no number stays, for annotate to quarantine: it counts as labelled.
    keypoints[..., 2] = np.where(np.isnan(keypoints[..., 2]), 1.0, np.clip(keypoints[..., 2], 0.0, 1.0))
    seen = keypoints[keypoints[..., 2] > 0][:, :2]
    if len(seen) >= 14 and np.abs(seen).max() <= 1:
        raise ValueError(f"{where}: image/xys lies between -1 and 1: it is normalised, pixels are expected")
    return pictures, keypoints


def _numbers(features: dict[str, Feature], name: str, shape: tuple[int, ...], *, where: str) -> np.ndarray:
    values = features.get(name)
    if not isinstance(values, np.ndarray):
        raise ValueError(f"{where} has no {name}, or it holds no numbers\n  fix: {FIX}")
    if values.size != np.prod(shape):
        raise ValueError(f"{where}: {name} has {values.size} numbers; expected {' × '.join(map(str, shape))}")
    return values.astype(np.float64).reshape(shape)
