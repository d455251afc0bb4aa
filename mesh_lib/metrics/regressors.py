"""Joint regressors that benchmarks prescribe: linear maps from a mesh's vertices to joints.

They come with licensed body models, so the user brings them: one folder of the owners' files. Nothing is unpickled that
is not an array: .npy and .npz are read without pickles, .pkl by the reader of body models, which runs nothing.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mesh_lib.body.files import SMPL_VERTICES, Body
from mesh_lib.body.joints import LSP14, MANO16, MANO_TIPS, RIGHT_HAND21, SMPL24, JointSet
from mesh_lib.datasets.human36m import HUMAN36M17
from mesh_lib.datasets.mupots import MUPOTS17
from mesh_lib.pickles import read_pkl

SMPLX_VERTICES, MANO_VERTICES = 10475, 778
SUM_TOLERANCE = 1e-2
"""How far a row may sum from 1: a mean of vertices moves with them, anything else does not."""
SMPLX22 = JointSet("smplx22", SMPL24.names[:22])
"""SMPL-X's first joints are SMPL's (Pavlakos et al., 2019)."""


class RegressorMissing(ValueError):
    """A file that a protocol prescribes is not where it was looked for."""


@dataclass(frozen=True, kw_only=True)
class RegressorFile:
    """A file that the user brings."""

    names: tuple[str, ...]
    """What it is called; the first that is there is taken. In .npz and .pkl files the array is `J_regressor`."""
    what: str
    joint_set: JointSet
    """Names of its first rows; others are not read."""
    vertices: int
    source: str
    """Where its owners or users have it."""


@dataclass(frozen=True, kw_only=True)
class Regressor:
    """A linear map from vertices to named joints."""

    name: str
    """The file's name; `J_regressor of <body>` for a body's own."""
    sha256: str
    joint_set: JointSet
    matrix: Float[Tensor, "joints vertices"]

    def joints_m(self, vertices_m: Float[Tensor, "*batch vertices 3"]) -> Float[Tensor, "*batch joints 3"]:
        """Joints of meshes. Raises ValueError for meshes of another body model."""
        if vertices_m.shape[-2] != self.matrix.shape[1]:
            raise ValueError(
                f"{self.name} is for meshes of {self.matrix.shape[1]} vertices; these have {vertices_m.shape[-2]}"
            )
        return self.matrix.to(vertices_m) @ vertices_m


H36M_REGRESSOR = RegressorFile(
    names=("J_regressor_h36m_smpl.npy", "J_regressor_h36m_correct.npy", "J_regressor_h36m.npy"),
    what="SMPL's regressor of Human3.6M's 17 joints",
    joint_set=HUMAN36M17,
    vertices=SMPL_VERTICES,
    source="it comes with the code of Pose2Pose, I2L-MeshNet and SPIN (all three have the same numbers)",
)
MUPOTS_REGRESSOR = RegressorFile(
    names=("J_regressor_mi_smpl.npy",),
    what="SMPL's regressor of MPI-INF-3DHP's joints",
    joint_set=MUPOTS17,
    vertices=SMPL_VERTICES,
    source="it comes with the code of 3DCrowdNet and Hand4Whole",
)
SMPLX_REGRESSOR = RegressorFile(
    names=("SMPLX_NEUTRAL.npz", "SMPLX_NEUTRAL.pkl", "J_regressor_smplx.npy"),
    what="SMPL-X's own regressor",
    joint_set=SMPLX22,
    vertices=SMPLX_VERTICES,
    source="register at https://smpl-x.is.tue.mpg.de",
)
J14_REGRESSOR = RegressorFile(
    names=("SMPLX_to_J14.npy",),
    what="SMPL-X's regressor of 14 joints",
    joint_set=LSP14,
    vertices=SMPLX_VERTICES,
    source="its owners' is SMPLX_to_J14.pkl, with the code of ExPose and Hand4Whole; it is one array: save it once by\n"
    '       python -c \'import numpy as np; np.save("SMPLX_to_J14.npy", np.load("SMPLX_to_J14.pkl", allow_pickle=True, '
    'encoding="latin1"))\'',
)


def mano_regressor(side: str) -> RegressorFile:
    """MANO's own 16 joints of a hand, `left` or `right`."""
    return RegressorFile(
        names=(f"MANO_{side.upper()}.pkl", f"MANO_{side.upper()}.npz", f"J_regressor_mano_{side}.npy"),
        what=f"MANO's own regressor of the {side} hand",
        joint_set=MANO16,
        vertices=MANO_VERTICES,
        source="register at https://mano.is.tue.mpg.de",
    )


def load_regressor(file: RegressorFile, folder: str | Path | None) -> Regressor:
    """Read a regressor; None is no folder. Raises RegressorMissing, or ValueError for a file that is not one."""
    path = find(file.names, folder, what=file.what, source=file.source)
    data = path.read_bytes()
    values = np.asarray(_array(data, path))
    rows = len(file.joint_set)
    if values.ndim != 2 or values.shape[0] < rows or values.shape[1] != file.vertices:
        raise ValueError(
            f"{path} is not {file.what}: its shape is {values.shape}, expected ({rows} or more, {file.vertices})"
        )
    if not np.issubdtype(values.dtype, np.number) or not np.isfinite(values[:rows]).all():
        raise ValueError(f"{path} is not {file.what}: it holds values that are not finite numbers ({values.dtype})")
    matrix = values[:rows].astype(np.float64)
    off = np.abs(matrix.sum(axis=1) - 1)
    if off.max() > SUM_TOLERANCE:
        row = int(off.argmax())
        raise ValueError(
            f"{path} is not {file.what}: its row {row} ({file.joint_set.names[row]}) sums to {matrix[row].sum():.4g}, "
            "not to 1"
        )
    return Regressor(
        name=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        joint_set=file.joint_set,
        matrix=torch.from_numpy(matrix),
    )


def body_regressor(body: Body) -> Regressor:
    """A body's own regressor of SMPL's or MANO's joints, applied to posed vertices as published (Pose2Pose, SPIN)."""
    dense = body.J_regressor if isinstance(body.J_regressor, np.ndarray) else body.J_regressor.toarray()
    return Regressor(
        name=f"J_regressor of {body.name}",
        sha256=body.sha256,
        joint_set=MANO16 if len(dense) == len(MANO16) else SMPL24,
        matrix=torch.from_numpy(np.ascontiguousarray(dense, np.float64)),
    )


def with_fingertips(mano: Regressor) -> Regressor:
    """MANO's 16 joints and five fingertips, in the order of RIGHT_HAND21."""
    rows = []
    for name in RIGHT_HAND21.names:
        if name in MANO_TIPS:
            rows.append(torch.nn.functional.one_hot(torch.tensor(MANO_TIPS[name]), MANO_VERTICES).to(mano.matrix))
        else:
            rows.append(mano.matrix[mano.joint_set.index(name)])
    return Regressor(
        name=f"{mano.name} and five fingertips",
        sha256=mano.sha256,
        joint_set=RIGHT_HAND21,
        matrix=torch.stack(rows),
    )


def vertex_ids(path: Path, values: Any, *, what: str, vertices: int, count: int | None = None) -> np.ndarray:
    """A list of vertices that a file holds. Raises ValueError for anything else."""
    ids = np.ravel(np.asarray(values))
    whole = ids.dtype.kind in "iu" or (ids.dtype.kind == "f" and bool((ids == np.floor(ids)).all()))
    if not len(ids) or not whole or ids.min() < 0 or ids.max() >= vertices or count not in (None, len(ids)):
        wanted = f"{count} " if count else ""
        raise ValueError(f"{path} is not {what}: expected {wanted}numbers of vertices below {vertices}")
    return ids.astype(np.int64)


def find(names: tuple[str, ...], folder: str | Path | None, *, what: str, source: str) -> Path:
    """The first of the names that is in the folder. Raises RegressorMissing where none is, or there is no folder."""
    looked = "no folder of regressors was given"
    if folder is not None:
        folder = Path(folder)
        for name in names:
            if (folder / name).is_file():
                return folder / name
        found = sorted(path.name for path in folder.iterdir())[:10] if folder.is_dir() else None
        holds = ", ".join(found) or "nothing" if found is not None else "the folder does not exist"
        looked = f"{folder / names[0]}\n  folder holds: {holds}"
    raise RegressorMissing(
        f"{what} not found: {looked}\n"
        "  why: it is part of, or made from, a licensed body model, and may not be shipped with this code\n"
        f"  fix: put {' or '.join(names)} into the folder; {source}"
    )


def read_array(path: Path, *, key: str) -> Any:
    """The array in a .npy file; the one under `key` in a .npz or .pkl. Raises ValueError for anything else."""
    return _read(path.read_bytes(), path, lambda content: content[key], what=f"a file with an array {key}")


def _array(data: bytes, path: Path) -> Any:
    return _read(data, path, lambda content: content["J_regressor"], what="a file with an array J_regressor")


def _read(data: bytes, path: Path, pick: Callable[[Any], Any], *, what: str) -> Any:
    try:
        if path.suffix == ".pkl":
            return pick(read_pkl(data, where=str(path), what=what))
        content = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            return pick(content)
    except Exception as error:  # numpy and zipfile raise nearly anything on damaged input
        raise ValueError(f"{path} is not {what}; pickles of anything but arrays are not read: {error}") from None
