"""Rows of a Parquet dataset by sample key: what joins labels with the samples that they are of, as streams.

Of the dataset only the keys are in memory (16 bytes a row); rows come from row groups, the last few of which are kept:
labels and samples lie in much the same order, so each group is read about once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.sources import LOOKS, read_group

KEPT = 8
"""Row groups."""


def row_groups(path: str, files: Sequence[str]) -> list[tuple[str, int]]:
    """(file, row group) of all that hold rows, in order."""
    system, _ = storage.resolve(path)

    def count(file: str) -> int:
        return storage.patiently(path, lambda: pq.read_metadata(file, filesystem=system).num_row_groups)

    with ThreadPoolExecutor(LOOKS) as pool:
        return [(file, i) for file, count in zip(files, pool.map(count, files), strict=True) for i in range(count)]


class Lookup:
    """Finds rows by their sample key. `groups` are (file, row group) of the dataset at `path`."""

    def __init__(self, path: str, groups: Sequence[tuple[str, int]], columns: Sequence[str]) -> None:
        self.path, self.groups, self.columns = path, list(groups), ["sample_key", *columns]
        keys = [read_group(path, *group, ["sample_key"]).column("sample_key").to_numpy() for group in self.groups]
        self.order = np.argsort(found := np.concatenate([np.empty(0, np.int64), *keys]), kind="stable")
        self.keys = found[self.order]
        self.starts = np.cumsum([0, *map(len, keys)])
        self.kept: OrderedDict[int, pa.Table] = OrderedDict()

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The dataset's row for each key, counted through all its groups; -1 where it has none."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.order[at], -1)

    def take(self, rows: np.ndarray) -> pa.Table:
        """These rows (as `find` counts them), in their order."""
        group_of = np.searchsorted(self.starts, rows, side="right") - 1
        parts, places = [], []
        for group in np.unique(group_of):
            mine = np.flatnonzero(group_of == group)
            parts.append(self._group(int(group)).take(pa.array(rows[mine] - self.starts[group])))
            places.append(mine)
        if not parts:
            return read_group(self.path, *self.groups[0], self.columns).slice(0, 0)
        return pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(places))))

    def _group(self, group: int) -> pa.Table:
        if group not in self.kept:
            self.kept[group] = read_group(self.path, *self.groups[group], self.columns)
            while len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        self.kept.move_to_end(group)
        return self.kept[group]
