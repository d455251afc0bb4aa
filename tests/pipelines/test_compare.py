"""Two label sets of the same samples: known differences come out as they were put in, and others are refused."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.spatial.transform import Rotation

from jobs.report import Job, main
from mesh_lib import tables
from mesh_lib.body.joints import BODY33
from pipelines import storage
from pipelines.compare import compare_labels
from pipelines.report import make_report

pytestmark = pytest.mark.ray


def ok_files(labels: Path) -> list[str]:
    return storage.parquet_files(str(labels / "pseudo_gt" / "status=ok"))


def edited(labels: Path, edit: Callable[[pa.Table], pa.Table], to: Path) -> Path:
    """A copy of labels with all of status ok in one file, edited, in another order."""
    shutil.copytree(labels, to)
    table = pa.concat_tables(pq.ParquetFile(path).read() for path in ok_files(to))
    for path in ok_files(to):
        Path(path).unlink()
    table = edit(table).sort_by("sample_key")
    pq.write_table(table, to / "pseudo_gt" / "status=ok" / "all.parquet", row_group_size=7)
    return to


def with_column(table: pa.Table, name: str, values: list | np.ndarray) -> pa.Table:
    at = table.schema.get_field_index(name)
    values = list(values) if isinstance(values, np.ndarray) and values.ndim > 1 else values
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))


def with_joints(table: pa.Table, move: Callable[[np.ndarray], np.ndarray]) -> pa.Table:
    joints_m = tables.numpy_column(table, "joints_3d_m").reshape(len(table), -1, 3).astype(np.float64)
    return with_column(table, "joints_3d_m", move(joints_m).reshape(len(table), -1))


def numbers(comparison: pa.Table, name: str) -> np.ndarray:
    return comparison[name].to_numpy()


def test_labels_equal_themselves(tiny_labels: Path, tmp_path: Path) -> None:
    same = edited(tiny_labels, lambda table: table, tmp_path / "same")
    found = compare_labels(labels=str(same), against=str(tiny_labels))
    assert (found.both, found.only_new, found.only_old, len(found.pairs)) == (24, 0, 0, 24)
    assert found.statuses == {("ok", "ok"): 24} and found.lineage == [] and not found.other_pictures
    for name in ("pa_mm", "root_mm", "change_px"):
        assert numbers(found.pairs, name) == pytest.approx(0, abs=1e-6), name
    assert (numbers(found.pairs, "error_px") == numbers(found.pairs, "error_px_old")).all()


def test_a_body_that_is_moved_is_the_same_body(tiny_labels: Path, tmp_path: Path) -> None:
    moved = edited(tiny_labels, lambda table: with_joints(table, lambda x: x + [0.3, -0.2, 4.0]), tmp_path / "moved")
    found = compare_labels(labels=str(moved), against=str(tiny_labels)).pairs
    assert numbers(found, "pa_mm") == pytest.approx(0, abs=0.02)
    assert numbers(found, "root_mm") == pytest.approx(0, abs=0.02)


def test_a_turned_body_differs_until_it_is_aligned(tiny_labels: Path, tmp_path: Path) -> None:
    """Half a turn about the vertical through the pelvis takes each joint to twice its distance from that axis."""
    known = {}

    def turn(joints_m: np.ndarray) -> np.ndarray:
        pelvis = joints_m[:, [BODY33.index("pelvis")]]
        known["mm"] = 2000 * np.linalg.norm((joints_m - pelvis)[..., [0, 2]], axis=-1).mean(axis=1)
        return (joints_m - pelvis) @ Rotation.from_euler("y", 180, degrees=True).as_matrix() + pelvis

    def edit(table: pa.Table) -> pa.Table:
        known["keys"] = table["sample_key"].to_numpy()
        return with_joints(table, turn)

    turned = edited(tiny_labels, edit, tmp_path / "turned")
    found = compare_labels(labels=str(turned), against=str(tiny_labels)).pairs.sort_by("sample_key")
    assert numbers(found, "pa_mm") == pytest.approx(0, abs=0.02)
    assert numbers(found, "root_mm") == pytest.approx(known["mm"][np.argsort(known["keys"])], abs=0.02)
    assert numbers(found, "root_mm").min() > 50


def test_one_joint_off_by_33_mm_is_1_mm_and_leads_the_list(tiny_labels: Path, tmp_path: Path) -> None:
    def edit(table: pa.Table) -> pa.Table:
        def move(joints_m: np.ndarray) -> np.ndarray:
            joints_m[5, BODY33.index("left_wrist"), 2] += 0.033
            joints_m[9, BODY33.index("left_wrist"), 2] += 0.330
            return joints_m

        keys.extend(table["sample_key"].to_pylist())
        return with_joints(table, move)

    keys: list[int] = []
    found = compare_labels(labels=str(edited(tiny_labels, edit, tmp_path / "off")), against=str(tiny_labels))
    differences = dict(zip(found.pairs["sample_key"].to_pylist(), found.pairs["root_mm"].to_pylist(), strict=True))
    assert differences[keys[5]] == pytest.approx(1, abs=0.01) and differences[keys[9]] == pytest.approx(10, abs=0.01)
    assert found.most_different(2) == [keys[9], keys[5]]
    assert found.percentile("root_mm", 50) == 0


def test_alignment_takes_the_newer_label_to_the_size_of_the_older(tiny_labels: Path, tmp_path: Path) -> None:
    def edit(table: pa.Table) -> pa.Table:
        def move(joints_m: np.ndarray) -> np.ndarray:
            joints_m[:, BODY33.index("left_wrist"), 2] += 0.033
            return 3 * joints_m

        return with_joints(table, move)

    large = edited(tiny_labels, edit, tmp_path / "large")
    down = compare_labels(labels=str(large), against=str(tiny_labels)).pairs.sort_by("sample_key")
    up = compare_labels(labels=str(tiny_labels), against=str(large)).pairs.sort_by("sample_key")
    assert 0 < numbers(down, "pa_mm").max() < 3
    assert numbers(up, "pa_mm") == pytest.approx(3 * numbers(down, "pa_mm"), rel=0.02)


def test_errors_and_flags_are_compared_sample_by_sample(tiny_labels: Path, tmp_path: Path) -> None:
    def older(table: pa.Table) -> pa.Table:
        table = with_column(table, "reprojection_error_px", np.arange(24.0))
        return with_column(table, "flags", [["few_keypoints", "implausible_pose"]] * 6 + [[]] * 18)

    def newer(table: pa.Table) -> pa.Table:
        table = with_column(table, "reprojection_error_px", np.arange(24.0) - 1.5)
        return with_column(table, "flags", [["few_keypoints"]] * 3 + [[]] * 20 + [["implausible_shape"]])

    sets = [edited(tiny_labels, edit, tmp_path / edit.__name__) for edit in (newer, older)]
    found = compare_labels(labels=str(sets[0]), against=str(sets[1]))
    assert numbers(found.pairs, "change_px") == pytest.approx(-1.5)
    assert found.percentile("error_px_old", 50) == 11.5 and found.percentile("error_px", 50) == 10
    assert found.flags == [("few_keypoints", 6, 3), ("implausible_pose", 6, 0), ("implausible_shape", 0, 1)]


def test_a_sample_that_one_set_lacks_or_has_quarantined_is_counted(tiny_labels: Path, tmp_path: Path) -> None:
    shorter = edited(tiny_labels, lambda table: table[2:], tmp_path / "shorter")
    refused: list[pa.Table] = []

    def edit(table: pa.Table) -> pa.Table:
        refused.append(table[:3])
        return table[3:]

    strict = edited(tiny_labels, edit, tmp_path / "strict")
    (strict / "pseudo_gt" / "status=bad_box").mkdir()
    pq.write_table(refused[0], strict / "pseudo_gt" / "status=bad_box" / "a.parquet")
    found = compare_labels(labels=str(strict), against=str(shorter))
    assert (found.both, found.only_new, found.only_old) == (22, 2, 0)
    assert found.statuses == {("ok", "ok"): 21, ("ok", "bad_box"): 1} and len(found.pairs) == 21
    back = compare_labels(labels=str(shorter), against=str(strict))
    assert (back.both, back.only_new, back.only_old) == (22, 0, 2)
    assert back.statuses == {("ok", "ok"): 21, ("bad_box", "ok"): 1} and len(back.pairs) == 21


def test_two_sets_without_a_label_in_common_still_compare(tiny_labels: Path, tiny_world: Path, tmp_path: Path) -> None:
    none = tmp_path / "none"
    shutil.copytree(tiny_labels, none)
    (none / "pseudo_gt" / "status=ok").rename(none / "pseudo_gt" / "status=not_finite")
    for new, old in ((none, tiny_labels), (tiny_labels, none)):
        page = make_report(labels=str(new), samples=str(tiny_world / "street"), title="x", against=str(old))
        assert page.comparison and page.comparison.statuses.total() == 24 and not len(page.comparison.pairs)
        assert page.comparison.percentile("pa_mm", 50) is None and page.comparison.most_different(12) == []
        assert "The 0 labels that differ most" in page.html


def test_labels_without_an_error_are_compared_all_the_same(tiny_labels: Path, tmp_path: Path) -> None:
    """Where samples need no keypoints, labels have no reprojection error."""

    def edit(table: pa.Table) -> pa.Table:
        for name in ("reprojection_error_px", "reprojection_error_box"):
            table = with_column(table, name, [None] * len(table))
        return table

    blind = edited(tiny_labels, edit, tmp_path / "blind")
    page = make_report(labels=str(blind), samples=_samples(tiny_labels), title="x", against=str(tiny_labels))
    assert page.median_reprojection_px is None and "– px, – of the box" in page.html
    assert page.comparison and page.comparison.percentile("change_px", 50) is None and "– px, was " in page.html
    assert page.comparison.percentile("root_mm", 95) == pytest.approx(0, abs=1e-6)


def test_lineage_tells_what_differs_setting_by_setting(tiny_labels: Path, tmp_path: Path) -> None:
    def edit(table: pa.Table) -> pa.Table:
        lines = dict(table.schema.metadata)
        assert b"'batch_size': 8" in lines[b"recipe"]
        lines[b"recipe"] = lines[b"recipe"].replace(b"'batch_size': 8", b"'batch_size': 16")
        return table.replace_schema_metadata(lines | {b"run_id": b"other", b"samples_fingerprint": b"other"})

    other = edited(tiny_labels, edit, tmp_path / "other")
    found = compare_labels(labels=str(other), against=str(tiny_labels))
    assert [name.rpartition(".")[2] for name, _, _ in found.lineage] == ["batch_size", "run_id", "samples_fingerprint"]
    assert found.lineage[0][0].startswith("recipe.") and found.lineage[0][1:] == ("8", "16")
    assert found.other_pictures


def test_labels_of_other_samples_or_joints_are_refused(tiny_labels: Path, photo_labels: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"share no sample: none of the 24 samples .* the 6 of the other\n  fix"):
        compare_labels(labels=str(tiny_labels), against=str(photo_labels))
    with pytest.raises(ValueError, match="no labels at"):
        compare_labels(labels=str(tiny_labels), against=str(tmp_path))

    def edit(table: pa.Table) -> pa.Table:
        return table.replace_schema_metadata(dict(table.schema.metadata) | {b"joint_names": b"nose,neck"})

    other = edited(tiny_labels, edit, tmp_path / "other")
    with pytest.raises(ValueError, match="do not have the joints of body33"):
        compare_labels(labels=str(tiny_labels), against=str(other))
    job = Job(labels=str(tiny_labels), against=str(tmp_path / "gone"), out=str(tmp_path / "x.html"))
    with pytest.raises(ValueError, match="not a run folder"):
        main(job)


def test_the_page_shows_what_has_changed(tiny_labels: Path, tmp_path: Path) -> None:
    quarter = Rotation.from_euler("y", 90, degrees=True)

    def turn(joints_m: np.ndarray) -> np.ndarray:
        pelvis = joints_m[:, [BODY33.index("pelvis")]]
        return (joints_m - pelvis) @ quarter.as_matrix().T + pelvis

    def edit(table: pa.Table) -> pa.Table:
        turned = quarter * Rotation.from_rotvec(tables.numpy_column(table, "global_orient"))
        return with_joints(with_column(table, "global_orient", turned.as_rotvec()), turn)

    older = edited(tiny_labels, edit, tmp_path / "older")
    main(Job(labels=str(tiny_labels), against=str(older), out=str(tmp_path / "page.html")))
    page = (tmp_path / "page.html").read_text()
    for text in ("What has changed", f"Since the older labels {older}", "The 12 labels that differ most",
                 "<td>ok</td><td>ok</td><td class=\"n\">24</td>", " mm apart, 0.0 mm once aligned; "):  # fmt: skip
        assert text in page, text
    wide = page[page.index('class="sheet wide"') : page.index("Lineage that differs")]
    strips = re.findall(r"data:image/jpeg;base64,([^\"]+)", wide)
    assert len(strips) == 12
    strip = cv2.imdecode(np.frombuffer(base64.b64decode(strips[0]), np.uint8), cv2.IMREAD_COLOR)
    assert strip is not None
    _, mesh, older_mesh, side, older_side = np.split(strip.astype(float), 5, axis=1)
    assert np.abs(mesh - older_mesh).max() > 100 and np.abs(side - older_side).max() > 100, "each label is drawn"
    plain = make_report(labels=str(tiny_labels), samples=_samples(tiny_labels), title="x")
    assert plain.comparison is None and "What has changed" not in plain.html


def _samples(labels: Path) -> str:
    return storage.read_json(str(labels / "run.json"))["samples"]
