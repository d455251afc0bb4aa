"""Labels of others as arrays: what their files say, and what each label can be found by."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mesh_lib import tables
from mesh_lib.datasets import json_stream
from mesh_lib.formats import eft, neural_annot, spin
from mesh_lib.geometry.cameras import CROP_FOCAL_PX
from pipelines import storage
from pipelines.npz import read_arrays, read_npz
from pipelines.picture_names import Suffixes

Kind = Literal["neuralannot", "eft", "spin"]
PARAMETERS = {"rotvec": (24, 3), "betas": (10,), "transl_m": (3,), "focal_px": (2,), "princpt_px": (2,), "box": (3,)}
"""What is kept of a label of others, and its shape; `box` is the centre and edge of the square that it speaks of."""
NO_ID = tuple(tables.sample_key(text) for text in ("", "0"))
"""What files write where there is no annotation id."""


@dataclass(frozen=True)
class Foreign:
    """Labels of others: arrays in the order of their file, 4 bytes a number."""

    path: str
    person: np.ndarray | None
    """(N,) hashes of the annotations' ids; None where these tell nobody apart."""
    picture: np.ndarray | None
    """Where they do not: the hashes of the pictures' names (`Suffixes`)."""
    values: dict[str, np.ndarray]
    """PARAMETERS; NaN where a file does not say."""

    def __len__(self) -> int:
        return len(self.values["rotvec"])


def read_foreign(kind: Kind, path: str, *, fits: str | None = None) -> Foreign:
    """A file of labels; `fits` is SPIN's file of fits where they are not in the dataset's own.

    Raises ValueError, in one message, for one that is not of this kind.
    """
    files = storage.Files()
    for needed in (path, fits):
        if needed and not files.exists(needed):
            raise ValueError(f"no labels at {needed}")
    if fits and kind != "spin":
        raise ValueError(f"fits beside a dataset's file are SPIN's; {kind} has none\n  fix: leave out --fits")
    if kind == "spin":
        with read_npz(path) as arrays:
            if not fits:
                return _collect(path, map(_from_spin, spin.entries(arrays, where=path)))
            with read_arrays(fits) as found:
                whole = spin.with_fits(arrays, found, where=fits, dataset=path)
                return _collect(path, map(_from_spin, spin.entries(whole, where=f"{path} with {fits}")))
    with files.open(path) as stream:
        if kind == "neuralannot":
            members = json_stream.members(stream, where=path)
            return _collect(path, (neural_annot.read_entry(key, entry, where=path) for key, entry in members))
        found = json_stream.entries(stream, "data", where=path, expected='\n  expected: EFT, {"ver", "data": [...]}')
        return _collect(path, (eft.read_entry(entry, where=path) for _, _, entry in found))


def _from_spin(entry: dict[str, Any]) -> dict[str, Any]:
    """SPIN's camera, where the file has it; else it is solved for from the sample's keypoints."""
    side, cam, transl_m = entry["side"], entry["cam"], np.full(3, np.nan)
    if cam is not None and np.isfinite(cam).all() and cam[0] > 0:
        transl_m = np.array([cam[1], cam[2], 2 * CROP_FOCAL_PX / (spin.INPUT_PX * cam[0])])
    return {
        "file_name": entry["file_name"],
        "rotvec": entry["rotvec"],
        "betas": entry["betas"],
        "transl_m": transl_m,
        "focal_px": np.full(2, CROP_FOCAL_PX * side / spin.INPUT_PX),
        "princpt_px": entry["center"],
        "box": np.array([*entry["center"], side]),
    }


def _collect(path: str, entries: Iterable[dict[str, Any]]) -> Foreign:
    person, picture = array("q"), Suffixes()
    values: dict[str, list[np.ndarray]] = {name: [] for name in PARAMETERS}
    chunks = {name: [np.empty((0, *shape), np.float32)] for name, shape in PARAMETERS.items()}
    named = False
    for number, entry in enumerate(entries, start=1):
        person.append(tables.sample_key(entry.get("person_id", "")))
        if "file_name" in entry:
            named = True
            picture.add(entry["file_name"], entry["file_name"])
        for column, shape in PARAMETERS.items():
            values[column].append(np.asarray(entry.get(column, np.full(shape, np.nan)), np.float32))
        if number % 65536 == 0:
            _stack(values, chunks)
    _stack(values, chunks)
    ids = np.array(person, np.int64)
    by_picture = named and _says_nothing(ids)
    return Foreign(
        path=path,
        person=None if by_picture else ids,
        picture=picture.table() if by_picture else None,
        values={name: np.concatenate(parts) for name, parts in chunks.items()},
    )


def _says_nothing(ids: np.ndarray) -> bool:
    """Whether annotation ids tell nobody apart: none, 0, or one and the same throughout."""
    found = np.unique(ids)
    return len(found) == 0 or (len(found) == 1 and (len(ids) > 1 or found[0] in NO_ID))


def _stack(values: dict[str, list[np.ndarray]], chunks: dict[str, list[np.ndarray]]) -> None:
    """Small arrays cost more than their numbers: they become rows of large ones."""
    for name, rows in values.items():
        if rows:
            chunks[name].append(np.stack(rows))
            rows.clear()
