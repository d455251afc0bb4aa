"""Where bodies come from: the user's own file, or the open body, built once and cached."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mesh_lib.body.files import Body, convert_pkl, load_body
from mesh_lib.body.open_body import BUILDER, Resolution, build_open_body
from mesh_lib.render.body_sheet import body_sheet
from pipelines import storage
from pipelines.runs import BODY

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


def body_npz(path: str | Path) -> bytes:
    """A body file as the .npz that run folders keep; a licensed .pkl is converted."""
    return _pack(convert_pkl(path)) if Path(path).suffix == ".pkl" else Path(path).read_bytes()


def put_body(path: str | Path, folder: str) -> None:
    """Keep a body in a run folder: what a run makes speaks of it, on whatever machine."""
    storage.write_bytes(storage.join(folder, BODY), body_npz(path))


def load_body_of(folder: str) -> Body:
    """The body that stands in a run folder."""
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / BODY
        local.write_bytes(storage.read_bytes(storage.join(folder, BODY)))
        return load_body(local)


def copy_body(source: str | Path, out: str | Path) -> None:
    """Write a body file in the format that the new name asks for: .npz or .pkl."""
    with np.load(io.BytesIO(body_npz(source)), allow_pickle=False) as arrays:
        save_body(dict(arrays), out)


def draw_sheet(body: Body, path: str | Path) -> None:
    """Picture (.png) of the body: T-pose, shape components, bends."""
    picture = cv2.imencode(".png", body_sheet(body)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    storage.write_bytes(str(path), picture.tobytes())


def save_body(arrays: dict[str, Any], path: str | Path) -> None:
    """Write a body file whole or not at all: .npz, or the .pkl of plain arrays that `smplx` wants of SMPL."""
    storage.write_bytes(str(path), pickle.dumps(arrays) if str(path).endswith(".pkl") else _pack(arrays))


def _pack(arrays: dict[str, Any]) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    return data.getvalue()
