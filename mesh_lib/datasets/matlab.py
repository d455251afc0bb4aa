"""MATLAB files of datasets: up to version 7 through scipy; version 7.3 is HDF5, and is read through h5py."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

from mesh_lib.datasets import mat5
from mesh_lib.datasets.people import Files

DAMAGED = (
    ValueError, TypeError, IndexError, KeyError, OSError, EOFError, NotImplementedError, OverflowError, MemoryError,
    MatReadError, zlib.error, struct.error,
)  # fmt: skip
"""What scipy raises on files that are cut, altered or no MATLAB files at all."""


def load_mat(files: Files, path: str, *names: str, expected: str) -> dict[str, np.ndarray]:
    """The named variables of a MATLAB file. Raises ValueError, which says what was `expected`, for any other file."""
    try:
        with files.open(path) as stream:
            data = stream.read()
        mat5.check(data, names)
        content = scipy.io.loadmat(io.BytesIO(data), variable_names=names)
    except FileNotFoundError:
        raise ValueError(f"no file at {path}\n  expected: {expected}") from None
    except DAMAGED as error:
        raise ValueError(
            f"{path} is no readable MATLAB file (version 5 to 7): {type(error).__name__}: {error}\n"
            f"  expected: {expected}\n  fix: fetch the file again"
        ) from None
    if lacking := [name for name in names if not isinstance(content.get(name), np.ndarray)]:
        raise ValueError(f"{path} has no {', '.join(lacking)}\n  expected: {expected}")
    return {name: content[name] for name in names}


def entry(cell: Any, field: str, *, where: str) -> np.ndarray:
    """A field of the one struct that a cell holds. Raises ValueError where there is none."""
    if isinstance(cell, np.ndarray) and cell.shape == (1, 1) and field in (cell.dtype.names or ()):
        return cell[field][0, 0]
    raise ValueError(f"{where} is not a struct with `{field}`")


@contextmanager
def open_hdf5(files: Files, path: str, *names: str, expected: str) -> Iterator[dict[str, Any]]:
    """The named data sets of a MATLAB 7.3 file, to be read slice by slice; MATLAB's axes come in reverse order.

    Raises ValueError, also for what fails while they are read.
    """
    import h5py  # here alone, so that no other dataset waits for it

    try:
        with files.open(path) as stream, h5py.File(stream, "r") as file:
            found = {name: file[name] for name in names if isinstance(file.get(name), h5py.Dataset)}
            if lacking := [name for name in names if name not in found]:
                raise ValueError(f"it has no {', '.join(lacking)}")
            yield found
    except FileNotFoundError:
        raise ValueError(f"no file at {path}\n  expected: {expected}") from None
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is no readable MATLAB file (version 7.3, HDF5): {error}\n"
            f"  expected: {expected}\n  fix: fetch the file again"
        ) from None
