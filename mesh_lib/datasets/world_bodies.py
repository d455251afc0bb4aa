"""Parameters of SMPL and MANO that a dataset has in its world: to the camera's frame.

A body turns about its root joint, not about the origin, so a camera (R, t) that sees a body with its root at rest at
J and moved by T sees one moved by R (J + T) + t - J. J depends on the body model and on its shape: without the model's
file a translation cannot be told, and is NaN; the rotation can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from mesh_lib.body.files import BETAS, parse_body
from mesh_lib.datasets.people import Camera, Files, need

ORIENT, TRANSL = slice(0, 3), slice(-3, None)


@dataclass(frozen=True)
class RestRoot:
    """Where the root joint of a body model is at rest, by its shape."""

    mean_m: np.ndarray
    """(3,)"""
    per_beta_m: np.ndarray
    """(3, 10)"""

    def at(self, betas: np.ndarray) -> np.ndarray:
        """(3,)"""
        return self.mean_m + self.per_beta_m @ betas


def read_rest_root(files: Files, path: str) -> RestRoot | None:
    """Of the body model in a file; None where no file is named. Raises ValueError for a file that is not one."""
    if not path:
        return None
    with files.open(need(files, path, what="body model", fix="pass its .npz, or its owners' .pkl")) as stream:
        body = parse_body(stream.read(), path=path)
    mean_m = body.J_regressor @ body.v_template
    per_beta_m = body.J_regressor @ body.shapedirs.reshape(len(body.v_template), -1)
    return RestRoot(mean_m[0], per_beta_m[0].reshape(3, -1))


def mend_left(left: RestRoot | None, right: RestRoot | None) -> RestRoot | None:
    """The left hand's root. MANO's file of left hands has the right hand's shapes along x, not their mirror image, as
    it should; published fits were made with that mended, as the field's loaders do where both files agree."""
    if left is None or right is None or not np.allclose(left.per_beta_m[0], right.per_beta_m[0], atol=1e-6):
        return left
    return RestRoot(left.mean_m, left.per_beta_m * np.array([[-1.0], [1.0], [1.0]]))


def numbers(value: Any, count: int, *, what: str, where: str) -> np.ndarray:
    """So many numbers, however they are nested, in one row. Raises ValueError for anything else."""
    try:
        values = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: {what} is not an array of numbers") from None
    if values.size != count:
        raise ValueError(f"{where}: {what} has {values.size} numbers (shape {values.shape}); expected {count}")
    return values.ravel()


def is_rotation(matrix: np.ndarray) -> bool:
    """Whether a (3, 3) matrix turns, and does nothing else."""
    return bool(np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3) and np.linalg.det(matrix) > 0)


def rotation(value: Any, *, what: str, where: str) -> np.ndarray:
    """(3, 3) of a file. Raises ValueError for what is no rotation."""
    matrix = numbers(value, 9, what=what, where=where).reshape(3, 3)
    if not is_rotation(matrix):
        raise ValueError(f"{where}: {what} is no rotation: {matrix.tolist()}")
    return matrix


def parameters(value: Any, *, pose: int, where: str) -> np.ndarray:
    """pose, shape and trans of one record, one after the other. Raises ValueError for anything else."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object with pose, shape and trans")
    parts = (("pose", pose), ("shape", BETAS), ("trans", 3))
    return np.concatenate([numbers(value.get(name), count, what=name, where=where) for name, count in parts])


def to_camera(
    camera: Camera, *, global_orient: np.ndarray, transl_m: np.ndarray, root_m: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Global orientation and translation of a body of the world, as the camera sees it; root_m is where its root is at
    rest, None where that is not known."""
    turned = (Rotation.from_matrix(camera.rotation) * Rotation.from_rotvec(global_orient)).as_rotvec()
    if root_m is None:
        return turned, np.full(3, np.nan)
    return turned, camera.to_camera(root_m + transl_m) - root_m
