"""Rows of numbers by a key, kept on disk: what a dataset's second file says of the people of its first."""

from __future__ import annotations

import tempfile
from array import array as compact
from collections.abc import Iterable
from types import TracebackType

import numpy as np

from mesh_lib.tables import sample_key


class RowFile:
    """Rows of one width; memory holds 16 bytes a row. To be used in a `with`, which removes the file."""

    def __init__(self, rows: Iterable[tuple[str, np.ndarray]], *, width: int) -> None:
        self.width = width
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        keys = compact("q")
        try:
            for key, row in rows:
                assert row.shape == (width,), row.shape
                self.file.write(row.astype(np.float64).tobytes())
                keys.append(sample_key(key))
            self.file.flush()
        except BaseException:
            self.file.close()
            raise
        unsorted = np.array(keys, np.int64)
        self.order = np.argsort(unsorted, kind="stable")
        self.keys = unsorted[self.order]

    def __enter__(self) -> RowFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def __len__(self) -> int:
        return len(self.keys)

    def of(self, key: str) -> np.ndarray | None:
        """The row of a key (the last of those that share it); None where there is none."""
        wanted = sample_key(key)
        at = int(np.searchsorted(self.keys, wanted, side="right")) - 1
        if at < 0 or self.keys[at] != wanted:
            return None
        size = self.width * 8
        self.file.seek(int(self.order[at]) * size)
        return np.frombuffer(self.file.read(size), np.float64).copy()
