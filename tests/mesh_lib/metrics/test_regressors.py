"""Regressors: read without pickles, missed with one message, refused where they are something else."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mesh_lib.body.files import Body
from mesh_lib.body.joints import MANO_TIPS, RIGHT_HAND21, SMPL24
from mesh_lib.metrics.regressors import (
    H36M_REGRESSOR,
    SMPLX_REGRESSOR,
    RegressorMissing,
    body_regressor,
    load_regressor,
    mano_regressor,
    vertex_ids,
    with_fingertips,
)


def made_up(rows: int, vertices: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = rng.random((rows, vertices)) * (rng.random((rows, vertices)) < 6 / vertices)
    matrix[np.arange(rows), np.arange(rows)] += 0.1
    return matrix / matrix.sum(axis=1, keepdims=True)


class Dangerous:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", H36M_REGRESSOR.names)
def test_a_regressor_makes_means_of_vertices(name: str, tmp_path: Path) -> None:
    matrix = made_up(17, 6890)
    np.save(tmp_path / name, matrix.astype(np.float32))
    regressor = load_regressor(H36M_REGRESSOR, tmp_path)
    vertices = torch.randn(2, 6890, 3, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(regressor.joints_m(vertices).numpy(), matrix @ vertices.numpy(), atol=1e-5)
    assert regressor.joints_m(vertices).dtype == torch.float32
    assert regressor.name == name and len(regressor.sha256) == 64
    with pytest.raises(ValueError, match="for meshes of 6890 vertices; these have 10475"):
        regressor.joints_m(torch.zeros(1, 10475, 3))


def test_a_missing_regressor_says_what_where_why_and_the_fix(tmp_path: Path) -> None:
    (tmp_path / "SMPL_NEUTRAL.pkl").touch()
    with pytest.raises(RegressorMissing) as found:
        load_regressor(H36M_REGRESSOR, tmp_path)
    message = str(found.value)
    for part in (str(tmp_path), "17 joints", "SMPL_NEUTRAL.pkl", "why:", "fix:", *H36M_REGRESSOR.names):
        assert part in message
    with pytest.raises(RegressorMissing, match="the folder does not exist"):
        load_regressor(H36M_REGRESSOR, tmp_path / "nowhere")
    with pytest.raises(RegressorMissing, match="no folder of regressors was given"):
        load_regressor(H36M_REGRESSOR, None)


def test_what_is_no_regressor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / H36M_REGRESSOR.names[0]
    good = made_up(17, 6890)
    broken, heavy = good.copy(), good.copy()
    broken[2, 3], heavy[4] = np.nan, 3 * heavy[4]
    cases = {
        "expected .17 or more, 6890.": good.T,
        "expected .17 or more": good[:16],
        "not finite": broken,
        "row 4 .left_hip. sums to 3, not to 1": heavy,
        "holds values that are not": np.full((17, 6890), "a"),
    }
    for message, matrix in cases.items():
        np.save(path, matrix)
        with pytest.raises(ValueError, match=message):
            load_regressor(H36M_REGRESSOR, tmp_path)
    path.write_bytes(b"no array")
    with pytest.raises(ValueError, match="is not a file with an array"):
        load_regressor(H36M_REGRESSOR, tmp_path)


@pytest.mark.parametrize("name", ["SMPLX_NEUTRAL.npz", "SMPLX_NEUTRAL.pkl", "J_regressor_smplx.npy"])
def test_no_file_is_unpickled(name: str, tmp_path: Path) -> None:
    run, trap = tmp_path / "it ran", np.empty((17, 6890), object)
    trap[0, 0] = Dangerous(run)
    if name.endswith(".npz"):
        np.savez(tmp_path / name, J_regressor=trap)
    elif name.endswith(".npy"):
        np.save(tmp_path / name, trap)
    else:
        (tmp_path / name).write_bytes(pickle.dumps({"J_regressor": Dangerous(run)}))
    with pytest.raises(ValueError, match="pickles of anything but arrays are not read"):
        load_regressor(SMPLX_REGRESSOR, tmp_path)
    assert not run.exists()


def test_the_owners_npz_and_pkl_are_read_for_their_regressor(tmp_path: Path) -> None:
    matrix = made_up(55, 10475)
    other = np.empty(1, object)
    other[0] = {"not": "read"}
    np.savez(tmp_path / "SMPLX_NEUTRAL.npz", J_regressor=matrix, joint2num=other)
    regressor = load_regressor(SMPLX_REGRESSOR, tmp_path)
    np.testing.assert_array_equal(regressor.matrix.numpy(), matrix[:22])
    assert regressor.joint_set.names == SMPL24.names[:22]
    hand = made_up(16, 778)
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(pickle.dumps({"J_regressor": hand, "bs_type": "lrotmin"}))
    np.testing.assert_array_equal(load_regressor(mano_regressor("right"), tmp_path).matrix.numpy(), hand)


def test_a_hand_has_its_fingertips_and_freihands_order(tmp_path: Path) -> None:
    np.save(tmp_path / "J_regressor_mano_right.npy", made_up(16, 778))
    mano = load_regressor(mano_regressor("right"), tmp_path)
    hand = with_fingertips(mano)
    vertices = torch.randn(778, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    joints, own = hand.joints_m(vertices), mano.joints_m(vertices)
    for name, vertex in MANO_TIPS.items():
        assert torch.equal(joints[RIGHT_HAND21.index(name)], vertices[vertex])
    # MANO's order is wrist, index, middle, pinky, ring, thumb
    for name, row in (("right_wrist", 0), ("right_index1", 1), ("right_pinky3", 9), ("right_thumb2", 14)):
        torch.testing.assert_close(joints[RIGHT_HAND21.index(name)], own[row])


def test_a_bodys_own_regressor_is_applied_to_its_mesh(body: Body) -> None:
    regressor = body_regressor(body)
    vertices = torch.from_numpy(body.v_template)
    np.testing.assert_allclose(regressor.joints_m(vertices).numpy(), body.J_regressor @ body.v_template, atol=1e-12)


def test_numbers_of_vertices_are_whole_and_there() -> None:
    what = "vertices of a face"
    ids = vertex_ids(Path("ids.npy"), np.array([3.0, 0.0]), what=what, vertices=4)
    assert ids.tolist() == [3, 0] and ids.dtype == np.int64
    for wrong in ([0.5], [-1], [4], [], ["a"]):
        with pytest.raises(ValueError, match="is not vertices of a face"):
            vertex_ids(Path("ids.npy"), np.array(wrong), what=what, vertices=4)
    with pytest.raises(ValueError, match="expected 2 numbers"):
        vertex_ids(Path("ids.npy"), np.array([1]), what=what, vertices=4, count=2)
