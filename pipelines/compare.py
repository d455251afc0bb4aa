"""Two sets of labels of the same samples, compared row by row: what changed since the older one."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import torch

from mesh_lib import tables
from mesh_lib.body.joints import BODY33
from mesh_lib.metrics.joints import mpjpe_mm, pa_mpjpe_mm
from pipelines import storage
from pipelines.label_files import LABELS

COLUMNS = ["sample_key", "joints_3d_m", "reprojection_error_px", "flags"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What changed from the older labels to the newer ones."""

    both: int
    """Samples that have a row in both sets, labelled or not."""
    only_new: int
    only_old: int
    statuses: Counter[tuple[str, str]]
    """Those in both by (status in the older set, status in the newer)."""
    pairs: pa.Table
    """One row for each sample that both sets label: `sample_key`; `pa_mm` and `root_mm`, the mean distance of the
    BODY33 joints once the newer label is rotated, scaled and shifted onto the older, and with only the pelvis of one
    laid on the other's; `error_px` and `flags` of the newer label, `error_px_old` and `flags_old` of the older,
    `change_px` from that error to this."""
    lineage: list[tuple[str, str, str]]
    """(name, older, newer) of what differs in the files' metadata."""

    @property
    def flags(self) -> list[tuple[str, int, int]]:
        """(flag, older labels that carry it, newer), of the samples that both label."""
        old, new = (
            Counter(flag for flags in self.pairs[name].to_pylist() for flag in flags) for name in ("flags_old", "flags")
        )
        return [(flag, old[flag], new[flag]) for flag in sorted({*old, *new})]

    @property
    def other_pictures(self) -> bool:
        """The runs read different files of samples: the same sample ids need not be the same pictures."""
        return any(name == "samples_fingerprint" for name, _, _ in self.lineage)

    def percentile(self, name: str, q: float) -> float | None:
        """Of a column of `pairs`; None where no sample has a number in it."""
        values = self.pairs[name].to_numpy()
        values = values[np.isfinite(values)]
        return float(np.percentile(values, q)) if len(values) else None

    def most_different(self, count: int) -> list[int]:
        """Keys of the samples whose labels lie furthest apart, pelvis on pelvis; furthest first."""
        order = np.argsort(-self.pairs["root_mm"].to_numpy(), kind="stable")
        return self.pairs["sample_key"].to_numpy()[order[:count]].tolist()


def compare_labels(*, labels: str, against: str) -> Comparison:
    """Compare the labels of a run with those of an older one.

    Streams the newer set; holds the older one's joints in memory, 0.4 GB a million labels.
    Raises ValueError where the two share no sample, or a set is not of our joints.
    """
    new, old = _open(labels), _open(against)
    rows_new, rows_old = _statuses(new), _statuses(old)
    _, mine, theirs = np.intersect1d(
        rows_new["sample_key"].to_numpy(), rows_old["sample_key"].to_numpy(), return_indices=True
    )
    if not len(mine):
        raise ValueError(
            f"{labels} and {against} share no sample: none of the {len(rows_new):,} samples of the one is among the "
            f"{len(rows_old):,} of the other\n  fix: compare labels of the same samples"
        )
    statuses = pa.table(
        {"old": rows_old["status"].take(pa.array(theirs)), "new": rows_new["status"].take(pa.array(mine))}
    )
    counted = statuses.group_by(["old", "new"]).aggregate([([], "count_all")]).to_pylist()
    return Comparison(
        both=len(mine),
        only_new=len(rows_new) - len(mine),
        only_old=len(rows_old) - len(mine),
        statuses=Counter({(row["old"], row["new"]): row["count_all"] for row in counted}),
        pairs=pa.concat_tables(_differences(a, b) for a, b in _labelled_in_both(new, old)),
        lineage=_lineage(new.schema, old.schema),
    )


def _open(labels: str) -> ds.Dataset:
    """Raises ValueError where there are no labels, or they are of other joints."""
    folder = storage.join(labels, LABELS)
    system, inner = storage.resolve(folder)
    storage.parquet_files(folder, what="labels")
    dataset = ds.dataset(inner, filesystem=system, partitioning="hive")
    if _metadata(dataset.schema).get("joint_names") != ",".join(BODY33.names):
        raise ValueError(f"the labels in {labels} do not have the joints of {BODY33.name}: they cannot be compared")
    return dataset


def _statuses(dataset: ds.Dataset) -> pa.Table:
    return dataset.to_table(columns={"sample_key": ds.field("sample_key"), "status": ds.field("status").cast("string")})


def _labelled_in_both(new: ds.Dataset, old: ds.Dataset) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Rows (newer, older) of the samples that both sets label, a piece of the newer set at a time, the first empty."""
    ok = ds.field("status") == tables.OK
    known = old.to_table(columns=COLUMNS, filter=ok).sort_by("sample_key")
    keys = known["sample_key"].to_numpy()
    yield known[:0], known[:0]
    for batch in new.to_batches(columns=COLUMNS, filter=ok) if len(known) else ():
        made = pa.Table.from_batches([batch])
        wanted = made["sample_key"].to_numpy()
        at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        shared = keys[at] == wanted
        yield made.filter(pa.array(shared)), known.take(pa.array(at[shared]))


def _differences(new: pa.Table, old: pa.Table) -> pa.Table:
    joints = {"predicted_m": _from_pelvis(new), "target_m": _from_pelvis(old)}
    error_px, error_px_old = (table["reprojection_error_px"].to_numpy() for table in (new, old))
    return pa.table(
        {
            "sample_key": new["sample_key"],
            "pa_mm": pa_mpjpe_mm(**joints).numpy(),
            "root_mm": mpjpe_mm(**joints).numpy(),
            "error_px": error_px,
            "error_px_old": error_px_old,
            "change_px": error_px - error_px_old,
            "flags": new["flags"],
            "flags_old": old["flags"],
        }
    )


def _from_pelvis(table: pa.Table) -> torch.Tensor:
    """Joints (rows, BODY33, 3), double: bodies stand 50 m away, their differences are millimetres."""
    joints_m = torch.from_numpy(tables.numpy_column(table, "joints_3d_m").astype(np.float64)).unflatten(1, (-1, 3))
    root = BODY33.index("pelvis")
    return joints_m - joints_m[:, root : root + 1]


def _lineage(new: pa.Schema, old: pa.Schema) -> list[tuple[str, str, str]]:
    """What differs in the metadata; of a recipe, the settings that differ."""
    ours, theirs = _flat(_metadata(new)), _flat(_metadata(old))
    return [
        (name, theirs.get(name, "–"), ours.get(name, "–"))
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]


def _metadata(schema: pa.Schema) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in (schema.metadata or {}).items()}


def _flat(metadata: dict[str, str]) -> dict[str, str]:
    """With one line for each setting where a value, as the recipe, is settings."""
    return dict(line for name, value in metadata.items() for line in _settings(name, _read(value)))


def _read(value: str) -> Any:
    try:
        return ast.literal_eval(value) if value.startswith("{") else value
    except (ValueError, SyntaxError):
        return value


def _settings(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _settings(f"{name}.{key}", item)
    else:
        yield name, str(value)
