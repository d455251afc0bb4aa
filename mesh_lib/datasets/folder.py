"""A plain folder of one's own pictures, with keypoints in COCO's JSON, OpenPose's JSON or a CSV, or with boxes alone.

Pictures are JPEG or PNG, in folders as deep as one likes. Coordinates are pixels of the whole picture, y down; (0, 0)
is the centre of the first. Nothing is subsampled or split. The ending of `keypoints` tells the format, unless `format`
does:

- coco (a .json file): COCO person keypoints, 17 joints (mesh_lib/datasets/coco.py).
- openpose (a folder): one `<picture>_keypoints.json` a picture, under the same sub-folders as the pictures; all people
  of each. BODY_25 or COCO-18, told apart by their number, and faces and hands where they are; what is absent is
  unlabelled. A person's id is their place in the file.
- csv (a .csv file): a header, then one row a person. Columns, in any order: `picture` (path in the folder), `person`
  (id, unique in the picture), `<joint>_x`, `<joint>_y` and, where known, `<joint>_confidence` (0 to 1; 0 is not
  labelled) of any joints that this project names, and, where known, all of `bbox_x`, `bbox_y`, `bbox_w`, `bbox_h`. An
  empty cell means not labelled.
- `boxes` in place of `keypoints`: a CSV of `picture`, `person` and the four columns of the box.

Phones store pictures as the sensor saw them, and in EXIF how to turn them. OpenPose turns them before it looks, so with
its keypoints they are turned here; other keypoints are taken to lie on what is stored, as COCO's do, unless `exif` says
that they lie on turned pictures, as with most tools that show them.

OpenPose's own traps are told in mesh_lib/datasets/openpose.py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mesh_lib.body.joints import COCO17, JointSet
from mesh_lib.datasets import json_stream, openpose
from mesh_lib.datasets.coco import Coco
from mesh_lib.datasets.named_csv import NAMED, Columns, read_header, rows
from mesh_lib.datasets.people import Files, Person, Reader, below, need

Format = Literal["auto", "coco", "openpose", "csv"]
SUFFIX = "_keypoints.json"
PICTURES = (".jpg", ".jpeg", ".png")
FILES_A_UNIT = 1000
FIX = (
    "pass --keypoints: a COCO .json, a .csv, or the folder of OpenPose's *_keypoints.json; "
    "or --boxes: a .csv (docs of mesh_lib/datasets/folder.py)"
)


@dataclass(frozen=True, kw_only=True)
class Folder(Reader):
    """A folder of one's own pictures."""

    images: str
    """Folder of the pictures."""
    keypoints: str = ""
    """COCO's .json, a .csv of joints by name, or the folder of OpenPose's *_keypoints.json."""
    boxes: str = ""
    """In place of keypoints: a .csv of people's boxes."""
    format: Format = "auto"
    """Format of the keypoints; by default told from the ending of their name."""

    exif: Literal["auto", "turn", "ignore"] = "auto"
    """Whether keypoints lie on pictures turned as their EXIF says; auto: OpenPose's do, others do not."""

    def __post_init__(self) -> None:
        if bool(self.keypoints) == bool(self.boxes):
            raise ValueError(f"either keypoints or boxes, not {'both' if self.boxes else 'neither'}\n  fix: {FIX}")

    @property
    def joint_set(self) -> JointSet:
        return {"coco": COCO17, "openpose": openpose.OPENPOSE137, "csv": NAMED, "boxes": COCO17}[self.kind]

    @property
    def inputs(self) -> Sequence[str]:
        return self.keypoints or self.boxes, self.images

    @property
    def boxes_only(self) -> bool:
        return bool(self.boxes)

    @property
    def turns_pictures(self) -> bool:
        return self.exif == "turn" or (self.exif == "auto" and self.kind == "openpose")

    @property
    def kind(self) -> str:
        """The format, decided."""
        if self.boxes:
            return "boxes"
        if self.format != "auto":
            return self.format
        ending = self.keypoints.lower().rpartition(".")[2]
        return {"json": "coco", "csv": "csv"}.get(ending, "openpose")

    def units(self, files: Files) -> list[Any]:
        path = need(files, self.keypoints or self.boxes, what="annotations", fix=FIX)
        need(files, self.images, what="folder of pictures", fix="pass --images, the folder of the pictures")
        if self.kind == "openpose":
            pairs = self._pairs(files)
            return [pairs[i : i + FILES_A_UNIT] for i in range(0, len(pairs), FILES_A_UNIT)]
        if self.kind != "coco":
            read_header(files, path, boxes_only=self.boxes_only)
        return [path]

    def people(self, unit: Any, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        match self.kind:
            case "coco":
                _refuse_openpose(files, unit)
                yield from Coco(annotations=unit, images=self.images).people(unit, files, skipped)
            case "openpose":
                for path, picture in unit:
                    yield from self._openpose(path, picture, files, skipped)
            case _:
                yield from self._csv(unit, files, skipped)

    def _pairs(self, files: Files) -> list[tuple[str, str]]:
        """OpenPose's files, each with its picture's path in the folder; "" where there is none."""
        pictures: dict[str, list[str]] = {}
        for path in files.list(self.images):
            stem, ending = os.path.splitext(path)
            if ending.lower() in PICTURES:
                pictures.setdefault(_inside(stem, self.images), []).append(_inside(path, self.images))
        pairs = []
        for path in files.list(self.keypoints, SUFFIX):
            found = pictures.get(_inside(path, self.keypoints).removesuffix(SUFFIX), [""])
            if len(found) > 1:
                raise ValueError(f"{path} may be of {' or of '.join(found)} in {self.images}\n  fix: rename one")
            pairs.append((path, found[0]))
        if not pairs:
            raise ValueError(f"no *{SUFFIX} in {self.keypoints}\n  fix: {FIX}")
        return pairs

    def _openpose(self, path: str, picture: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        with files.open(path) as stream:
            for _, number, found in json_stream.entries(stream, "people", where=path):
                if not picture:
                    skipped["no_picture"] += 1
                    continue
                yield Person(
                    image_id=picture,
                    person_id=str(number),
                    picture=below(self.images, picture, where=path),
                    keypoints_2d_px=openpose.detection(found, where=f"{path}: person {number}"),
                )

    def _csv(self, path: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        columns = read_header(files, path, boxes_only=self.boxes_only)
        for number, row in rows(files, path):
            if number == 1:
                continue
            person = self._row(columns, row, where=f"{path}: row {number}")
            if isinstance(person, str):
                skipped[person] += 1
                continue
            yield person

    def _row(self, columns: Columns, row: list[str], *, where: str) -> Person | str:
        """The person of a row; why they are left out where they are."""
        if len(row) != columns.count:
            return "malformed_row"
        picture, person = row[columns.picture].strip(), row[columns.person].strip()
        if not picture or not person:
            return "no_picture_or_no_person"
        if "\0" in person:
            raise ValueError(f"{where}: the person's id has a NUL")
        box = columns.box_of(row)
        keypoints = np.zeros((len(COCO17), 3)) if self.boxes_only else columns.keypoints_of(row)
        if keypoints is None:
            return "malformed_keypoints"
        if self.boxes_only and box is None:
            return "no_box"
        return Person(
            image_id=picture,
            person_id=person,
            picture=below(self.images, picture, where=where),
            keypoints_2d_px=keypoints,
            bbox_xywh_px=box,
        )


def _inside(path: str, folder: str) -> str:
    """Where a listed file lies in its folder: lists give absolute paths, folders may be relative."""
    path, folder = (p if "://" in p else os.path.abspath(p) for p in (path, folder))
    return path.removeprefix(folder.rstrip("/")).lstrip("/")


def _refuse_openpose(files: Files, path: str) -> None:
    with files.open(path) as stream:
        name, *_ = next(json_stream.entries(stream, where=path), ("",))
    if name in ("version", "people"):
        raise ValueError(f"{path} is OpenPose's file of one picture\n  fix: pass the folder of all *{SUFFIX}")
