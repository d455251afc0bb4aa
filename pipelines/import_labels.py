"""Pseudo-GT that others made, as our own labels: one row a sample, so that it can be compared, reported and trained on.

pipelines/foreign.py reads their files, pipelines/match_labels.py finds whose each label is.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from ray.data import TaskPoolStrategy

from mesh_lib import tables
from mesh_lib.body.joints import BODY33, JointSet, to_body33
from mesh_lib.body.layer import KeypointLayer
from mesh_lib.formats import spin
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.labels import failures, labels_of, labels_table
from pipelines import runs, storage
from pipelines.annotate import succeed
from pipelines.bodies import load_body_of, put_body
from pipelines.crops import IDENTITY
from pipelines.foreign import PARAMETERS, Kind, read_foreign
from pipelines.label_files import LABELS
from pipelines.match_labels import match_labels
from pipelines.sources import Source, open_source, read_group

FILE_ROWS = 16384
"""Samples whose labels are made by one task, and written to one file a status."""


def import_labels(
    run: runs.Run, *, kind: Kind, labels: str, fits: str | None = None, samples: str, body: str, parallel: int
) -> Counter[str]:
    """Write a pseudo_gt row for every sample; returns the rows by status. `fits` is a file of SPIN's beside `labels`.

    Raises ValueError for a file of another format, and where not one label is of a sample.
    """
    started = time.time()
    put_body(body, run.folder)
    source = open_source(samples)
    foreign = read_foreign(kind, labels, fits=fits)
    match = match_labels(foreign, source)
    if not (match >= 0).any():
        raise ValueError(
            f"none of the {len(foreign)} labels in {labels} is of a sample in {samples}\n"
            "  fix: ingest the dataset and split that the labels speak of, with jobs/ingest.py"
        )
    lines = _lineage(run, kind=kind, files=[fits, labels] if fits else [labels], samples=samples)
    starts = _bundles(source)
    work = _Rows(run.folder, source, ray.put(foreign.values), ray.put(match), lines)
    done = ray.data.from_items(
        [{"first": a, "last": b} for a, b in starts], override_num_blocks=len(starts)
    ).map_batches(
        work, batch_size=1, batch_format="numpy", num_cpus=1, compute=TaskPoolStrategy(size=min(parallel, len(starts)))
    )
    written = sum(int(row["rows"]) for row in done.iter_rows())
    assert written == source.rows, (written, source.rows)
    return succeed(run, source=source, lines=lines, seconds=time.time() - started)


def _bundles(source: Source) -> list[tuple[int, int]]:
    """Stretches of row groups with about FILE_ROWS rows each."""
    stretches, first, rows = [], 0, 0
    for i, (_, _, count) in enumerate(source.groups):
        rows += count
        if rows >= FILE_ROWS or i == len(source.groups) - 1:
            stretches.append((first, i + 1))
            first, rows = i + 1, 0
    return stretches


def _lineage(run: runs.Run, *, kind: Kind, files: Sequence[str], samples: str) -> dict[str, str]:
    """`files` are those that the labels came from, first that of the parameters."""
    record = storage.read_json(run.path(runs.RUN_FILE))
    digest = hashlib.sha256()
    for file in files:
        with storage.Files().open(file) as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return {
        "run_id": run.run_id,
        "annotator_run_id": "none",
        "annotator_sha256": digest.hexdigest(),
        "annotator": storage.absolute(files[0]),
        "samples": storage.absolute(samples),
        "samples_fingerprint": runs.fingerprint(storage.absolute(samples)),
        "recipe": f"labels of others: {kind}",
        "method": "imported",
        "code_commit": record["code"]["commit"],
    }


class _Rows:
    """Ray Data function: a stretch of row groups of samples in; their labels written, how many out."""

    def __init__(self, folder: str, source: Source, values: Any, match: Any, lines: dict[str, str]) -> None:
        self.folder, self.source, self.values, self.match, self.lines = folder, source, values, match, lines

    @torch.inference_mode()
    def __call__(self, unit: Any) -> dict[str, np.ndarray]:
        first, last = int(unit["first"][0]), int(unit["last"][0])
        values: dict[str, np.ndarray] = ray.get(self.values)
        match: np.ndarray = ray.get(self.match)
        keypoints = KeypointLayer(load_body_of(self.folder), BODY33)
        at = sum(rows for _, _, rows in self.source.groups[:first])
        made = []
        for file, group, rows in self.source.groups[first:last]:
            columns = [*IDENTITY, "bbox_xywh_px", "keypoints_2d_px", "image_size"]
            table = read_group(self.source.path, file, group, columns)
            made.append(_label(table, values, match[at : at + rows], keypoints, self.source.joint_set))
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
    table: pa.Table, foreign: dict[str, np.ndarray], match: np.ndarray, keypoints: KeypointLayer, joint_set: JointSet
) -> pa.Table:
    rows = len(table)
    given = tables.numpy_column(table, "keypoints_2d_px", missing=0.0).reshape(rows, len(joint_set), 3)
    given = to_body33(np.nan_to_num(given).astype(np.float32), joint_set)
    bbox = tables.numpy_column(table, "bbox_xywh_px", missing=0.0)
    found = np.maximum(match, 0)
    values = {name: foreign[name][found] for name in PARAMETERS}
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
