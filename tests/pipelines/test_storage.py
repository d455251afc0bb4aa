"""Local folders and S3 behave alike: whole files or none, listed, read back, absent ones named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from mesh_lib import tables
from mesh_lib.body.joints import COCO17
from mesh_lib.datasets import json_stream
from mesh_lib.datasets.people import LocalFiles
from pipelines import storage


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"{request.getfixturevalue('s3')}/{tmp_path.name}"


def test_what_is_written_is_read_back_and_listed(folder: str) -> None:
    storage.write_json(storage.join(folder, "a", "b.json"), {"x": [1, 2]})
    storage.write_bytes(storage.join(folder, "a", "c.bin"), b"\x00\x01")
    assert storage.read_json(storage.join(folder, "a", "b.json")) == {"x": [1, 2]}
    assert storage.read_bytes(storage.join(folder, "a", "c.bin")) == b"\x00\x01"
    names = [Path(path).name for path, _ in storage.list_files(folder)]
    assert names == ["b.json", "c.bin"], "no temporary file stays"
    assert storage.exists(storage.join(folder, "a")) and not storage.exists(storage.join(folder, "z"))


def test_readers_take_what_it_opens(folder: str, tmp_path: Path) -> None:
    """Their types are checked while tests run, and once for each class: one stream must not speak ill of the next."""
    (tmp_path / "x.json").write_bytes(b"{}")
    storage.write_bytes(f"{folder}/x.json", b"{}")
    for files, path in ((storage.Files(), f"{folder}/x.json"), (LocalFiles(), str(tmp_path / "x.json"))):
        with files.open(path) as stream:
            json_stream.check_closed(stream, where=path)
            assert stream.read() == b"{}"


def test_a_bare_name_is_in_the_folder_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage.write_bytes("a.html", b"x")
    assert (tmp_path / "a.html").read_bytes() == b"x" == storage.read_bytes("a.html")


def test_samples_go_through_parquet_unchanged(folder: str) -> None:
    rows = [{"sample_id": f"d/s/{i}/0", "keypoints_2d_px": np.full((17, 3), i)} for i in range(300)]
    table = tables.samples_table(rows, COCO17)
    storage.write_parquet(table, storage.join(folder, "part-0.parquet"))
    assert storage.read_parquet(folder).equals(table)
    assert storage.read_parquet(folder, columns=["sample_id"]).column_names == ["sample_id"]
    assert storage.parquet_schema(folder).metadata[b"joint_set"] == b"coco17"


def test_all_but_pictures_is_compressed(tmp_path: Path) -> None:
    rows = [{"sample_id": f"d/s/{i}/0", "image": b"x" * 99, "keypoints_2d_px": np.ones((17, 3))} for i in range(300)]
    storage.write_parquet(tables.samples_table(rows, COCO17), str(tmp_path / "a.parquet"))
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    assert {column.path_in_schema for column in columns if column.compression == "UNCOMPRESSED"} == {"image"}
    assert {column.compression for column in columns} == {"UNCOMPRESSED", "SNAPPY"}
    assert any(column.path_in_schema.startswith("camera.") for column in columns)


def test_writing_again_replaces(folder: str) -> None:
    for value in (1, 2):
        storage.write_json(storage.join(folder, "x.json"), value)
    assert storage.read_json(storage.join(folder, "x.json")) == 2
    storage.delete_contents(folder)
    assert storage.list_files(folder) == []


def test_what_fails_half_way_leaves_nothing(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "here"), b"")
    table = pa.table({"a": [1, 2]})

    def text() -> None:
        with storage.writing(storage.join(folder, "a.json")) as stream:
            stream.write(b"half")
            raise KeyboardInterrupt

    def rows() -> None:
        with storage.writing_parquet(storage.join(folder, "a.parquet"), table.schema) as write:
            write(table)
            raise KeyboardInterrupt

    for fail in (text, rows):
        with pytest.raises(KeyboardInterrupt):
            fail()
    system, inner = storage.resolve(folder)
    assert [info.base_name for info in system.get_file_info(fs.FileSelector(inner))] == ["here"]


def test_manifests_and_temporary_files_are_not_data(folder: str) -> None:
    for name in ("_SUCCESS.json", ".pending-x", "_ray/state.json", "part.parquet"):
        storage.write_bytes(storage.join(folder, name), b"x")
    assert [Path(path).name for path, _ in storage.list_files(folder)] == ["part.parquet"]


def test_absent_and_empty_folders_are_named(folder: str) -> None:
    with pytest.raises(ValueError, match=r"no labels at .*nowhere: it does not exist"):
        storage.parquet_files(storage.join(folder, "nowhere"), what="labels")
    storage.write_bytes(storage.join(folder, "readme.txt"), b"x")
    with pytest.raises(ValueError, match=r"holds no \.parquet file"):
        storage.read_parquet(folder)


def test_a_picture_that_is_not_there_is_none(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "a.jpg"), b"x")
    assert storage.read_image(storage.join(folder, "a.jpg")) == b"x"
    assert storage.read_image(storage.join(folder, "gone.jpg")) is None
    assert storage.read_image(None) is None


def test_what_is_not_json_says_which_file(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "run.json"), b"{")
    with pytest.raises(ValueError, match=r"run\.json is not JSON"):
        storage.read_json(storage.join(folder, "run.json"))


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot open ftp://x"):
        storage.resolve("ftp://x/y")
