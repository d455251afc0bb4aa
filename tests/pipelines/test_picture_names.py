"""What pictures are called: no name of two, and no picture's name cut short."""

from __future__ import annotations

import numpy as np
import pytest

from mesh_lib.tables import sample_key
from pipelines.picture_names import DEPTH, Suffixes, UniqueNames, common_folder, file_name, two_pictures


@pytest.mark.parametrize(
    ("uri", "root", "name"),
    [
        ("/data/a/x.jpg", "", "x.jpg"),
        ("/data/a/x.jpg", "/data", "a/x.jpg"),
        ("/data/a/x.jpg", "/data/", "a/x.jpg"),
        ("/data/a/x.jpg", "/dat", "x.jpg"),
        ("s3://b/a/x.jpg", "s3://b", "a/x.jpg"),
        (None, "", "S1/Seq1/video_0/000001"),
        (None, "/data", "S1/Seq1/video_0/000001"),
    ],
)
def test_a_picture_is_called_by_its_path_or_by_its_whole_id(uri: str | None, root: str, name: str) -> None:
    assert file_name(uri, "S1/Seq1/video_0/000001", root) == name


def test_a_name_of_two_pictures_is_found_however_far_apart_they_are() -> None:
    names = UniqueNames()
    for batch in range(50):
        mine = [f"{batch}-{i}.jpg" for i in range(20)]
        assert names.add([*mine, *mine], [*mine, *mine]) is None, "several people of one picture"
    assert names.find() is None
    names.add(["3-7.jpg"], ["another"])
    assert names.find() == sample_key("3-7.jpg")


def test_what_is_kept_is_16_bytes_a_picture() -> None:
    names = UniqueNames()
    for _ in range(64):
        names.add([f"{i}.jpg" for i in range(100)], [f"/a/{i}.jpg" for i in range(100)])
    assert names._known.nbytes + sum(part.nbytes for part in names._new) <= 2 * 16 * 100


def test_suffixes_are_those_of_the_last_parts() -> None:
    suffixes = Suffixes()
    for name in ("/root/a/x.jpg", "a\\x.jpg", "./a/x.jpg", "b/x.jpg"):
        suffixes.add(name, name)
    table = suffixes.table()
    assert table.shape == (4, DEPTH + 1)
    assert len(set(table[:, 0])) == 1 and len(set(table[:3, 1])) == 1 and table[3, 1] != table[0, 1]
    assert table[0, 2] != 0 and not table[1:, 2:DEPTH].any() and len(set(table[:, DEPTH])) == 4


def test_two_pictures_of_one_name() -> None:
    assert two_pictures(np.array([[1, 5], [2, 6], [1, 5], [3, 6]])) is None
    assert two_pictures(np.array([[1, 5], [2, 6], [1, 7]])) == (0, 2)
    assert two_pictures(np.empty((0, 2), np.int64)) is None


def test_the_folder_of_two_files() -> None:
    assert common_folder("/data/a/x.jpg", "/data/ab/x.jpg") == "/data"
    assert common_folder("s3://b/a/x.jpg", "s3://b/c/x.jpg") == "s3://b"
    assert common_folder("/a/x", "/b/x") == "/"
