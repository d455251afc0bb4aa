"""Where bodies come from: the user's own file, or the open body, built once and cached."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mesh_lib.body.files import load_body
from mesh_lib.body.open_body import BUILDER, Resolution, build_open_body
from pipelines import storage

NAMES: dict[Resolution, str] = {"full": "OPEN_SMPL", "low": "OPEN_SMPL_LOW"}


def cache_folder() -> Path:
    """ANNOMESH_CACHE, else annomesh under XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("ANNOMESH_CACHE") or Path(base) / "annomesh")


def find_body(name: str) -> Path:
    """`full` or `low` for the open body (built on first use), or the path of a body file.

    Raises BodyModelMissing, with the fix, for a path where nothing is, ValueError for a file that is no body.
    """
    if name == "full" or name == "low":
        return cached_body(name)
    load_body(name)
    return Path(name)


def cached_body(resolution: Resolution) -> Path:
    """The open body in the cache. Another builder or anny has another folder: a stale file is never used."""
    path = cache_folder() / f"body-{BUILDER}-anny-{version('anny')}" / f"{NAMES[resolution]}.npz"
    if not path.is_file():
        logging.getLogger("anny").setLevel(logging.WARNING)  # it tells of each step, and its compiler prints
        with contextlib.redirect_stdout(io.StringIO()):
            arrays = build_open_body(resolution)
        save_body(arrays, path)
    return path


def save_body(arrays: dict[str, Any], path: Path) -> None:
    """Write a body file whole or not at all: .npz, or the .pkl of plain arrays that `smplx` wants of SMPL."""
    data = io.BytesIO()
    if path.suffix == ".pkl":
        pickle.dump(arrays, data)
    else:
        np.savez_compressed(data, **arrays)
    storage.write_bytes(str(path), data.getvalue())
