"""Verify finds what is wrong with labels, whatever it is, and says nothing against good ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.verify import Job, main
from pipelines.verify import verify

pytestmark = pytest.mark.ray


def files(labels: Path) -> list[Path]:
    return sorted((labels / "pseudo_gt").rglob("*.parquet"))


def rewrite(labels: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Another first file under the same name; the promised sizes follow, so that only its content is wrong."""
    path = files(labels)[0]
    pq.write_table(change(pq.ParquetFile(path).read()), path, write_page_checksum=True)
    success = json.loads((labels / "_SUCCESS.json").read_text())
    for one in success["files"]:
        one["bytes"] = (labels / "pseudo_gt" / one["path"]).stat().st_size
    (labels / "_SUCCESS.json").write_text(json.dumps(success))


def with_values(table: pa.Table, name: str, row: int, value: float) -> pa.Table:
    rows = table.column(name).to_pylist()
    rows[row] = [value, *rows[row][1:]] if isinstance(rows[row], list) else value
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(name), pa.array(rows, table.schema.field(name).type))


def flip_a_bit(labels: Path) -> None:
    path = files(labels)[0]
    data = bytearray(path.read_bytes())
    offset = pq.ParquetFile(path).metadata.row_group(0).column(20).data_page_offset
    data[offset + 200] ^= 0x10
    path.write_bytes(data)


FAULTS: dict[str, Callable[[Path], object]] = {
    "file_missing": lambda f: files(f)[0].unlink(),
    "file_unknown": lambda f: shutil.copy(files(f)[0], files(f)[0].with_name("again.parquet")),
    "duplicate": lambda f: rewrite(f, lambda t: pa.concat_tables([t, t.slice(0, 1)])),
    "sample_missing": lambda f: rewrite(f, lambda t: t.slice(1)),
    "damaged": flip_a_bit,
    "not_finite": lambda f: rewrite(f, lambda t: with_values(t, "betas", 3, np.nan)),
    "camera_self_check": lambda f: rewrite(f, lambda t: with_values(t, "camera_self_check_px", 2, 0.7)),
    "key": lambda f: rewrite(f, lambda t: with_values(t, "sample_key", 0, 7)),
    "schema": lambda f: rewrite(f, lambda t: t.drop_columns(["focal_px"])),
    "lineage": lambda f: rewrite(
        f, lambda t: t.replace_schema_metadata({**(t.schema.metadata or {}), b"annotator_sha256": b"other"})
    ),
    "incomplete": lambda f: (f / "_SUCCESS.json").unlink(),
    "count": lambda f: (f / "_SUCCESS.json").write_text(
        (f / "_SUCCESS.json").read_text().replace('"ok": 24', '"ok": 23')
    ),
    "status": lambda f: shutil.copytree(f / "pseudo_gt" / "status=ok", f / "pseudo_gt" / "status=fine"),
    "label_of_quarantined": lambda f: (f / "pseudo_gt" / "status=ok").rename(f / "pseudo_gt" / "status=bad_box"),
    "file_size": lambda f: (f / "_SUCCESS.json").write_text(
        (f / "_SUCCESS.json").read_text().replace('"bytes": ', '"bytes": 1')
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found(fault: str, tiny_labels: Path, tmp_path: Path) -> None:
    labels = Path(shutil.copytree(tiny_labels, tmp_path / "labels"))
    FAULTS[fault](labels)
    audit = verify(str(labels))
    assert audit.faults[fault] > 0 and audit.examples[fault], audit.record()


def test_good_labels_are_good(tiny_labels: Path, photo_labels: Path) -> None:
    for labels, rows in ((tiny_labels, 24), (photo_labels, 6)):
        audit = verify(str(labels))
        assert audit.good and audit.rows == audit.samples == rows, audit.record()


def test_the_command_answers_by_its_exit_code_and_in_json(
    tiny_labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(Job(path=str(tiny_labels), json=True))
    told = json.loads(capsys.readouterr().out)
    assert told["good"] and told["rows"] == told["samples"] == 24 and told["statuses"] == {"ok": 24}
    labels = Path(shutil.copytree(tiny_labels, tmp_path / "labels"))
    files(labels)[0].unlink()
    with pytest.raises(SystemExit) as done:
        main(Job(path=str(labels), json=True))
    assert done.value.code == 1
    assert json.loads(capsys.readouterr().out)["faults"]["sample_missing"] > 0
    with pytest.raises(ValueError, match="not a run folder"):
        main(Job(path=str(tmp_path)))
    with pytest.raises(ValueError, match=r"run of train_annotator, not of annotate"):
        main(Job(path=str(json.loads((tiny_labels / "run.json").read_text())["settings"]["annotator"])))
