"""MANO's files bring the mean pose that their poses are relative to."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from mesh_lib.body.files import Body, convert_pkl, load_body
from mesh_lib.body.hands import check_right_hand, is_hand, mean_pose
from tests.hands import hand_arrays


def test_the_mean_pose_comes_out_of_the_owners_file_and_out_of_what_is_kept_of_it(tmp_path: Path) -> None:
    arrays = hand_arrays()
    extra = {"hands_components": np.eye(45), "hands_coeffs": np.zeros((9, 45)), "bs_style": "lbs"}
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(pickle.dumps(arrays | extra))
    np.savez(tmp_path / "kept.npz", **convert_pkl(tmp_path / "MANO_RIGHT.pkl"))
    for name in ("MANO_RIGHT.pkl", "kept.npz"):
        body = load_body(tmp_path / name)
        np.testing.assert_array_equal(body.hands_mean, arrays["hands_mean"].reshape(15, 3))
        np.testing.assert_array_equal(mean_pose(body)[0], [0, 0, 0])
        np.testing.assert_array_equal(mean_pose(body)[1:].ravel(), arrays["hands_mean"])
        check_right_hand(body)


def test_a_mean_pose_of_another_hand_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "hand.npz", **hand_arrays() | {"hands_mean": np.zeros(42)})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"hands_mean has shape \(42,\), expected \(45\)"):
        load_body(tmp_path / "hand.npz")


def test_a_body_is_no_hand_and_has_no_mean_pose(body: Body) -> None:
    assert not is_hand(body) and body.hands_mean is None
