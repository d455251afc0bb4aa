"""Auditing labels from their files alone: complete, unique, undamaged, finite, seen where they say, all of one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mesh_lib import tables
from mesh_lib.labels import SELF_CHECK_PX
from pipelines import runs, storage
from pipelines.annotate import SUCCESS
from pipelines.label_files import LABELLERS, LABELS, status_of
from pipelines.sources import open_source

LISTED = 5
"""Examples told of each kind of fault."""
ALWAYS = (
    "global_orient", "body_pose", "betas", "transl_m", "focal_px", "princpt_px", "joints_2d_px", "joints_3d_m",
)  # fmt: skip
"""Array columns that every label has; whatever else a label has must be finite too."""
OURS = ("crop_camera", "crop_box_xywh_px")
"""The same of labels that our own network made."""


@dataclass
class Audit:
    """What was looked at, and what is wrong with it."""

    always: tuple[str, ...] = ALWAYS + OURS
    rows: int = 0
    samples: int = 0
    files: int = 0
    bytes: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not self.faults

    def fault(self, kind: str, where: str, count: int = 1) -> None:
        self.faults[kind] += count
        told = self.examples.setdefault(kind, [])
        if len(told) < LISTED:
            told.append(where)

    def record(self) -> dict[str, Any]:
        return {
            "good": self.good, "rows": self.rows, "samples": self.samples, "files": self.files, "bytes": self.bytes,
            "statuses": dict(self.statuses), "faults": dict(self.faults), "examples": self.examples,
        }  # fmt: skip


def verify(out: str, *, samples: str | None = None) -> Audit:
    """Audit a run folder of annotate, row group by row group; beside one of these, only the keys (8 bytes a row, theirs
    and the samples') are in memory. `samples`: where the samples lie now, if not where the run says.

    Raises ValueError where there is nothing to audit.
    """
    if not storage.exists(storage.join(out, runs.RUN_FILE)):
        raise ValueError(f"{out} is not a run folder: it has no {runs.RUN_FILE}\n  fix: pass --out of jobs/annotate.py")
    record = storage.read_json(storage.join(out, runs.RUN_FILE))
    if record.get("job") not in LABELLERS:
        raise ValueError(f"{out} is a run of {record.get('job')}, not of {' or '.join(LABELLERS)}")
    audit = Audit(always=ALWAYS + (OURS if record["job"] == "annotate" else ()))
    if record.get("status") != "complete":
        audit.fault("incomplete", f"the run is {record.get('status')}; run the same command again")
    folder = storage.join(out, LABELS)
    listed = storage.list_files(folder, ".parquet") if storage.exists(folder) else []
    promised = _promises(audit, out, run=record)
    if promised:
        _, root = storage.resolve(folder)
        _check_files(audit, promised, {path.removeprefix(root).lstrip("/"): size for path, size in listed})
    lineage = promised["lineage"] if promised else {"run_id": record["run_id"]}
    keys = [_read_file(audit, folder, path, size, lineage=lineage) for path, size in listed]
    if promised:
        _check_counts(audit, promised)
    made = np.sort(np.concatenate([np.empty(0, np.int64), *keys]))
    if twice := int((made[1:] == made[:-1]).sum()):
        audit.fault("duplicate", f"sample_key {made[1:][made[1:] == made[:-1]][0]}", twice)
    _compare(audit, made, samples or record.get("samples") or record["settings"].get("samples"))
    return audit


def _promises(audit: Audit, out: str, *, run: dict[str, Any]) -> dict[str, Any] | None:
    """_SUCCESS.json, where it is there and says what it must."""
    path = storage.join(out, SUCCESS)
    if not storage.exists(path):
        audit.fault("incomplete", f"no {SUCCESS}")
        return None
    promised = storage.read_json(path)
    if absent := {"rows_in", "ok", "quarantined", "files", "lineage"} - promised.keys():
        audit.fault("incomplete", f"{SUCCESS} does not say {', '.join(sorted(absent))}")
        return None
    if promised["lineage"].get("run_id") != run["run_id"]:
        audit.fault("lineage", f"{SUCCESS} is of run {promised['lineage'].get('run_id')}, run.json of {run['run_id']}")
    return promised


def _check_files(audit: Audit, promised: dict[str, Any], there: dict[str, int]) -> None:
    named = {one["path"]: one["bytes"] for one in promised["files"]}
    for name in sorted(named.keys() - there.keys()):
        audit.fault("file_missing", name)
    for name in sorted(there.keys() - named.keys()):
        audit.fault("file_unknown", f"{name} is not in {SUCCESS}")
    for name in sorted(there.keys() & named.keys()):
        if there[name] != named[name]:
            audit.fault("file_size", f"{name} has {there[name]} bytes, not {named[name]}")


def _check_counts(audit: Audit, promised: dict[str, Any]) -> None:
    wanted = {"rows_in": promised["rows_in"], tables.OK: promised["ok"], **promised["quarantined"]}
    found = {"rows_in": audit.rows, tables.OK: 0, **audit.statuses}
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            audit.fault("count", f"{SUCCESS} says {name}: {wanted.get(name)}; the files hold {found.get(name)}")


def _read_file(audit: Audit, folder: str, path: str, size: int, *, lineage: dict[str, str]) -> np.ndarray:
    """Look at every row of a file; its keys."""
    system, _ = storage.resolve(folder)
    status = status_of(path)
    keys = [np.empty(0, np.int64)]
    audit.files, audit.bytes = audit.files + 1, audit.bytes + size
    if status != tables.OK and status not in tables.QUARANTINE:
        audit.fault("status", f"{path}: no status is called {status}")
    try:
        file = storage.patiently(
            folder, lambda: pq.ParquetFile(system.open_input_file(path), page_checksum_verification=True)
        )
        _check_schema(audit, path, file.schema_arrow, lineage=lineage)
        for group in range(file.num_row_groups):
            table = storage.patiently(folder, lambda group=group: file.read_row_group(group))
            keys.append(table.column("sample_key").to_numpy().astype(np.int64))
            audit.rows += len(table)
            audit.statuses[status] += len(table)
            _check_rows(audit, path, table, labelled=status == tables.OK)
    except (pa.ArrowException, OSError, KeyError) as error:
        audit.fault("damaged", f"{path}: {error}")
    return np.concatenate(keys)


def _check_schema(audit: Audit, path: str, schema: pa.Schema, *, lineage: dict[str, str]) -> None:
    wanted = {f.name: f.type for f in tables.PSEUDO_GT if f.name != "status"}  # which is the folder's name
    found = {f.name: f.type for f in schema if f.name != "status"}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            audit.fault("schema", f"{path}: {name} is {found.get(name)}, not {wanted.get(name)}")
    metadata = {k.decode(): v.decode("utf-8", "replace") for k, v in (schema.metadata or {}).items()}
    if metadata.get("schema_version") != tables.SCHEMA_VERSION:
        audit.fault("schema", f"{path}: schema version {metadata.get('schema_version')}, not {tables.SCHEMA_VERSION}")
    for name, value in lineage.items():
        if metadata.get(name) != value:
            audit.fault("lineage", f"{path}: {name} is {metadata.get(name)}, not {value}")


def _check_rows(audit: Audit, path: str, table: pa.Table, *, labelled: bool) -> None:
    ids = table.column("sample_id").to_pylist()
    keys = table.column("sample_key").to_pylist()

    def tell(kind: str, wrong: np.ndarray) -> None:
        if wrong.any():
            audit.fault(kind, f"{path}: {ids[int(np.flatnonzero(wrong)[0])]}", int(wrong.sum()))

    wrong = [name is None or tables.sample_key(name) != key for name, key in zip(ids, keys, strict=True)]
    tell("key", np.array(wrong, bool))
    if not labelled:
        full = [table.column(name).is_valid().to_numpy() for name in audit.always if name in table.column_names]
        tell("label_of_quarantined", np.any(full, axis=0))
        return
    finite = np.ones(len(table), bool)
    for one in table.schema:
        column = table.column(one.name)
        if pa.types.is_fixed_size_list(one.type):
            values = np.isfinite(tables.numpy_column(table, one.name, missing=0.0)).all(axis=1)
            finite &= values & (column.is_valid().to_numpy() | (one.name not in audit.always))
        elif pa.types.is_floating(one.type):
            finite &= np.isfinite(column.fill_null(0.0).to_numpy())
    tell("not_finite", ~finite)
    checks = column_or_nan(table, "camera_self_check_px")
    tell("camera_self_check", ~(checks < SELF_CHECK_PX))


def column_or_nan(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).fill_null(float("nan")).to_numpy()


def _compare(audit: Audit, made: np.ndarray, samples: str | None) -> None:
    if not samples:
        audit.fault("samples_unknown", "the run does not say which samples it labelled; pass --samples")
        return
    known = np.sort(np.concatenate([np.empty(0, np.int64), *_sample_keys(samples)]))
    audit.samples = len(known)
    if len(missing := np.setdiff1d(known, made, assume_unique=False)):
        audit.fault("sample_missing", f"sample_key {missing[0]}", len(missing))
    if len(foreign := np.setdiff1d(made, known, assume_unique=False)):
        audit.fault("sample_unknown", f"sample_key {foreign[0]}", len(foreign))


def _sample_keys(samples: str) -> Iterator[np.ndarray]:
    system, _ = storage.resolve(samples)
    for file in sorted({file for file, _, _ in open_source(samples).groups}):
        table = storage.patiently(
            samples, lambda file=file: pq.ParquetFile(system.open_input_file(file)).read(columns=["sample_key"])
        )
        yield table.column("sample_key").to_numpy()
