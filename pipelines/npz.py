"""Large .npz files, written and read array by array."""

from __future__ import annotations

import contextlib
import json
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from mesh_lib.formats.batch import Arrays
from pipelines import storage


class NpzWriter:
    """An .npz of arrays that grow batch by batch: on disk, not in memory, until they are put together."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.parts: dict[str, tuple[BinaryIO, np.dtype, tuple[int, ...]]] = {}
        self.texts: dict[str, BinaryIO] = {}
        self.longest: dict[str, int] = {}
        self.rows = 0

    def __enter__(self) -> NpzWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def add(self, columns: dict[str, np.ndarray]) -> None:
        """Append a batch: the same names, kinds and shapes each time; strings as object arrays."""
        self.rows += len(next(iter(columns.values())))
        for name, values in columns.items():
            if values.dtype == object:
                if name not in self.texts:
                    self.texts[name] = self._scratch()
                lines = [str(value) for value in values]
                self.longest[name] = max(self.longest.get(name, 1), *map(len, lines))
                self.texts[name].write("".join(json.dumps(line) + "\n" for line in lines).encode())
                continue
            stored = values.astype(np.float32) if values.dtype == np.float64 else values
            if name not in self.parts:
                self.parts[name] = (self._scratch(), stored.dtype, stored.shape[1:])
            self.parts[name][0].write(np.ascontiguousarray(stored).tobytes())

    def _scratch(self) -> Any:
        return self.stack.enter_context(tempfile.TemporaryFile())

    def pop_group(self, prefix: str) -> dict[str, np.ndarray]:
        """Take out the arrays called prefix.name, into memory."""
        names = [name for name in self.parts if name.startswith(prefix + ".")]
        out = {}
        for name in names:
            stream, dtype, shape = self.parts.pop(name)
            stream.seek(0)
            out[name.removeprefix(prefix + ".")] = np.frombuffer(stream.read(), dtype).reshape(-1, *shape).copy()
        return out

    def write(self, out: BinaryIO, extra: dict[str, Any] | None = None) -> None:
        """Put the file together."""
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, (stream, dtype, shape) in self.parts.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    _header(member, dtype, (self.rows, *shape))
                    stream.seek(0)
                    while chunk := stream.read(1 << 22):
                        member.write(chunk)
            for name, stream in self.texts.items():
                dtype = np.dtype(f"<U{self.longest[name]}")
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    _header(member, dtype, (self.rows,))
                    stream.seek(0)
                    for line in stream:
                        member.write(np.array([json.loads(line)], dtype).tobytes())
            for name, value in (extra or {}).items():
                data = BytesIO()
                np.save(data, value, allow_pickle=True)
                archive.writestr(f"{name}.npy", data.getvalue())


def _header(member: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    npy.write_array_header_1_0(member, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})


@contextlib.contextmanager
def read_npz(path: str) -> Iterator[Arrays]:
    """The arrays of an .npz. Nothing is unpickled.

    Raises ValueError for a file that is no .npz, and for an array of objects.
    """
    with read_arrays(path) as arrays:
        if isinstance(arrays, np.ndarray):
            raise ValueError(f"{path} cannot be read: it is one array, not an .npz of several")
        yield arrays


@contextlib.contextmanager
def read_arrays(path: str) -> Iterator[np.ndarray | Arrays]:
    """The one array of a .npy, or those of an .npz; as safe as read_npz."""
    with ExitStack() as stack:
        stream = stack.enter_context(_read(path, lambda: storage.Files().open(path)))
        file = _read(path, lambda: np.load(stream, allow_pickle=False))
        if isinstance(file, np.ndarray):
            yield file
            return
        stack.callback(file.close)
        yield lambda name: _read(path, lambda: file[name]) if name in file.files else None


def _read(path: str, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
