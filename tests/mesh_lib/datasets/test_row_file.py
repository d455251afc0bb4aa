"""Rows on disk: found by their key, whatever their order."""

from __future__ import annotations

import numpy as np
import pytest

from mesh_lib.datasets.row_file import RowFile


def test_rows_come_back_by_their_keys_bit_for_bit() -> None:
    rows = {f"{i}/x": np.random.default_rng(i).normal(size=5) for i in range(300)}
    with RowFile(rows.items(), width=5) as file:
        assert len(file) == 300
        for key in reversed(rows):
            found = file.of(key)
            assert found is not None
            np.testing.assert_array_equal(found, rows[key])
        assert file.of("300/x") is None and file.of("") is None


def test_an_empty_file_knows_nothing_and_the_last_of_two_rows_counts() -> None:
    with RowFile((), width=3) as file:
        assert file.of("a") is None
    with RowFile([("a", np.ones(1)), ("b", np.zeros(1)), ("a", np.full(1, 7.0))], width=1) as file:
        found = file.of("a")
        assert found is not None and found.tolist() == [7]


def test_what_fails_while_rows_are_made_leaves_no_open_file() -> None:
    def rows():
        yield "a", np.ones(1)
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        RowFile(rows(), width=1)
