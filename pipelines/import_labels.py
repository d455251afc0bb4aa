"""Pseudo-GT that others made, as our own labels: one row a sample, so that it can be compared, reported and trained on.

A label is found for its sample by the annotation's id (NeuralAnnot, EFT), which is our sample id or the dataset's own
id of the person, or, where a file has none (SPIN), by picture and box. The order of rows is never trusted: it breaks
where two tools filtered a dataset differently.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from ray.data import TaskPoolStrategy

from mesh_lib import tables
from mesh_lib.body.joints import BODY33, JointSet
from mesh_lib.body.layer import KeypointLayer
from mesh_lib.datasets import json_stream
from mesh_lib.formats import eft, neural_annot, spin
from mesh_lib.geometry.cameras import CROP_FOCAL_PX
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.labels import failures, labels_of, labels_table
from mesh_lib.supervision import to_body33
from pipelines import runs, storage
from pipelines.annotate import succeed
from pipelines.bodies import load_body_of, put_body
from pipelines.crops import IDENTITY
from pipelines.label_files import LABELS
from pipelines.npz import read_npz
from pipelines.sources import Source, open_source, read_group

Kind = Literal["neuralannot", "eft", "spin"]
FILE_ROWS = 16384
"""Samples whose labels are made by one task, and written to one file a status."""
NEAR = 0.25
"""A label found by picture and box lies within this part of its box's edge from the sample's box."""
PARAMETERS = {"rotvec": (24, 3), "betas": (10,), "transl_m": (3,), "focal_px": (2,), "princpt_px": (2,), "box": (3,)}
"""What is kept of a label of others, and its shape; `box` is the centre and edge of the square that it speaks of."""


@dataclass(frozen=True)
class Foreign:
    """Labels of others: arrays in the order of their file, 4 bytes a number."""

    key: np.ndarray
    """(N,) hash of what a label is found by."""
    by: Literal["person", "picture"]
    values: dict[str, np.ndarray]
    """PARAMETERS; NaN where a file does not say."""

    def __len__(self) -> int:
        return len(self.key)


def import_labels(run: runs.Run, *, kind: Kind, labels: str, samples: str, body: str, parallel: int) -> Counter[str]:
    """Write a pseudo_gt row for every sample; returns the rows by status.

    Raises ValueError for a file of another format, and where not one label is of a sample.
    """
    started = time.time()
    put_body(body, run.folder)
    source = open_source(samples)
    foreign = read_foreign(kind, labels)
    match = _match(foreign, source)
    if not (match >= 0).any():
        raise ValueError(
            f"none of the {len(foreign)} labels in {labels} is of a sample in {samples}\n"
            "  fix: ingest the dataset and split that the labels speak of, with jobs/ingest.py"
        )
    lines = _lineage(run, kind=kind, labels=labels, samples=samples)
    starts = _bundles(source)
    work = _Rows(run.folder, source, ray.put(foreign), ray.put(match), lines)
    done = ray.data.from_items(
        [{"first": a, "last": b} for a, b in starts], override_num_blocks=len(starts)
    ).map_batches(
        work, batch_size=1, batch_format="numpy", num_cpus=1, compute=TaskPoolStrategy(size=min(parallel, len(starts)))
    )
    written = sum(int(row["rows"]) for row in done.iter_rows())
    assert written == source.rows, (written, source.rows)
    return succeed(run, source=source, lines=lines, seconds=time.time() - started)


def read_foreign(kind: Kind, path: str) -> Foreign:
    """A file of labels. Raises ValueError, in one message, for one that is not of this kind."""
    files = storage.Files()
    if not files.exists(path):
        raise ValueError(f"no labels at {path}")
    if kind == "spin":
        with read_npz(path) as arrays:
            return _collect(map(_from_spin, spin.entries(arrays, where=path)), by="picture")
    with files.open(path) as stream:
        if kind == "neuralannot":
            entries = (
                neural_annot.read_entry(key, entry, where=path)
                for key, entry in json_stream.members(stream, where=path)
            )
            return _collect(entries, by="person")
        found = json_stream.entries(stream, "data", where=path, expected='\n  expected: EFT, {"ver", "data": [...]}')
        return _collect((eft.read_entry(entry, where=path) for _, _, entry in found), by="person")


def _from_spin(entry: dict[str, Any]) -> dict[str, Any]:
    """SPIN's camera, where the file has it; else it is solved for from the sample's keypoints."""
    side, cam, transl_m = entry["side"], entry["cam"], np.full(3, np.nan)
    if cam is not None and np.isfinite(cam).all() and cam[0] > 0:
        transl_m = np.array([cam[1], cam[2], 2 * CROP_FOCAL_PX / (spin.INPUT_PX * cam[0])])
    return {
        "file_name": entry["file_name"],
        "rotvec": entry["rotvec"],
        "betas": entry["betas"],
        "transl_m": transl_m,
        "focal_px": np.full(2, CROP_FOCAL_PX * side / spin.INPUT_PX),
        "princpt_px": entry["center"],
        "box": np.array([*entry["center"], side]),
    }


def _collect(entries: Iterable[dict[str, Any]], *, by: Literal["person", "picture"]) -> Foreign:
    keys: list[int] = []
    values: dict[str, list[np.ndarray]] = {name: [] for name in PARAMETERS}
    chunks = {name: [np.empty((0, *shape), np.float32)] for name, shape in PARAMETERS.items()}
    for entry in entries:
        name = entry["person_id"] if by == "person" else _file_key(entry["file_name"])
        keys.append(tables.sample_key(name))
        for column, shape in PARAMETERS.items():
            values[column].append(np.asarray(entry.get(column, np.full(shape, np.nan)), np.float32))
        if len(keys) % 65536 == 0:
            _stack(values, chunks)
    _stack(values, chunks)
    return Foreign(np.array(keys, np.int64), by, {name: np.concatenate(parts) for name, parts in chunks.items()})


def _stack(values: dict[str, list[np.ndarray]], chunks: dict[str, list[np.ndarray]]) -> None:
    """Small arrays cost more than their numbers: they become rows of large ones."""
    for name, rows in values.items():
        if rows:
            chunks[name].append(np.stack(rows))
            rows.clear()


def _file_key(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).name


def _match(foreign: Foreign, source: Source) -> np.ndarray:
    """For each sample, in the order of its row groups, its label; -1 where there is none.

    Raises ValueError where two labels, or two samples, claim the same id.
    """
    order = np.argsort(foreign.key, kind="stable")
    keys = foreign.key[order]
    if foreign.by == "picture":
        names, boxes = _claims(source, "image_uri")
        spans = zip(np.searchsorted(keys, names, side="left"), np.searchsorted(keys, names, side="right"), strict=True)
        return _nearest(foreign, boxes, [order[low:high] for low, high in spans])
    if len(np.unique(keys)) < len(keys):
        raise ValueError("two labels have the same annotation id")
    match = np.full(source.rows, -1)
    for column in ("sample_id", "person_id"):
        names, _ = _claims(source, column)
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


def _claims(source: Source, column: str) -> tuple[np.ndarray, np.ndarray]:
    """By each sample: what its label would be found by, and its box."""
    names, boxes = [np.empty(0, np.int64)], [np.empty((0, 4))]
    for file, group, _ in source.groups:
        table = read_group(source.path, file, group, sorted({column, "image_id", "bbox_xywh_px"}))
        keys = [text or "" for text in table.column(column).to_pylist()]
        if column == "image_uri":  # a picture that only the samples hold is called by its id
            keys = [
                _file_key(uri or name) for uri, name in zip(keys, table.column("image_id").to_pylist(), strict=True)
            ]
        names.append(np.array([tables.sample_key(key) for key in keys], np.int64))
        boxes.append(tables.numpy_column(table, "bbox_xywh_px"))
    return np.concatenate(names), np.concatenate(boxes)


def _nearest(foreign: Foreign, boxes: np.ndarray, candidates: list[np.ndarray]) -> np.ndarray:
    """The label whose box is nearest to a sample's, and to which no other sample is nearer."""
    match, distance = np.full(len(boxes), -1), np.full(len(boxes), np.inf)
    best: dict[int, int] = {}
    for row, found in enumerate(candidates):
        if not len(found):
            continue
        box = foreign.values["box"][found]
        apart = np.linalg.norm(box[:, :2] - (boxes[row, :2] + boxes[row, 2:] / 2), axis=1) / box[:, 2]
        nearest = int(np.argmin(apart))
        label, apart_px = int(found[nearest]), float(apart[nearest])
        rival = best.get(label)
        if not apart_px < NEAR or (rival is not None and distance[rival] <= apart_px):
            continue
        if rival is not None:
            match[rival] = -1
        match[row], distance[row], best[label] = label, apart_px, row
    return match


def _bundles(source: Source) -> list[tuple[int, int]]:
    """Stretches of row groups with about FILE_ROWS rows each."""
    stretches, first, rows = [], 0, 0
    for i, (_, _, count) in enumerate(source.groups):
        rows += count
        if rows >= FILE_ROWS or i == len(source.groups) - 1:
            stretches.append((first, i + 1))
            first, rows = i + 1, 0
    return stretches


def _lineage(run: runs.Run, *, kind: Kind, labels: str, samples: str) -> dict[str, str]:
    record = storage.read_json(run.path(runs.RUN_FILE))
    digest = hashlib.sha256()
    with storage.Files().open(storage.absolute(labels)) as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return {
        "run_id": run.run_id,
        "annotator_run_id": "none",
        "annotator_sha256": digest.hexdigest(),
        "annotator": storage.absolute(labels),
        "samples": storage.absolute(samples),
        "samples_fingerprint": runs.fingerprint(storage.absolute(samples)),
        "recipe": f"labels of others: {kind}",
        "method": "imported",
        "code_commit": record["code"]["commit"],
    }


class _Rows:
    """Ray Data function: a stretch of row groups of samples in; their labels written, how many out."""

    def __init__(self, folder: str, source: Source, foreign: Any, match: Any, lines: dict[str, str]) -> None:
        self.folder, self.source, self.foreign, self.match, self.lines = folder, source, foreign, match, lines

    @torch.inference_mode()
    def __call__(self, unit: Any) -> dict[str, np.ndarray]:
        first, last = int(unit["first"][0]), int(unit["last"][0])
        foreign: Foreign = ray.get(self.foreign)
        match: np.ndarray = ray.get(self.match)
        keypoints = KeypointLayer(load_body_of(self.folder), BODY33)
        at = sum(rows for _, _, rows in self.source.groups[:first])
        made = []
        for file, group, rows in self.source.groups[first:last]:
            columns = [*IDENTITY, "bbox_xywh_px", "keypoints_2d_px", "image_size"]
            table = read_group(self.source.path, file, group, columns)
            made.append(_label(table, foreign, match[at : at + rows], keypoints, self.source.joint_set))
            at += rows
        self._write(pa.concat_tables(made), first)
        return {"rows": np.array([sum(map(len, made))])}

    def _write(self, table: pa.Table, number: int) -> None:
        metadata = {**(table.schema.metadata or {}), **{k.encode(): v.encode() for k, v in self.lines.items()}}
        statuses = table.column("status").to_pylist()
        for status in sorted(set(statuses)):
            rows = table.filter(pa.array([one == status for one in statuses])).drop_columns(["status"])
            path = storage.join(self.folder, LABELS, f"status={status}", f"part-{number:06d}.parquet")
            with storage.writing(path) as stream:
                pq.write_table(
                    rows.replace_schema_metadata(metadata), pa.PythonFile(stream, "w"), row_group_size=1024,
                    write_page_checksum=True,
                )  # fmt: skip


def _label(
    table: pa.Table, foreign: Foreign, match: np.ndarray, keypoints: KeypointLayer, joint_set: JointSet
) -> pa.Table:
    rows = len(table)
    given = tables.numpy_column(table, "keypoints_2d_px", missing=0.0).reshape(rows, len(joint_set), 3)
    given = to_body33(np.nan_to_num(given).astype(np.float32), joint_set)
    bbox = tables.numpy_column(table, "bbox_xywh_px", missing=0.0)
    found = np.maximum(match, 0)
    values = {name: foreign.values[name][found] for name in PARAMETERS}
    _solve_cameras(values, given, keypoints)
    label = labels_of(
        keypoints,
        **{name: torch.from_numpy(values[name]) for name in PARAMETERS if name != "box"},
        bbox_xywh_px=torch.from_numpy(np.nan_to_num(bbox).astype(np.float32)),
        keypoints_2d_px=torch.from_numpy(given),
    )
    status = failures(label)
    status[match < 0] = "not_labelled"
    identity: dict[str, Any] = {name: table.column(name).to_pylist() for name in IDENTITY}
    size = tables.numpy_column(table, "image_size", missing=0.0)
    return labels_table(identity, status=status, label=label, image_size=size)


def _solve_cameras(values: dict[str, np.ndarray], given: np.ndarray, keypoints: KeypointLayer) -> None:
    """Translations that a file does not have: those that bring the joints nearest to the sample's keypoints."""
    unknown = ~np.isfinite(values["transl_m"]).all(axis=1) & (np.count_nonzero(given[..., 2] > 0, axis=1) >= 3)
    if not unknown.any():
        return
    own = {name: value[unknown] for name, value in values.items()}
    rotmats = rotvec_to_rotmat(torch.from_numpy(own["rotvec"]))
    joints = keypoints(rotmats=rotmats, betas=torch.from_numpy(own["betas"])).numpy().astype(np.float64)
    values["transl_m"][unknown] = spin.solve_translation(
        joints, given[unknown][..., :2] - own["princpt_px"][:, None], own["focal_px"].mean(axis=1).astype(np.float64),
        (given[unknown][..., 2] > 0).astype(np.float64),
    )  # fmt: skip
