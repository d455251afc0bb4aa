"""A small made-up body with everything that a licensed one has, pose correctives too."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from mesh_lib.body.files import SMPL_KEYPOINT_VERTICES, Body
from mesh_lib.body.joints import SMPL_PARENTS

VERTICES = 260


def made_up_arrays(seed: int = 0, vertices: int = VERTICES) -> dict[str, np.ndarray]:
    """In the key layout of the owners' files."""
    rng = np.random.default_rng(seed)
    weights = rng.random((vertices, 24)) ** 8
    regressor = rng.random((24, vertices)) * (rng.random((24, vertices)) < 10 / vertices)
    regressor[np.arange(24), np.arange(24)] += 0.1
    parents = np.array(SMPL_PARENTS, np.int64)
    return {
        "v_template": rng.normal(0, 0.4, (vertices, 3)),
        "shapedirs": rng.normal(0, 0.02, (vertices, 3, 10)),
        "posedirs": rng.normal(0, 0.01, (vertices, 3, 207)),
        "J_regressor": regressor / regressor.sum(axis=1, keepdims=True),
        "weights": weights / weights.sum(axis=1, keepdims=True),
        "kintree_table": np.stack([np.where(parents < 0, 2**32 - 1, parents), np.arange(24)]).astype(np.uint32),
        "f": rng.integers(0, vertices, (300, 3)).astype(np.uint32),
    }


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return made_up_arrays()


@pytest.fixture(scope="session")
def made_up_body() -> Body:
    arrays = made_up_arrays()
    return Body(
        name="made up",
        v_template=arrays["v_template"],
        shapedirs=arrays["shapedirs"],
        posedirs=arrays["posedirs"],
        J_regressor=scipy.sparse.csr_matrix(arrays["J_regressor"]),
        weights=arrays["weights"],
        parents=SMPL_PARENTS,
        faces=arrays["f"].astype(np.int32),
        keypoint_vertices={name: 30 + i for i, name in enumerate(SMPL_KEYPOINT_VERTICES)},
        sha256="",
    )
