"""What pictures are called in files of others: which picture a name is of, and that no name is of two."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from mesh_lib.tables import sample_key

DEPTH = 6
"""So many last parts of a path are compared: MPI-INF-3DHP's S1/Seq1/imageFrames/video_0/frame_000001.jpg has five."""


def path_parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def picture_of(uri: str | None, dataset: str, split: str, image_id: str) -> str:
    """What tells a picture from all others: where it lies, else what its dataset calls it."""
    return uri or f"{dataset}/{split}/{image_id}"


def file_name(uri: str | None, image_id: str, root: str) -> str:
    """What an export calls a picture: its path below `root`, by default below its own folder; without a path its id,
    whole, since parts of it repeat from sequence to sequence."""
    if not uri:
        return image_id
    path, folder = uri.replace("\\", "/"), root.rstrip("/") + "/"
    return path.removeprefix(folder) if root and path.startswith(folder) else path.rpartition("/")[2]


def common_folder(first: str, second: str) -> str:
    """The deepest folder that two files lie below."""
    shared = []
    for one, other in zip(first.split("/"), second.split("/"), strict=False):
        if one != other:
            break
        shared.append(one)
    return "/".join(shared) or "/"


class Suffixes:
    """Hashes of the last 1, 2 … DEPTH parts of names, 0 where a name has fewer, and of the pictures that they are of:
    8 bytes each."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, name: str, picture: str) -> None:
        parts = path_parts(name)
        for depth in range(1, DEPTH + 1):
            self._hashes.append(sample_key("/".join(parts[-depth:])) if depth <= len(parts) else 0)
        self._hashes.append(sample_key(picture))

    def table(self) -> np.ndarray:
        """(N, DEPTH + 1), the picture last."""
        return np.array(self._hashes, np.int64).reshape(-1, DEPTH + 1)


class UniqueNames:
    """Finds a name that is of two pictures. It keeps 16 bytes a picture, and looks whenever they have doubled."""

    def __init__(self) -> None:
        self._known = np.empty((0, 2), np.int64)
        self._new: list[np.ndarray] = []

    def add(self, names: Sequence[str], pictures: Sequence[str]) -> int | None:
        """Names, and the pictures that they are of; the hash of a name of two pictures, as soon as one shows."""
        pairs = {(sample_key(name), sample_key(picture)) for name, picture in zip(names, pictures, strict=True)}
        self._new.append(np.array(sorted(pairs), np.int64).reshape(-1, 2))
        return self.find() if sum(map(len, self._new)) > len(self._known) else None

    def find(self) -> int | None:
        """The hash of a name of two pictures among all that were added."""
        self._known, self._new = np.unique(np.concatenate([self._known, *self._new]), axis=0), []
        found = two_pictures(self._known)
        return None if found is None else int(self._known[found[0], 0])


def two_pictures(pairs: np.ndarray) -> tuple[int, int] | None:
    """Rows of (name, picture) hashes, (N, 2), that have one name and different pictures; None where there are none."""
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    name, picture = pairs[order].T
    found = np.flatnonzero((name[1:] == name[:-1]) & (picture[1:] != picture[:-1]))
    return (int(order[found[0]]), int(order[found[0] + 1])) if len(found) else None
