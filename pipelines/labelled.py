"""Samples with labels in place of a truth: what an estimator g is trained on in the wild.

Labels are joined to their samples as the shards are read, row group by row group. Nothing but keys is ever in memory
whole, and those in the driver alone (24 bytes a sample, once): what a reader is told is in which row groups of the
labels the rows of each row group of the samples lie.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mesh_lib import tables
from pipelines import storage
from pipelines.join import Lookup, row_groups
from pipelines.label_files import LABELS, status_of
from pipelines.runs import BODY
from pipelines.sources import LOOKS, Labels, Source, read_group

Unlabelled = Literal["drop", "error"]
COLUMNS = ("global_orient", "body_pose", "betas", "transl_m", "focal_px", "princpt_px")
"""What is taken from a label. Labels of others and the open world's truth have them too."""
SMPL = {f"smpl_{name}": name for name in COLUMNS[:4]}
NONE = "no_row"
"""Why a sample has no label that no row of the labels speaks of."""
Item = TypeVar("Item")
Found = TypeVar("Found")


def with_labels(source: Source, labels: str, *, unlabelled: Unlabelled) -> tuple[Source, Counter[str]]:
    """The labelled samples of a dataset, and the number of the others by reason: their status, or NONE.

    `labels` is a run folder of annotate or import_labels, or a folder of Parquet files with COLUMNS (the open world's
    truth). Raises ValueError where these are not labels, one sample has two, or none has any; with `unlabelled` "error"
    also where one has none.
    """
    folder, files = label_files(labels)
    groups = row_groups(folder, files)
    keys = [np.asarray(k) for k in _each(groups, lambda group: _keys(folder, *group))]
    known, place = _sorted(keys, where=folder)
    asked = [(file, group) for file, group, _ in source.groups]
    kept, parts, left = [], [], []
    for shard, wanted in zip(source.groups, _each(asked, lambda group: _keys(source.path, *group)), strict=True):
        at = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
        has = known[at] == wanted if len(known) else np.zeros(len(wanted), bool)
        left.append(wanted[~has])
        if has.any():
            kept.append((*shard[:2], int(has.sum())))
            parts.append(tuple(groups[i] for i in np.unique(place[at[has]])))
    dropped = _reasons(folder, np.concatenate(left))
    if not kept:
        raise ValueError(f"none of the labels in {labels} is of a sample in {source.path}")
    if dropped and unlabelled == "error":
        told = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        raise ValueError(
            f"{dropped.total()} of {source.rows} samples in {source.path} have no label in {labels}: {told}\n"
            "  fix: label them, or leave them out with --training.unlabelled drop"
        )
    return replace(source, groups=tuple(kept), has_3d=True, labels=Labels(folder, tuple(parts))), dropped


def body_of(labels: str) -> str | None:
    """SHA-256 of the body that labels speak of, which stands in their run folder or above it; None where none does."""
    folder = storage.absolute(labels)
    for _ in range(3):
        if storage.exists(path := storage.join(folder, BODY)):
            return hashlib.sha256(storage.read_bytes(path)).hexdigest()
        folder = folder.rstrip("/").rpartition("/")[0]
    return None


def labelled_rows(table: pa.Table, labels: Labels, group: int) -> pa.Table:
    """The rows of a row group that have a label, its numbers and its camera in place of the truth's."""
    lookup = Lookup(labels.path, labels.parts[group], COLUMNS)
    rows = lookup.find(table.column("sample_key").to_numpy())
    table, found = table.filter(pa.array(rows >= 0)), lookup.take(rows[rows >= 0])
    if empty := [name for name in COLUMNS if found.column(name).null_count]:
        raise ValueError(f"labels in {labels.path} have no {', '.join(empty)}\n  fix: leave such rows out of them")
    for name, source in SMPL.items():
        table = _set(table, name, found.column(source))
    table = _set(table, "smpl_valid", pa.array(np.ones(len(table), bool)))
    table = _set(table, "keypoints_3d_m", pa.nulls(len(table), table.schema.field("keypoints_3d_m").type))
    return _set(table, "camera", _camera(found))


def _set(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)


def _camera(labels: pa.Table) -> pa.Array:
    rows = len(labels)
    given = {name: labels.column(name).combine_chunks() for name in ("focal_px", "princpt_px")}
    columns = [
        pa.concat_arrays(given[f.name].chunks) if isinstance(given.get(f.name), pa.ChunkedArray) and rows
        else pa.nulls(rows, f.type) if f.name not in given or not rows else given[f.name]
        for f in tables.CAMERA
    ]  # fmt: skip
    return pa.StructArray.from_arrays(columns, fields=list(tables.CAMERA))


def label_files(labels: str) -> tuple[str, list[str]]:
    """Folder and files of the labels in a run folder, or in any folder of Parquet files; of none that is quarantined.

    Raises ValueError where there are none.
    """
    labels = storage.absolute(labels)
    made = storage.join(labels, LABELS)
    folder = made if storage.exists(made) else labels
    good = [path for path in storage.parquet_files(folder, what="labels") if status_of(path) in ("", tables.OK)]
    if good:
        _check_columns(folder, good[0])
    return folder, good


def _check_columns(folder: str, file: str) -> None:
    """Raises ValueError for a file whose columns are not those of labels."""
    system, _ = storage.resolve(folder)
    schema = pq.read_schema(file, filesystem=system)
    if absent := {"sample_key", *COLUMNS} - {*schema.names}:
        raise ValueError(f"{folder} does not hold labels: its files lack {', '.join(sorted(absent))}")
    wrong = [name for name in COLUMNS if schema.field(name).type != tables.PSEUDO_GT.field(name).type]
    if wrong or schema.field("sample_key").type != pa.int64():
        told = ", ".join(f"{name} is {schema.field(name).type}" for name in wrong) or "sample_key is not int64"
        raise ValueError(
            f"the labels in {folder} are of other types than ours: {told}\n"
            f"  fix: write them as {tables.PSEUDO_GT.field(COLUMNS[0]).type} and so on (docs/data.md), with pyarrow"
        )


def _keys(path: str, file: str, group: int) -> np.ndarray:
    return read_group(path, file, group, ("sample_key",)).column("sample_key").to_numpy()


def _sorted(keys: Sequence[np.ndarray], *, where: str) -> tuple[np.ndarray, np.ndarray]:
    """All keys in order, and the row group of each. Raises ValueError where one is there twice."""
    every = np.concatenate([np.empty(0, np.int64), *keys])
    group = np.repeat(np.arange(len(keys), dtype=np.int32), [len(k) for k in keys])
    order = np.argsort(every, kind="stable")
    every = every[order]
    if doubled := int((every[1:] == every[:-1]).sum()):
        raise ValueError(f"{doubled} samples have two labels in {where}\n  fix: jobs/verify.py names them")
    return every, group[order]


def _reasons(folder: str, left: np.ndarray) -> Counter[str]:
    """How many of these samples are quarantined, by status, and how many the labels do not know at all."""
    found: Counter[str] = Counter()
    system, _ = storage.resolve(folder)
    for file in storage.parquet_files(folder, what="labels") if len(left) else ():
        if (status := status_of(file)) not in ("", tables.OK):
            keys = pq.read_table(file, filesystem=system, columns=["sample_key"]).column("sample_key").to_numpy()
            found[status] += int(np.isin(keys, left).sum())
    found[NONE] = len(left) - found.total()
    return +found


def _each(items: Sequence[Item], work: Callable[[Item], Found]) -> list[Found]:
    with ThreadPoolExecutor(LOOKS) as pool:
        return list(pool.map(work, items))
