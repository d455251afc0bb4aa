from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mesh_lib import tables
from mesh_lib.body.joints import BODY33, COCO17


def test_null_rows_do_not_shift_the_rows_after_them() -> None:
    rows = [{"sample_id": "a"}, {"sample_id": "b", "smpl_betas": np.arange(10.0)}]
    table = tables.samples_table(rows, COCO17)
    column = tables.numpy_column(table, "smpl_betas")
    assert np.isnan(column[0]).all()
    assert column[1].tolist() == list(range(10))
    assert tables.numpy_column(table.slice(1), "smpl_betas").tolist() == [list(range(10))]


@pytest.mark.parametrize("through_file", [False, True])
def test_a_column_without_a_value_keeps_its_kind(tmp_path, through_file: bool) -> None:
    table = tables.samples_table([{"sample_id": "a/b/c/0"}] * 3, COCO17)
    if through_file:
        pq.write_table(table, tmp_path / "a.parquet")
        table = pq.read_table(tmp_path / "a.parquet")
    for name, kind in (("mano_valid", bool), ("image_size", np.int32)):
        values = tables.numpy_column(table, name)
        assert values.dtype == kind and values.shape == (3, 2) and not values.any()
    assert np.isnan(tables.numpy_column(table, "bbox_xywh_px")).all()


@pytest.mark.parametrize("most", [tables.MOST_BYTES, 4])
def test_pictures_come_whole_also_those_of_more_than_an_array_holds(monkeypatch, most: int) -> None:
    monkeypatch.setattr(tables, "MOST_BYTES", most)
    pictures = [b"one", None, b"", b"four"]
    rows = [{"sample_id": f"a/b/c/{i}", "image": picture} for i, picture in enumerate(pictures)]
    table = tables.samples_table(rows, COCO17)
    table.validate(full=True)
    assert table["image"].to_pylist() == pictures


def test_a_file_names_its_joints_so_that_anyone_can_read_it(tmp_path) -> None:
    pq.write_table(tables.samples_table([{"sample_id": "a"}], COCO17), tmp_path / "x.parquet")
    schema = pq.read_schema(tmp_path / "x.parquet")
    assert schema.metadata[b"joint_names"].decode().split(",") == list(COCO17.names)
    assert tables.joint_set_of(schema, where="x") == COCO17
    assert schema.field("keypoints_2d_px").metadata[b"shape"] == b"17,3"


def test_a_file_that_is_not_samples_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"other.parquet does not hold annomesh samples"):
        tables.joint_set_of(pa.schema([("x", pa.int32())]), where="other.parquet")


def test_samples_of_another_schema_version_are_refused() -> None:
    schema = tables.samples_schema(BODY33)
    schema = schema.with_metadata(schema.metadata | {b"schema_version": b"99"})
    with pytest.raises(ValueError, match="version 99"):
        tables.joint_set_of(schema, where="x")


def test_a_column_that_the_schema_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="betass"):
        tables.samples_table([{"sample_id": "a", "betass": 1}], COCO17)


def test_sample_keys_are_stable_across_machines_and_versions() -> None:
    assert tables.sample_key("coco/val/139/230831") == 7380511647597608110


def test_two_people_with_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="appears twice"):
        tables.check_keys(["a/b", "a/c", "a/b"])


def test_duckdb_and_pandas_read_samples_without_our_code(tmp_path) -> None:
    import duckdb

    path = tmp_path / "x.parquet"
    pq.write_table(tables.samples_table([{"sample_id": "a", "smpl_betas": np.arange(10.0)}], COCO17), path)
    assert duckdb.connect().execute(f"select smpl_betas[3] from '{path}'").fetchall() == [(2.0,)]
    assert pq.read_table(path).to_pandas()["smpl_betas"][0].tolist() == list(range(10))
