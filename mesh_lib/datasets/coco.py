"""COCO person keypoints, and every file in that format: a list of pictures, a list of people.

`person_keypoints_*.json` beside a folder of pictures, as the owners ship them (https://cocodataset.org). Licence:
annotations CC BY 4.0; every picture has a licence of its own, named in the JSON. Coordinates are pixels of the whole
picture, y down, integers at pixel centres: our frame already. v is 0 not labelled, 1 labelled but hidden, 2 visible.
The COCO of Pose2Pose and of its 2D pose network: people with iscrowd = 0 and keypoints; all of them with
--stage.min-keypoints 1 (by default ingest leaves out those with fewer than 6, and counts them).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mesh_lib.body.joints import COCO17, JointSet
from mesh_lib.datasets import json_stream
from mesh_lib.datasets.people import Files, Person, Reader, below, is_box, need
from mesh_lib.tables import sample_key

EXPECTED = (
    '\n  expected: COCO person keypoints, {"images": [{"id", "file_name"}], '
    '"annotations": [{"id", "image_id", "keypoints": [x, y, v] * 17, "bbox"}]}'
)
FIX = "pass the dataset's person_keypoints_*.json (https://cocodataset.org, 2017 Train/Val annotations)"


@dataclass(frozen=True, kw_only=True)
class Coco(Reader):
    """COCO person keypoints (or any file in that format)."""

    annotations: str
    """person_keypoints_*.json"""
    images: str
    """Folder of the pictures."""

    @property
    def joint_set(self) -> JointSet:
        return COCO17

    @property
    def inputs(self) -> Sequence[str]:
        return self.annotations, self.images

    def units(self, files: Files) -> list[str]:
        return [need(files, self.annotations, what="annotation file", fix=FIX)]

    def people(self, unit: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        pictures = index_pictures(files, unit, fields=("file_name",))
        for record in person_records(files, unit):
            person = self.person(record, pictures, skipped)
            if person is not None:
                yield person

    def person(self, record: dict[str, Any], pictures: Pictures, skipped: Counter[str]) -> Person | None:
        """One record; None for one that is left out. A record whose keypoints are not finite stays: annotate
        quarantines it."""
        if record.get("iscrowd"):
            skipped["crowd"] += 1
            return None
        picture = pictures.of(record)
        if picture is None:
            skipped["image_not_listed"] += 1
            return None
        keypoints = self.keypoints(record)
        if keypoints is None:
            skipped["malformed_keypoints"] += 1
            return None
        box = record.get("bbox")
        return Person(
            image_id=str(record["image_id"]),
            person_id=str(record["id"]),
            picture=below(self.images, str(picture[0]), where=self.annotations),
            keypoints_2d_px=keypoints,
            bbox_xywh_px=np.asarray(box, np.float64) if is_box(box) else None,
        )

    def keypoints(self, record: dict[str, Any]) -> np.ndarray | None:
        """(J, 3), confidence 1 where labelled; None where they are malformed."""
        return flat_keypoints(record.get("keypoints"), len(self.joint_set))


def flat_keypoints(values: Any, count: int) -> np.ndarray | None:
    """x, y, v of `count` joints one after the other, as (count, 3) with confidence 1 where v > 0."""
    try:
        keypoints = np.asarray(values, dtype=np.float64).reshape(count, 3)
    except (TypeError, ValueError, OverflowError):
        return None
    keypoints = keypoints.copy()
    keypoints[:, 2] = (keypoints[:, 2] > 0) | np.isnan(keypoints[:, 2])
    return keypoints


CHUNK = 1 << 16
"""Pictures that are kept as Python's own until they are packed."""


class Pictures:
    """The pictures that a file lists, by id: a few tens of bytes each, whatever the file says of them."""

    def __init__(self, records: Iterable[dict[str, Any]], *, fields: Sequence[str], where: str) -> None:
        self.where = where
        keys: list[int] = []
        columns: dict[str, list[Any]] = {name: [] for name in fields}
        chunks: list[pa.Table] = []
        for record in records:
            keys.append(sample_key(repr(record["id"])))
            for name, column in columns.items():
                column.append(record[name])
            if len(keys) % CHUNK == 0:
                chunks.append(_packed(columns, where))
        chunks.append(_packed(columns, where))
        unsorted = np.array(keys, np.int64)
        self.order = np.argsort(unsorted, kind="stable")
        self.keys = unsorted[self.order]
        try:  # 1500 in one chunk and 1500.5 in another are both numbers
            table = pa.concat_tables(chunks, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"{where}: entries of `images` differ in kind: {error}") from None
        self.columns = [table.column(name) for name in fields]

    def __len__(self) -> int:
        return len(self.keys)

    def of(self, record: dict[str, Any]) -> tuple[Any, ...] | None:
        """The fields of a record's picture, in the order in which they were asked for; None where it is not listed."""
        key = sample_key(repr(record["image_id"]))
        at = int(np.searchsorted(self.keys, key, side="right")) - 1  # the last of those that share an id
        if at < 0 or self.keys[at] != key:
            return None
        row = int(self.order[at])
        return tuple(column[row].as_py() for column in self.columns)


def _packed(columns: dict[str, list[Any]], where: str) -> pa.Table:
    """The columns so far, which are emptied."""
    try:
        packed = pa.table({name: pa.array(values) for name, values in columns.items()})
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(f"{where}: entries of `images` differ in kind: {error}") from None
    for values in columns.values():
        values.clear()
    return packed


def index_pictures(files: Files, path: str, *, fields: Sequence[str]) -> Pictures:
    """What a file says of its pictures. Raises ValueError that says what is not COCO about it."""
    return Pictures(_picture_records(files, path, fields), fields=fields, where=path)


def _picture_records(files: Files, path: str, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    with files.open(path) as stream:
        json_stream.check_closed(stream, where=path)
        # The people, who are read next, mostly follow the pictures; what else is wrong behind these is found then.
        for _, _, image in json_stream.entries(stream, "images", where=path, expected=EXPECTED, to_end=False):
            for name in ("id", *fields):
                if not isinstance(image, dict) or name not in image:
                    raise ValueError(f"{path}: an entry of `images` has no `{name}`{EXPECTED}")
            yield image


def person_records(files: Files, path: str, *, needs: str = "keypoints") -> Iterator[dict[str, Any]]:
    """The records of people in a file, each with `id` and `image_id`. Raises ValueError where none has `needs`."""
    with files.open(path) as stream:
        records = useful = 0
        for _, i, record in json_stream.entries(stream, "annotations", where=path, expected=EXPECTED):
            missing = [k for k in ("id", "image_id") if not isinstance(record, dict) or k not in record]
            if missing:
                raise ValueError(f"{path}: annotation {i} has no {' and no '.join(missing)}{EXPECTED}")
            records += 1
            useful += needs in record
            yield record
    if records and not useful:
        raise ValueError(f"{path} has annotations but no {needs}: is it an instances_*.json?{EXPECTED}")
