"""Which label of others is of which sample.

By the annotation's id, which is our sample id or the dataset's own id of the person; where a file has none (SPIN, EFT
of MPII), by picture and box. The order of rows is never trusted: it breaks where two tools filtered a dataset
differently. Nor is a picture's bare file name, which datasets of videos repeat in every sequence.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mesh_lib import tables
from pipelines.foreign import Foreign
from pipelines.picture_names import DEPTH, Suffixes, path_parts, picture_of, two_pictures
from pipelines.sources import Source, read_group

NEAR = 0.25
"""A label found by picture and box lies within this part of its box's edge from the sample's box."""
PICTURE = ("image_uri", "dataset", "split", "image_id")


def match_labels(foreign: Foreign, source: Source) -> np.ndarray:
    """For each sample, in the order of its row groups, its label; -1 where there is none.

    Raises ValueError where two labels, or two samples, claim the same id, and where a picture's name is of several.
    """
    if foreign.person is not None:
        return _by_person(foreign.person, source, where=foreign.path)
    assert foreign.picture is not None
    return _by_picture(foreign, foreign.picture, source)


def _by_person(ids: np.ndarray, source: Source, *, where: str) -> np.ndarray:
    order = np.argsort(ids, kind="stable")
    keys = ids[order]
    if len(np.unique(keys)) < len(keys):
        raise ValueError(
            f"two labels in {where} have the same annotation id\n  fix: import files of one dataset and split at a time"
        )
    match = np.full(source.rows, -1)
    for column in ("sample_id", "person_id"):
        names = _keys(source, column)
        at = np.minimum(np.searchsorted(keys, names), max(len(keys) - 1, 0))
        found = keys[at] == names if len(keys) else np.zeros(len(names), bool)
        match = np.where(found & (match < 0), order[at] if len(keys) else -1, match)
    used = match[match >= 0]
    if len(np.unique(used)) < len(used):
        raise ValueError(
            f"two samples in {source.path} have the same person_id: a label cannot be told to be of one of them\n"
            "  fix: import the labels of one dataset and split at a time"
        )
    return match


def _keys(source: Source, column: str) -> np.ndarray:
    """Hashes of a column of all samples."""
    return np.array(
        [
            tables.sample_key(text or "")
            for file, group, _ in source.groups
            for text in read_group(source.path, file, group, [column]).column(column).to_pylist()
        ],
        np.int64,
    )


def _by_picture(foreign: Foreign, labels: np.ndarray, source: Source) -> np.ndarray:
    """By as many last parts of the pictures' paths as any label has in common with any sample: what lies above is
    another root folder. A label whose name has fewer is found by its whole name."""
    samples, boxes = _pictures(source)
    shared = [i + 1 for i in range(DEPTH) if np.intersect1d(labels[:, i], samples[:, i]).any()]
    depth = max(shared, default=0)
    if not depth:
        return np.full(source.rows, -1)
    length = (labels[:, :DEPTH] != 0).sum(axis=1)
    names = labels[np.arange(len(labels)), np.clip(length, 1, depth) - 1]
    order = np.argsort(names, kind="stable")
    spans = []
    for i in range(depth):
        low, high = (np.searchsorted(names[order], samples[:, i], side=side) for side in ("left", "right"))
        spans.append((low, np.where(samples[:, i] == 0, low, high)))
        rows = np.flatnonzero(low < spans[i][1])
        if (two := two_pictures(samples[rows][:, [i, DEPTH]])) is not None:
            first, second = (_picture_at(source, int(rows[one])) for one in two)
            raise ValueError(
                f"labels in {foreign.path} may be of {first} or of {second}: they only say {_end(first, i + 1)}\n"
                "  fix: import into the samples of one sequence or split at a time"
            )
    found = np.flatnonzero(np.isin(names, samples[:, :depth]) & (names != 0))
    if (two := two_pictures(np.stack([names, labels[:, DEPTH]], axis=1)[found])) is not None:
        row, i = np.argwhere(samples[:, :depth] == names[found[two[0]]])[0]
        sample = _picture_at(source, int(row))
        raise ValueError(
            f"labels of two pictures in {foreign.path} may be of {sample}: both end in {_end(sample, int(i) + 1)}\n"
            "  fix: ingest the pictures from folders that are called as they are in the labels"
        )
    candidates = (np.concatenate([order[low[row] : high[row]] for low, high in spans]) for row in range(len(samples)))
    return _nearest(foreign, boxes, candidates)


def _pictures(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """By each sample: the hashes of its picture's name (a picture that only the samples hold is called by its id), and
    its box."""
    names, boxes = Suffixes(), [np.empty((0, 4))]
    for file, group, _ in source.groups:
        table = read_group(source.path, file, group, [*PICTURE, "bbox_xywh_px"])
        for row in zip(*(table.column(name).to_pylist() for name in PICTURE), strict=True):
            names.add(row[0] or row[3], picture_of(*row))
        boxes.append(tables.numpy_column(table, "bbox_xywh_px"))
    return names.table(), np.concatenate(boxes)


def _picture_at(source: Source, row: int) -> str:
    for file, group, rows in source.groups:
        if row < rows:
            found = read_group(source.path, file, group, ["image_uri", "image_id"]).slice(row, 1).to_pylist()[0]
            return found["image_uri"] or found["image_id"]
        row -= rows
    raise AssertionError(row)


def _end(name: str, depth: int) -> str:
    return "/".join(path_parts(name)[-depth:])


def _nearest(foreign: Foreign, boxes: np.ndarray, candidates: Iterator[np.ndarray]) -> np.ndarray:
    """The label whose box is nearest to a sample's, and to which no other sample is nearer."""
    match, distance = np.full(len(boxes), -1), np.full(len(boxes), np.inf)
    best: dict[int, int] = {}
    for row, found in enumerate(candidates):
        if not len(found):
            continue
        box = foreign.values["box"][found]
        edge = np.where(box[:, 2] > 0, box[:, 2], np.nan)
        apart = np.linalg.norm(box[:, :2] - (boxes[row, :2] + boxes[row, 2:] / 2), axis=1) / edge
        nearest = int(np.argmin(np.nan_to_num(apart, nan=np.inf)))
        label, share = int(found[nearest]), float(apart[nearest])
        rival = best.get(label)
        if not share < NEAR or (rival is not None and distance[rival] <= share):
            continue
        if rival is not None:
            match[rival] = -1
        match[row], distance[row], best[label] = label, share, row
    return match
