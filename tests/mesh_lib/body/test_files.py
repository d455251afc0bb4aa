from __future__ import annotations

import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from mesh_lib.body.files import SMPL_KEYPOINT_VERTICES, Body, BodyModelMissing, convert_pkl, load_body
from mesh_lib.body.joints import SMPL_PARENTS

Arrays = dict[str, Any]


def write_npz(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)
    return path


def assert_holds(body: Body, arrays: Arrays) -> None:
    for name in ("v_template", "shapedirs", "posedirs", "weights"):
        np.testing.assert_array_equal(getattr(body, name), arrays[name])
    assert not isinstance(body.J_regressor, np.ndarray)
    np.testing.assert_array_equal(body.J_regressor.toarray(), arrays["J_regressor"])
    np.testing.assert_array_equal(body.faces, arrays["f"])
    assert body.parents == SMPL_PARENTS  # the file stores the root's as 2³² - 1


def test_an_npz_comes_back_as_it_was_written(tmp_path: Path, arrays: Arrays) -> None:
    body = load_body(write_npz(tmp_path / "SMPL_TEST.npz", arrays))
    assert_holds(body, arrays)
    assert body.name == "SMPL_TEST" and not body.keypoint_vertices
    assert len(body.sha256) == 64


def test_keypoints_are_read_from_a_file_that_names_them(tmp_path: Path, arrays: Arrays) -> None:
    named = arrays | {"keypoint_names": np.array(["nose", "left_heel"]), "keypoint_vertices": np.array([7, 3])}
    assert load_body(write_npz(tmp_path / "b.npz", named)).keypoint_vertices == {"nose": 7, "left_heel": 3}


def test_a_body_of_6890_vertices_is_smpl_and_gets_its_published_keypoints(tmp_path: Path, arrays: Arrays) -> None:
    more = 6890 - len(arrays["v_template"])
    grown = {
        k: np.pad(v, [(0, more)] + [(0, 0)] * (v.ndim - 1))
        for k, v in arrays.items()
        if k not in ("f", "kintree_table")
    }
    grown["J_regressor"] = np.pad(arrays["J_regressor"], [(0, 0), (0, more)])
    body = load_body(write_npz(tmp_path / "b.npz", arrays | grown))
    assert body.keypoint_vertices == SMPL_KEYPOINT_VERTICES
    assert body.keypoint_vertices["nose"] == 331 and body.keypoint_vertices["right_pinky1"] == 5655


def test_pose_correctives_that_are_all_zero_are_not_kept(tmp_path: Path, arrays: Arrays) -> None:
    assert load_body(write_npz(tmp_path / "b.npz", arrays | {"posedirs": arrays["posedirs"] * 0})).posedirs is None


def test_only_the_first_ten_of_many_shape_components_are_kept(tmp_path: Path, arrays: Arrays) -> None:
    many = np.random.default_rng(0).normal(size=(260, 3, 300))
    np.testing.assert_array_equal(
        load_body(write_npz(tmp_path / "b.npz", arrays | {"shapedirs": many})).shapedirs, many[..., :10]
    )


# Licensed pickles. Classes that pickle under chumpy's names exist only while a test writes its file.


@pytest.fixture
def chumpy(monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray], Any]:
    """Wraps an array the way the owners' files do: a chumpy.ch.Ch whose state holds it as x."""
    module = types.ModuleType("chumpy.ch")
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    monkeypatch.setitem(sys.modules, "chumpy.ch", module)
    kind: Any = type("Ch", (), {"__module__": "chumpy.ch"})
    monkeypatch.setattr(module, "Ch", kind, raising=False)

    def wrap(array: np.ndarray) -> Any:
        out = kind()
        out.__dict__.update(x=array, _dirty_vars=None)
        return out

    return wrap


def licensed(arrays: Arrays, wrap: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    return {
        **arrays,
        **{name: wrap(arrays[name]) for name in ("v_template", "shapedirs", "posedirs", "weights")},
        "J_regressor": scipy.sparse.csc_matrix(arrays["J_regressor"]),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_licensed_pickle_is_read_without_chumpy(
    tmp_path: Path, arrays: Arrays, chumpy: Callable[[np.ndarray], Any], protocol: int
) -> None:
    data = pickle.dumps(licensed(arrays, chumpy), protocol=protocol)
    # Where scipy and numpy kept these classes when the files were made.
    for new, old in ((b"scipy.sparse._csc\n", b"scipy.sparse.csc\n"), (b"numpy._core.", b"numpy.core.")):
        data = data.replace(new, old) if protocol < 4 else data
    (tmp_path / "basicModel.pkl").write_bytes(data)
    assert_holds(load_body(tmp_path / "basicModel.pkl"), arrays)


def test_a_converted_pickle_is_the_same_body_without_any_pickle(
    tmp_path: Path, arrays: Arrays, chumpy: Callable[[np.ndarray], Any]
) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(licensed(arrays, chumpy), protocol=2))
    np.savez(tmp_path / "m.npz", **convert_pkl(tmp_path / "m.pkl"))
    assert_holds(load_body(tmp_path / "m.npz"), arrays)
    with np.load(tmp_path / "m.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)
    assert_holds(load_body(tmp_path / "m.npz"), arrays)


class Hostile:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    ("function", "named"),
    [(os.mkdir, f"{os.name}.mkdir"), (eval, "eval"), (exec, "exec"), (getattr, "getattr"), (np.load, "load")],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_pickle_that_calls_anything_is_refused_by_name_and_nothing_runs(
    tmp_path: Path, function: Callable[..., Any], named: str, protocol: int
) -> None:
    trace = tmp_path / "it-ran"
    argument = f"__import__('os').mkdir({str(trace)!r})" if function in (eval, exec) else str(trace)
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"v_template": Hostile(function, argument)}, protocol=protocol))
    with pytest.raises(ValueError, match=named) as error:
        load_body(path)
    assert str(path) in str(error.value) and not trace.exists()


# What is not a body.


def test_a_missing_body_says_where_it_looked_what_is_there_why_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "SMPL_FEMALE.pkl").touch()
    with pytest.raises(BodyModelMissing) as error:
        load_body(tmp_path / "SMPL_NEUTRAL.pkl")
    for part in (
        str(tmp_path / "SMPL_NEUTRAL.pkl"),
        "SMPL_FEMALE.pkl",
        "https://smpl",
        "jobs/build_body.py",
        "shipped",
    ):
        assert part in str(error.value)
    with pytest.raises(BodyModelMissing, match="does not exist"):
        load_body(tmp_path / "nowhere" / "b.npz")
    with pytest.raises(BodyModelMissing):
        convert_pkl(tmp_path / "no.pkl")


REQUIRED = ("v_template", "shapedirs", "J_regressor", "weights", "kintree_table", "f")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_file_without_a_key_names_the_key(tmp_path: Path, arrays: Arrays, name: str) -> None:
    del arrays[name]
    with pytest.raises(ValueError, match=rf"b\.npz.*{name}"):
        load_body(write_npz(tmp_path / "b.npz", arrays))


@pytest.mark.parametrize("wrong", [np.float64(1), np.zeros(3), np.zeros((5, 7)), np.zeros((2, 2, 2, 2))], ids=np.ndim)
@pytest.mark.parametrize("name", [*REQUIRED, "posedirs"])
def test_a_wrong_shape_is_one_clear_error(tmp_path: Path, arrays: Arrays, name: str, wrong: np.ndarray) -> None:
    path = write_npz(tmp_path / "b.npz", arrays | {name: wrong + 1})
    with pytest.raises(ValueError, match=r"b\.npz"):
        load_body(path)


def test_too_few_shape_components_are_an_error(tmp_path: Path, arrays: Arrays) -> None:
    arrays["shapedirs"] = arrays["shapedirs"][..., :4]
    with pytest.raises(ValueError, match="4 shape components"):
        load_body(write_npz(tmp_path / "b.npz", arrays))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("f", np.array([[0, 1, 260]])),
        ("kintree_table", np.zeros((2, 24)) + 23),
        ("v_template", np.full((260, 3), np.nan)),
        ("weights", np.full((260, 24), "x")),
    ],
    ids=["face of no vertex", "circular tree", "not finite", "text"],
)
def test_values_that_make_no_body_are_one_clear_error(tmp_path: Path, arrays: Arrays, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"b\.npz.*{name}"):
        load_body(write_npz(tmp_path / "b.npz", arrays | {name: value}))


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "bit rot", "npy", "object arrays"])
@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, arrays: Arrays, damage: str, suffix: str) -> None:
    path = tmp_path / f"b{suffix}"
    np.savez_compressed(tmp_path / "whole.npz", **arrays)
    whole = (tmp_path / "whole.npz").read_bytes() if suffix == ".npz" else pickle.dumps(arrays)
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_bytes(b"<html>please log in</html>")
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "bit rot":
            middle = len(whole) // 2
            path.write_bytes(
                whole[:middle] + bytes(255 - b for b in whole[middle : middle + 99]) + whole[middle + 99 :]
            )
            if suffix == ".pkl":
                pytest.skip("a flipped number inside a pickle cannot be noticed")
        case "npy":
            with path.open("wb") as file:
                np.save(file, np.zeros(3))
        case "object arrays":
            if suffix == ".pkl":
                path.write_bytes(pickle.dumps(np.zeros(3)))
            else:
                np.savez(path, **{**arrays, "v_template": np.array([{}, None], object)})
    with pytest.raises(ValueError, match=f"b{suffix}"):
        load_body(path)
