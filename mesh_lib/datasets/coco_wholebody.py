"""COCO-WholeBody: COCO's people with feet, faces and hands, 133 keypoints each.

Jin et al., 2020 (https://github.com/jin-s13/COCO-WholeBody): `coco_wholebody_{train,val}_v1.0.json` beside the pictures
of COCO 2017. Licence: annotations for non-commercial research only; every picture has a licence of its own, named in
the JSON. Coordinates are pixels of the whole picture, y down, as COCO's: our frame already. The standard split is the
owners': one file each for training and validation. Nobody is left out but crowds, and nothing is subsampled.

Traps. The third number of a keypoint means another thing in each part: COCO's flag (0, 1, 2) in body and feet, 0 or 1
in faces, and in hands either a flag or the score of a detector (0.04 and such). Above 0 is labelled; its confidence is
the number itself, a flag of 2 counting as 1. A part whose `*_valid` is false is unlabelled, whatever its numbers say.
The root of a hand is a label of its own, apart from the body's wrist: it is `{side}_hand_root` here. `num_keypoints`
counts the body alone, and `categories` name only the body's keypoints; neither is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mesh_lib.body.joints import COCO17, FACE68, JointSet, hand_joints
from mesh_lib.datasets.coco import Pictures, index_pictures, person_records
from mesh_lib.datasets.people import Files, Person, Reader, below, is_box, need

FEET6 = ("left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel")
WHOLEBODY133 = JointSet(
    "wholebody133",
    (
        *COCO17.names,
        *FEET6,
        *FACE68.names,
        *hand_joints("left", root="hand_root"),
        *hand_joints("right", root="hand_root"),
    ),
)

PARTS = (
    ("keypoints", None, 17),
    ("foot_kpts", "foot_valid", 6),
    ("face_kpts", "face_valid", 68),
    ("lefthand_kpts", "lefthand_valid", 21),
    ("righthand_kpts", "righthand_valid", 21),
)
"""Where a record has the joints of the set, in its order: field, field that says whether they count, joints."""
FIX = (
    "pass the dataset's coco_wholebody_train_v1.0.json or coco_wholebody_val_v1.0.json "
    "(https://github.com/jin-s13/COCO-WholeBody)"
)


@dataclass(frozen=True, kw_only=True)
class CocoWholeBody(Reader):
    """COCO-WholeBody: bodies, feet, faces and hands."""

    annotations: str
    """coco_wholebody_{train,val}_v1.0.json"""
    images: str
    """Folder of COCO's pictures, train2017 or val2017."""

    @property
    def joint_set(self) -> JointSet:
        return WHOLEBODY133

    @property
    def inputs(self) -> Sequence[str]:
        return self.annotations, self.images

    def units(self, files: Files) -> list[str]:
        return [need(files, self.annotations, what="annotation file", fix=FIX)]

    def people(self, unit: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        pictures = index_pictures(files, unit, fields=("file_name",))
        for record in _records(files, unit):
            person = self._person(record, pictures, skipped)
            if person is not None:
                yield person

    def _person(self, record: dict[str, Any], pictures: Pictures, skipped: Counter[str]) -> Person | None:
        picture = pictures.of(record)
        keypoints = read_parts(record)
        for reason, wrong in (
            ("crowd", record.get("iscrowd")),
            ("image_not_listed", picture is None),
            ("malformed_keypoints", keypoints is None),
        ):
            if wrong:
                skipped[reason] += 1
                return None
        assert picture is not None and keypoints is not None
        box = record.get("bbox")
        return Person(
            image_id=str(record["image_id"]),
            person_id=str(record["id"]),
            picture=below(self.images, str(picture[0]), where=self.annotations),
            keypoints_2d_px=keypoints,
            bbox_xywh_px=np.asarray(box, np.float64) if is_box(box) else None,
        )


def _records(files: Files, path: str) -> Iterator[dict[str, Any]]:
    try:
        yield from person_records(files, path, needs="face_kpts")
    except ValueError as error:
        raise ValueError(f"{error}\n  fix: {FIX}") from None


def read_parts(record: dict[str, Any]) -> np.ndarray | None:
    """(133, 3), all parts of a record; None where one is malformed. A part that the record lacks is unlabelled."""
    parts = []
    for name, valid, joints in PARTS:
        if valid is not None and not (record.get(valid) and name in record):
            parts.append(np.zeros((joints, 3)))
            continue
        try:
            part = np.asarray(record.get(name), np.float64).reshape(joints, 3)
        except (TypeError, ValueError, OverflowError):
            return None
        # What is no number stays, for annotate to quarantine: it counts as labelled.
        score = np.where(np.isnan(part[:, 2]), 1.0, np.clip(part[:, 2], 0.0, 1.0))
        parts.append(np.column_stack([part[:, :2], score]))
    return np.concatenate(parts)
