"""Body model files: our open .npz, licensed SMPL .npz, and licensed .pkl through an unpickler that runs nothing."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from mesh_lib.pickles import read_pkl

REQUIRED = ("v_template", "shapedirs", "J_regressor", "weights", "kintree_table", "f")
OPTIONAL = ("posedirs", "hands_mean")
BETAS = 10
SMPL_VERTICES = 6890
SMPL_KEYPOINT_VERTICES = {
    "nose": 331, "left_eye": 2802, "right_eye": 6262, "left_ear": 3489, "right_ear": 3990,
    "left_big_toe": 3292, "left_small_toe": 3313, "left_heel": 3468,
    "right_big_toe": 6691, "right_small_toe": 6713, "right_heel": 6858,
    "left_index1": 2274, "left_middle1": 2270, "left_ring1": 2293, "left_pinky1": 2173,
    "right_index1": 5595, "right_middle1": 5675, "right_ring1": 5636, "right_pinky1": 5655,
}  # fmt: skip
"""Vertices of SMPL's 6,890 that stand for keypoints without a joint, as Pose2Pose uses them."""


class BodyModelMissing(ValueError):
    """No body model file where one was asked for."""


@dataclass(frozen=True)
class Body:
    """A body model of the SMPL family, as its file holds it; y up, facing +z, x to the person's left; metres."""

    name: str
    v_template: np.ndarray
    """(V, 3)"""
    shapedirs: np.ndarray
    """(V, 3, 10), metres per standard deviation."""
    posedirs: np.ndarray | None
    """(V, 3, 9 (J - 1)) pose correctives; None where all are zero."""
    J_regressor: np.ndarray | scipy.sparse.csr_matrix
    """(J, V), sparse, rows sum to 1."""
    weights: np.ndarray
    """(V, J) skinning weights."""
    parents: tuple[int, ...]
    """Parent of each joint; -1 for the root."""
    faces: np.ndarray
    """(F, 3) int32"""
    keypoint_vertices: Mapping[str, int]
    """Vertex of each named keypoint that is no joint (nose, toes …)."""
    sha256: str
    hands_mean: np.ndarray | None = None
    """(J - 1, 3) axis-angle of MANO: the mean pose that its poses are relative to (flat_hand_mean is False)."""


def load_body(path: str | Path) -> Body:
    """Read a body model. Raises BodyModelMissing, or ValueError for a file that is not one."""
    path = Path(path)
    if not path.is_file():
        raise BodyModelMissing(_missing(path))
    return parse_body(path.read_bytes(), path=str(path))


def parse_body(data: bytes, *, path: str) -> Body:
    """A body model of a file's content; the path's ending says which kind it is. Raises ValueError for another."""
    content = read_pkl(data, where=path) if path.endswith(".pkl") else _read_npz(data, where=path)
    return _body(content, name=Path(path).stem, sha256=hashlib.sha256(data).hexdigest(), where=path)


def convert_pkl(source: str | Path) -> dict[str, Any]:
    """Arrays of a licensed .pkl, checked, to be kept as an .npz that numpy reads without pickles."""
    source = Path(source)
    if not source.is_file():
        raise BodyModelMissing(_missing(source))
    content = read_pkl(source.read_bytes(), where=str(source))
    arrays = {name: content[name] for name in (*REQUIRED, *OPTIONAL) if name in content}
    _body(arrays, name=source.stem, sha256="", where=str(source))
    return arrays


def _missing(path: Path) -> str:
    folder = path.parent
    found = sorted(p.name for p in folder.iterdir())[:10] if folder.is_dir() else None
    return (
        f"body model not found: {path}\n"
        f"  folder holds: {', '.join(found) or 'nothing' if found is not None else 'the folder does not exist'}\n"
        "  why: licensed models (SMPL, SMPL-X, MANO, FLAME) may not be shipped with this code\n"
        "  fix: register at https://smpl.is.tue.mpg.de and pass the file's path, or build the free body with\n"
        "       python jobs/build_body.py"
    )


def _read_npz(data: bytes, *, where: str) -> dict[str, Any]:
    wanted = (*REQUIRED, *OPTIONAL, "keypoint_names", "keypoint_vertices")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: file[name] for name in wanted if name in file.files}
    except Exception as error:  # numpy and zipfile raise nearly anything on damaged input
        raise ValueError(f"{where} is not a body model: numpy cannot read it without pickles ({error})") from None


def _body(content: Mapping[str, Any], *, name: str, sha256: str, where: str) -> Body:
    absent = [key for key in REQUIRED if key not in content]
    if absent:
        raise ValueError(f"{where} is not a body model of the SMPL family: it has no {', '.join(absent)}")
    arrays = {key: np.asarray(content[key]) for key in (*REQUIRED, *OPTIONAL) if key in content}
    _check_arrays(arrays, where=where)
    vertices = len(arrays["v_template"])
    posedirs = arrays["posedirs"].astype(np.float64) if "posedirs" in arrays else None
    keypoints = dict(SMPL_KEYPOINT_VERTICES) if vertices == SMPL_VERTICES else {}
    if "keypoint_names" in content:
        names, ids = np.ravel(content["keypoint_names"]), np.ravel(content.get("keypoint_vertices", ()))
        if len(names) != len(ids) or not np.issubdtype(ids.dtype, np.integer) or not _within(ids, vertices):
            raise ValueError(f"{where}: keypoint_vertices does not give each of {len(names)} names one of its vertices")
        keypoints = {str(n): int(v) for n, v in zip(names, ids, strict=True)}
    return Body(
        name=name,
        v_template=arrays["v_template"].astype(np.float64),
        shapedirs=arrays["shapedirs"][..., :BETAS].astype(np.float64),
        posedirs=posedirs if posedirs is not None and posedirs.any() else None,
        J_regressor=scipy.sparse.csr_matrix(arrays["J_regressor"].astype(np.float64)),
        weights=arrays["weights"].astype(np.float64),
        parents=(-1, *(int(p) for p in arrays["kintree_table"][0, 1:])),  # the root's own is stored as 2³²-1
        faces=arrays["f"].astype(np.int32),
        keypoint_vertices=keypoints,
        sha256=sha256,
        hands_mean=arrays["hands_mean"].astype(np.float64).reshape(-1, 3) if "hands_mean" in arrays else None,
    )


LAYOUT: dict[str, tuple[str | int, ...]] = {
    "v_template": ("vertices", 3),
    "shapedirs": ("vertices", 3, "betas"),
    "J_regressor": ("joints", "vertices"),
    "weights": ("vertices", "joints"),
    "kintree_table": (2, "joints"),
    "f": ("faces", 3),
    "posedirs": ("vertices", 3, "9 (joints - 1)"),
    "hands_mean": ("3 (joints - 1)",),
}


def _check_arrays(arrays: Mapping[str, np.ndarray], *, where: str) -> None:
    """Shapes that belong together, finite numbers, indices that exist. Raises ValueError naming the array."""
    sizes: dict[str | int, int] = {2: 2, 3: 3}
    for key, dims in LAYOUT.items():
        if key not in arrays:
            continue
        shape, dtype = arrays[key].shape, arrays[key].dtype
        if len(shape) != len(dims) or any(sizes.setdefault(d, n) != n for d, n in zip(dims, shape, strict=True)):
            expected = ", ".join(str(sizes.get(d, d)) for d in dims)
            raise ValueError(f"{where}: {key} has shape {shape}, expected ({expected})")
        if key == "weights":
            sizes |= {f"{n} (joints - 1)": n * (sizes["joints"] - 1) for n in (3, 9)}
        if not np.issubdtype(dtype, np.number) or not np.isfinite(arrays[key]).all():
            raise ValueError(f"{where}: {key} holds values that are not finite numbers (its type is {dtype})")
    if sizes["betas"] < BETAS:
        raise ValueError(f"{where}: {sizes['betas']} shape components, at least {BETAS} are needed")
    if not _within(arrays["f"], sizes["vertices"]):
        raise ValueError(f"{where}: f names vertices that do not exist")
    parents = arrays["kintree_table"][0, 1:].astype(np.int64)
    if not ((parents >= 0) & (parents < np.arange(1, sizes["joints"]))).all():
        raise ValueError(f"{where}: kintree_table is no tree in which parents come first")


def _within(indices: np.ndarray, count: int) -> bool:
    return indices.size > 0 and bool((indices >= 0).all() and (indices < count).all())
