"""LSP-Extended: junk of hidden joints dropped, look-alikes refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from mesh_lib.datasets.images import picture_size
from mesh_lib.datasets.lspet import LSPET14, Lspet
from mesh_lib.datasets.people import LocalFiles, Person

ANKLE = LSPET14.index("right_ankle")


def joints(pictures: int = 3) -> np.ndarray:
    """Joint k of picture i lies at (10 k, 1000 + i); the right ankle is hidden and holds junk."""
    made = np.ones((14, 3, pictures))
    made[:, 0] = 10.0 * np.arange(14)[:, None]
    made[:, 1] = 1000.0 + np.arange(pictures)
    made[ANKLE] = np.array([0.0, -26.1, 0.0])[:, None]
    return made


def write(folder: Path, values: Any = None, *, picture: str = "images/im00001.jpg") -> Path:
    scipy.io.savemat(folder / "joints.mat", {"joints": joints() if values is None else values})
    (folder / picture).parent.mkdir(exist_ok=True)
    (folder / picture).write_bytes(b"")
    return folder


def read(folder: Path) -> tuple[list[Person], Counter[str]]:
    skipped: Counter[str] = Counter()
    reader = Lspet(folder=str(folder))
    (unit,) = reader.units(LocalFiles())
    return list(reader.people(unit, LocalFiles(), skipped)), skipped


def test_each_column_is_the_person_of_its_picture(tmp_path: Path) -> None:
    found, skipped = read(write(tmp_path))
    assert [person.image_id for person in found] == ["im00001", "im00002", "im00003"] and not skipped
    assert found[2].picture == f"{tmp_path}/images/im00003.jpg" and found[2].bbox_xywh_px is None
    for name, k in (("right_knee", 1), ("left_hip", 3), ("right_wrist", 6), ("neck", 12), ("head_top", 13)):
        np.testing.assert_array_equal(found[2].keypoints_2d_px[LSPET14.index(name)], (10 * k, 1002, 1))


def test_the_junk_of_a_hidden_joint_is_dropped(tmp_path: Path) -> None:
    found, _ = read(write(tmp_path))
    assert all(not person.keypoints_2d_px[ANKLE].any() for person in found)
    assert all(person.keypoints_2d_px[:, 2].sum() == 13 for person in found)


def test_what_is_no_number_stays_for_annotate_to_quarantine(tmp_path: Path) -> None:
    values = joints(2)
    values[3, 0, 1], values[4, 2, 1] = np.nan, np.nan
    (_, person), _ = read(write(tmp_path, values))
    assert np.isnan(person.keypoints_2d_px[3, 0]) and (person.keypoints_2d_px[3:5, 2] == 1).all()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.ones((3, 14, 2000)), "it is LSP"), (np.ones((14, 2, 9)), "joints has shape"),
        (np.ones((14, 3)), "joints has shape"), (np.array([["no"]], object), "not an array of numbers"),
    ],
)  # fmt: skip
def test_other_shapes_are_refused(tmp_path: Path, values: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        read(write(tmp_path, values))
    assert "joints.mat" in str(error.value)


@pytest.mark.parametrize("picture", ["im00001.png", "im00007.png", "images/im00001.png"])
def test_hr_lspet_is_refused(tmp_path: Path, picture: str) -> None:
    with pytest.raises(ValueError, match=r"HR-LSPET[\s\S]*fix:"):
        read(write(tmp_path, picture=picture))


def test_a_missing_or_cut_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"joints\.mat[\s\S]*lspet_dataset"):
        read(tmp_path)
    path = write(tmp_path) / "joints.mat"
    whole = path.read_bytes()
    for end in (0, 100, 130, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"joints\.mat"):
            read(tmp_path)


@pytest.mark.samples
def test_the_real_file(samples_dir: Path) -> None:
    found, skipped = read(samples_dir / "lspet")
    assert len(found) == 400 and found[399].image_id == "im00400" and not skipped
    assert sum(person.keypoints_2d_px[:, 2].sum() for person in found) == 4866
    assert found[0].keypoints_2d_px[ANKLE].tolist() == [0, 0, 0]
    np.testing.assert_allclose(found[0].keypoints_2d_px[LSPET14.index("head_top")], (116.56859752, 53.42206246, 1))
    pictures = 0
    for person in found:
        if not Path(person.picture).exists():
            continue
        size = picture_size(Path(person.picture).read_bytes())
        seen = person.keypoints_2d_px[person.keypoints_2d_px[:, 2] > 0, :2]
        assert (seen >= 0).all() and (seen < size).all()
        assert 80 < np.linalg.norm(seen.max(axis=0) - seen.min(axis=0)) < 240  # people are about 150 px long
        pictures += 1
    assert pictures == 12
    for column in (9, 39):  # these two face the camera, upright: their left is on the right of the picture
        at = {name: found[column].keypoints_2d_px[i, :2] for i, name in enumerate(LSPET14.names)}
        for joint in ("shoulder", "elbow", "wrist", "knee"):
            assert at[f"left_{joint}"][0] > at[f"right_{joint}"][0]
        assert at["head_top"][1] < at["neck"][1] < at["left_elbow"][1] + 20
