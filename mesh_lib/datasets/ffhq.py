"""FFHQ: 70,000 faces of Flickr with 68 landmarks each, aligned and in the pictures that they were cut from.

Karras et al., 2019 (https://github.com/NVlabs/ffhq-dataset): `ffhq-dataset-v2.json` beside the folders of pictures that
it names. Licence: the JSON CC BY-NC-SA 4.0; every picture has a licence of its own (CC BY, CC BY-NC, Public Domain,
CC0, U.S. Government), named in the JSON. The standard split is the JSON's category: the first 60,000 for training,
10,000 for validation. Nothing is subsampled. Read as the owners say of their file; no original was at hand.

Landmarks are dlib's, in iBUG's order, pixels, y down; all 68 are labelled. Which pictures:

- images1024x1024: the aligned faces, with landmarks of their own in the JSON.
- thumbnails128x128: the same, reduced. The JSON has no landmarks for them: those of the aligned face are reduced
  (pixel edges stay on pixel edges; pixel (0, 0) is a centre, so half a pixel goes each way).
- in_the_wild: the whole pictures, with landmarks of their own, and `face_rect` (left, top, right, bottom) for a box.

Traps. Landmarks of one kind on pictures of another are wrong by a factor or by everything. So they have to fit: an
aligned face spans a fifth of its picture and more, a wild one a fifth of its `face_quad` and more; and half of the
landmarks lie inside the picture. Faces that do not fit are left out, and counted. One face a picture has landmarks,
though others may be in it. Aligned pictures go on beyond the rim of their source with mirrored and blurred pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mesh_lib.body.joints import FACE68, JointSet
from mesh_lib.datasets import json_stream
from mesh_lib.datasets.people import Files, Person, Reader, below, need

FFHQ68 = JointSet("ffhq68", FACE68.names)

Pictures = Literal["images1024x1024", "thumbnails128x128", "in_the_wild"]
Subset = Literal["training", "validation", "all"]
SPAN = (0.2, 1.5)
"""Extent of a face's landmarks, in sides of its aligned picture."""
MOST_PX = 1e6
EXPECTED = (
    'FFHQ\'s ffhq-dataset-v2.json: {"0": {"category", "image": {"file_path", "pixel_size", "face_landmarks"}, '
    '"thumbnail": {…}, "in_the_wild": {…}}, …}'
)
FIX = "pass ffhq-dataset-v2.json (https://github.com/NVlabs/ffhq-dataset)"


@dataclass(frozen=True, kw_only=True)
class Ffhq(Reader):
    """FFHQ: faces with 68 landmarks."""

    annotations: str
    """ffhq-dataset-v2.json"""
    folder: str
    """Folder that holds images1024x1024, thumbnails128x128 or in-the-wild-images."""
    pictures: Pictures = "images1024x1024"
    """The aligned faces, the same reduced, or the whole pictures that they come from."""
    subset: Subset = "training"
    """The owners' split."""

    @property
    def joint_set(self) -> JointSet:
        return FFHQ68

    @property
    def inputs(self) -> Sequence[str]:
        return self.annotations, self.folder

    def units(self, files: Files) -> list[str]:
        return [need(files, self.annotations, what="annotation file", fix=FIX)]

    def people(self, unit: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        with files.open(unit) as stream:
            for name, record in json_stream.members(stream, where=unit):
                if not isinstance(record, dict) or not isinstance(record.get("image"), dict):
                    raise ValueError(f"{unit}: entry {name!r} is no picture of FFHQ\n  expected: {EXPECTED}")
                if self.subset not in ("all", record.get("category")):
                    skipped[f"not_{self.subset}"] += 1
                    continue
                face = self._face(record)
                if isinstance(face, str):
                    skipped[face] += 1
                    continue
                path, landmarks, box = face
                yield Person(
                    image_id=name,
                    person_id="0",
                    picture=below(self.folder, path, where=f"{unit}: {name}"),
                    keypoints_2d_px=np.column_stack([landmarks, np.ones(len(landmarks))]),
                    bbox_xywh_px=box,
                )

    def _face(self, record: dict[str, Any]) -> tuple[str, np.ndarray, np.ndarray | None] | str:
        """Picture, landmarks and box of an entry; why it is left out where it is."""
        field = {"images1024x1024": "image", "thumbnails128x128": "thumbnail"}.get(self.pictures, self.pictures)
        given = record.get(field)
        if not isinstance(given, dict) or not isinstance(given.get("file_path"), str):
            return f"no_{field}"
        size = _numbers(given.get("pixel_size"), (2,))
        source = record["image"] if field == "thumbnail" else given
        landmarks = _numbers(source.get("face_landmarks"), (68, 2))
        if size is None or landmarks is None:
            return "malformed_landmarks"
        box, side = None, float(size.max())
        if field == "thumbnail":
            whole = _numbers(source.get("pixel_size"), (2,))
            if whole is None or not (whole > 0).all():
                return "malformed_landmarks"
            landmarks = (landmarks + 0.5) * size / whole - 0.5
        elif field == "in_the_wild":
            quad, rect = _numbers(given.get("face_quad"), (4, 2)), _numbers(given.get("face_rect"), (4,))
            if quad is None:
                return "malformed_landmarks"
            side = float(np.linalg.norm(quad[1] - quad[0]))
            if rect is not None and (rect[2:] > rect[:2]).all():
                box = np.concatenate([rect[:2], rect[2:] - rect[:2]])
        if not _fits(landmarks, size, side):
            return "landmarks_do_not_fit"
        return given["file_path"], landmarks, box


def _fits(landmarks: np.ndarray, size: np.ndarray, side: float) -> bool:
    """Whether landmarks can belong to a picture of that size, in which an aligned picture has that side."""
    span = float(np.ptp(landmarks, axis=0).max())
    inside = ((landmarks > -1) & (landmarks < size + 1)).all(axis=1)
    return SPAN[0] * side <= span <= SPAN[1] * side and bool(inside.mean() >= 0.5)


def _numbers(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Numbers of a shape, such as pixels can be; None for anything else."""
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if numbers.shape == shape and (np.abs(numbers) < MOST_PX).all() else None
