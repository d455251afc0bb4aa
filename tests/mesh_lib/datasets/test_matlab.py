"""MATLAB files: damaged ones end in a ValueError, never the process; whole ones pass, whatever wrote them."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from mesh_lib.datasets import mat5
from mesh_lib.datasets.matlab import entry, load_mat
from mesh_lib.datasets.people import LocalFiles


def cell(*values: Any) -> np.ndarray:
    made = np.empty((1, len(values)), object)
    made[0] = [np.atleast_2d(value) if not isinstance(value, str) else value for value in values]
    return made


CONTENT: dict[str, Any] = {
    "numbers": np.arange(12.0).reshape(3, 4),
    "small": np.ones((1, 1), np.uint8),
    "complex": np.array([[1 + 2j]]),
    "text": "äb",
    "empty": np.zeros((0, 3)),
    "cells": cell(np.eye(3), "word", cell(1, 2), {"inner": np.full((1, 1), 5, np.float32)}),
    "people": {"annot2": np.ones((2, 17)), "isValidFrame": np.ones((1, 1), np.uint8), "name": "x"},
}


def saved(content: dict[str, Any], *, packed: bool = False) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, content, do_compression=packed)
    return stream.getvalue()


def load(folder: Path, data: bytes, *names: str) -> dict[str, np.ndarray]:
    (folder / "x.mat").write_bytes(data)
    return load_mat(LocalFiles(), str(folder / "x.mat"), *names, expected="something")


@pytest.mark.parametrize("packed", [False, True])
def test_all_kinds_of_values_pass_and_come_as_they_are(tmp_path: Path, packed: bool) -> None:
    found = load(tmp_path, saved(CONTENT, packed=packed), *CONTENT)
    np.testing.assert_array_equal(found["numbers"], CONTENT["numbers"])
    assert found["complex"][0, 0] == 1 + 2j and found["empty"].shape == (0, 3) and found["text"][0] == "äb"
    assert entry(found["people"], "annot2", where="x").shape == (2, 17)
    assert found["cells"].shape == (1, 4) and found["cells"][0, 2].shape == (1, 2)


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_not_wanted_is_not_looked_at(tmp_path: Path, packed: bool) -> None:
    data = saved({"odd": scipy.sparse.eye_array(3).tocsc(), "numbers": np.eye(2)}, packed=packed)
    assert load(tmp_path, data, "numbers")["numbers"].tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="class 5"):
        load(tmp_path, data, "odd")


def test_a_type_that_scipy_does_not_know_is_refused_before_it_ends_the_process(tmp_path: Path) -> None:
    """scipy 1.17 reads through a null pointer here."""
    data = bytearray(saved({"labels": cell(np.ones((1, 17), np.uint8))}))
    tag = struct.pack("<II", 2, 17)  # 17 numbers of type 2
    assert data.count(tag) == 1
    data[data.index(tag)] = 11
    with pytest.raises(ValueError, match=r"x\.mat.*17 bytes of type 11"):
        load(tmp_path, bytes(data), "labels")


@pytest.mark.parametrize("packed", [False, True])
def test_damage_anywhere_is_an_error_or_harmless(tmp_path: Path, packed: bool) -> None:
    whole = saved({name: CONTENT[name] for name in ("cells", "people", "numbers")}, packed=packed)
    rng = np.random.default_rng(0)
    errors = 0
    for trial in range(300):
        data = bytearray(whole)
        if trial % 3 == 0:
            data = data[: rng.integers(len(data))]
        else:
            for _ in range(trial % 5 + 1):
                data[rng.integers(len(data))] = rng.integers(256)
        try:
            load(tmp_path, bytes(data), "cells", "people", "numbers")
        except ValueError as error:
            errors += "x.mat" in str(error)
    assert errors > 100


def test_sizes_beyond_the_file_are_refused_before_memory_is_asked_for() -> None:
    whole = saved({"cells": cell(1, 2)})
    dims = struct.pack("<ii", 1, 2)
    for length in (2_000_000_000, -1):
        data = whole.replace(dims, struct.pack("<ii", 1, length), 1)
        with pytest.raises(ValueError, match=r"more entries than it has bytes|negative dimension"):
            mat5.check(data, ["cells"])


def test_other_files_and_missing_variables_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.mat has no other\n  expected: something"):
        load(tmp_path, saved(CONTENT), "other")
    for data in (b"", b"MATLAB", b"\x89HDF\r\n\x1a\n" + bytes(600)):
        with pytest.raises(ValueError, match="no MATLAB 5 header"):
            load(tmp_path, data, "numbers")
    with pytest.raises(ValueError, match="no file at"):
        load_mat(LocalFiles(), str(tmp_path / "none.mat"), "a", expected="something")


@pytest.mark.samples
def test_the_owners_files_pass(samples_dir: Path) -> None:
    paths = sorted(samples_dir.rglob("*.mat"))
    assert len(paths) >= 7
    for path in paths:
        names = [name for name, _, _ in scipy.io.whosmat(path)]
        load_mat(LocalFiles(), str(path), *names, expected="")
