"""Pickles of others: arrays come out as they went in, and nothing that a file says makes anything run or write."""

from __future__ import annotations

import datetime
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from mesh_lib.pickles import read_pkl

ARRAYS: dict[str, Any] = {
    "floats": np.arange(12.0).reshape(3, 4), "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "big": np.arange(3, dtype=">f4"), "flags": np.array([True, False]), "empty": np.zeros((0, 3)),
    "texts": np.array(["m", "female"]), "bytes": np.array([b"m", b"f"]), "scalar": np.float32(2.5), "none": None,
    "objects": np.array([None, "x", 3], object), "list": [np.ones(2), {"deep": (np.zeros(1), "t")}], "number": 7,
    "sparse": scipy.sparse.csc_matrix(np.diag([1.0, 0, 3])),
}  # fmt: skip


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_arrays_come_out_as_they_went_in(protocol: int) -> None:
    found = read_pkl(pickle.dumps(ARRAYS, protocol), where="here")
    assert list(found) == list(ARRAYS)
    for name in ("floats", "fortran", "big", "flags", "empty", "texts", "bytes", "objects"):
        assert found[name].dtype == ARRAYS[name].dtype and type(found[name]) is np.ndarray
        np.testing.assert_array_equal(found[name], ARRAYS[name])
    assert found["fortran"].flags.f_contiguous and found["floats"].flags.writeable
    assert found["scalar"] == np.float32(2.5) and found["scalar"].dtype == np.float32
    np.testing.assert_array_equal(found["list"][0], np.ones(2))
    np.testing.assert_array_equal(found["list"][1]["deep"][0], np.zeros(1))
    assert found["list"][1]["deep"][1] == "t" and found["number"] == 7 and found["none"] is None
    np.testing.assert_array_equal(found["sparse"], np.diag([1.0, 0, 3]))


def test_strings_of_python_2_are_read_as_latin1(tmp_path: Path) -> None:
    """Python 2 stored arrays' bytes as 8-bit strings (SHORT_BINSTRING, U)."""
    numbers = np.array([1.5, -2.25e100])
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR(I1\n(I2\ntcnumpy\ndtype\n"
        b"(U\x02f8I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntbI00\nU\x10" + numbers.tobytes() + b"tb"
    )
    content = read_pkl(b"(dU\x04name" + array + b"s.", where="here")
    np.testing.assert_array_equal(content["name"], numbers)


class Posing:
    """Pickles as an array or a dtype whose state is what it is told."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], state: Any) -> None:
        self.told = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.told


RECONSTRUCT: Any = np.zeros(1).__reduce__()[0]


def array(kind: Any, shape: tuple[int, ...], values: Any) -> Posing:
    return Posing(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, kind, False, values))


def bad_sparse(index: int) -> Any:
    matrix = scipy.sparse.csc_matrix(np.eye(2))
    matrix.indices = np.array([0, index], np.int32)
    return matrix


RECORD = Posing(np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0))
HOSTILE = {
    "a record of pointers, which it chose": array(RECORD, (4,), b"A" * 32),
    "pointers for objects": array(np.dtype("O"), (4,), b"A" * 32),
    "fewer bytes than its shape": array(np.dtype("f8"), (1 << 40,), b"A" * 32),
    "a shape that overflows": array(np.dtype("f8"), (1 << 32, 1 << 32), b""),
    "a negative shape": array(np.dtype("f8"), (-1, -4), b"A" * 32),
    "an index beyond a sparse matrix": bad_sparse(100),
    "an index far beyond": bad_sparse(300_000_000),
    "a matrix larger than any body's": scipy.sparse.csc_matrix((1 << 20, 1 << 20)),
    "a time": datetime.datetime(2026, 1, 1),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_arrays_that_lie_are_refused(what: str) -> None:
    """In a process of its own: what goes wrong here ends a process, or spoils its memory."""
    code = "import sys; from mesh_lib.pickles import read_pkl; read_pkl(sys.stdin.buffer.read(), where='here')"
    data = pickle.dumps({"v_template": HOSTILE[what]}, protocol=2)
    ran = subprocess.run([sys.executable, "-c", code], check=False, input=data, capture_output=True)
    assert ran.returncode == 1 and b"ValueError: here cannot be read as a body model: i" in ran.stderr


def test_a_dotted_name_does_not_lead_through_an_allowed_one_to_another() -> None:
    """Protocol 4 walks dots in names: numpy's dtype.__class__ would be `type`, from which all else follows."""
    stolen = b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93."
    with pytest.raises(ValueError, match=r"dtype\.__class__"):
        read_pkl(stolen, where="here")


def test_a_pickle_cannot_change_our_classes_for_the_next_file() -> None:
    """BUILD with slots sets attributes on whatever is on the stack, a class too."""
    before = scipy.sparse.csc_matrix.__dict__.get("toarray")
    poison = b"\x80\x02cscipy.sparse._csc\ncsc_matrix\nN}U\x07toarrayccollections\nOrderedDict\ns\x86b."
    with pytest.raises(ValueError):
        read_pkl(poison, where="here")
    own = b"\x80\x02cscipy.sparse._csc\ncsc_matrix\nN}U\x07toarraycnumpy\nndarray\ns\x86b."
    with pytest.raises(ValueError):
        read_pkl(own, where="here")
    assert scipy.sparse.csc_matrix.__dict__.get("toarray") is before
    np.testing.assert_array_equal(scipy.sparse.csc_matrix(np.eye(2)).toarray(), np.eye(2))
