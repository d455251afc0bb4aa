"""Annotate: one row for every sample, labels that draw themselves, reasons where there is none, and their lineage."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from jobs.annotate import Job, main
from jobs.report import Job as ReportJob
from jobs.report import main as report_main
from mesh_lib import tables
from mesh_lib.body.files import load_body
from mesh_lib.body.joints import COCO17
from pipelines import runs, storage
from pipelines.annotate import AnnotateStage
from pipelines.annotators import weights_sha256
from pipelines.bodies import cached_body
from pipelines.report import make_report
from pipelines.score import score_labels

pytestmark = pytest.mark.ray


def rows_of(labels: Path) -> pa.Table:
    """As anyone with pyarrow reads them."""
    return ds.dataset(labels / "pseudo_gt", partitioning="hive").to_table().sort_by("sample_key")


def test_every_sample_has_exactly_one_row(tiny_world: Path, tiny_labels: Path) -> None:
    samples = storage.read_parquet(str(tiny_world / "street"))
    found = rows_of(tiny_labels)
    assert sorted(found["sample_id"].to_pylist()) == sorted(samples["sample_id"].to_pylist())
    record = runs.load_run(tiny_labels, job="annotate")
    assert record["counts"] == {"ok": 24} and record["samples"] == str(tiny_world / "street")


def test_labels_are_finite_and_their_camera_is_right(tiny_labels: Path) -> None:
    found = rows_of(tiny_labels)
    for name in ("global_orient", "body_pose", "betas", "vposer_z", "transl_m", "joints_2d_px", "joints_3d_m"):
        assert np.isfinite(tables.numpy_column(found, name)).all(), name
    assert max(found["camera_self_check_px"].to_pylist()) < 0.5


def test_lineage_is_in_every_file(tiny_labels: Path, tiny_annotator: Path) -> None:
    for path in storage.parquet_files(str(tiny_labels / "pseudo_gt")):
        metadata = pa.parquet.read_schema(path).metadata  # type: ignore[attr-defined]
        assert metadata[b"run_id"].decode() == runs.load_run(tiny_labels, job="annotate")["run_id"]
        assert metadata[b"annotator_sha256"].decode() == weights_sha256(str(tiny_annotator))
        assert metadata[b"table"] == b"pseudo_gt" and b"batch_size" in metadata[b"recipe"]


def test_a_folder_of_pictures_just_works_and_loses_nobody(photo_labels: Path) -> None:
    out = photo_labels
    found = dict(zip(rows_of(out)["person_id"].to_pylist(), rows_of(out)["status"].to_pylist(), strict=True))
    assert found == {
        "1": "ok", "3": "ok", "4": "keypoints_not_finite", "5": "missing_image", "6": "bad_image", "7": "ok",
    }  # fmt: skip
    record = runs.load_run(out, job="annotate")
    assert record["counts"] == {"ok": 3, "keypoints_not_finite": 1, "bad_image": 1, "missing_image": 1}
    assert runs.load_run(out / "samples", job="ingest")["result"]["skipped"] == {"no_keypoints": 1}
    leaving = rows_of(out).filter(pa.compute.equal(rows_of(out)["person_id"], "7"))  # type: ignore[attr-defined]
    assert "crop_leaves_image" in leaving["flags"].to_pylist()[0]
    assert leaving["camera_self_check_px"].to_pylist()[0] < 0.5
    assert leaving["keypoints_used"].to_pylist() == [17], "those that were given; the pelvis between the hips was not"


def test_every_reason_for_no_label(tiny_annotator: Path, tmp_path: Path) -> None:
    good = {
        "image": (storage.read_bytes(__file__)), "image_size": np.array([64, 64]),
        "crop_to_image": np.array([[1.0, 0, 0], [0, 1, 0]]), "bbox_xywh_px": np.array([5.0, 5, 40, 50]),
        "keypoints_2d_px": np.full((17, 3), 9.0),
    }  # fmt: skip
    unseen, nan = np.zeros((17, 3)), np.full((17, 3), 9.0)
    nan[3, 2] = np.nan
    import cv2

    picture = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    people = {
        "text": {}, "null": {"image": None}, "nan": {"keypoints_2d_px": nan},
        "unseen": {"image": picture, "keypoints_2d_px": unseen},
        "flat": {"image": picture, "bbox_xywh_px": np.array([5.0, 5, 0, 50])},
        "far": {"image": picture, "bbox_xywh_px": np.array([500.0, 500, 40, 50])},
        "fine": {"image": picture}, "sizeless": {"image": picture, "image_size": None},
    }  # fmt: skip
    table = tables.samples_table([{**good, "sample_id": f"x/y/{n}/0", **p} for n, p in people.items()], COCO17)
    storage.write_parquet(table, str(tmp_path / "samples" / "a.parquet"))
    main(Job(samples=str(tmp_path / "samples"), annotator=str(tiny_annotator), out=str(tmp_path / "labels")))
    found = rows_of(tmp_path / "labels")
    status = dict(zip(found["sample_id"].to_pylist(), found["status"].to_pylist(), strict=True))
    assert {name.split("/")[2]: value for name, value in status.items()} == {
        "text": "bad_image", "null": "missing_image", "unseen": "no_keypoints", "nan": "keypoints_not_finite",
        "flat": "bad_box", "far": "bad_box", "fine": "ok", "sizeless": "bad_image",
    }  # fmt: skip
    assert set(status.values()) - {"ok"} < set(tables.QUARANTINE)
    boxes = AnnotateStage(need_keypoints=False)
    main(
        Job(samples=str(tmp_path / "samples"), annotator=str(tiny_annotator), out=str(tmp_path / "boxes"), stage=boxes)
    )
    found = rows_of(tmp_path / "boxes")
    status = dict(zip(found["sample_id"].to_pylist(), found["status"].to_pylist(), strict=True))
    assert status["x/y/unseen/0"] == "ok", "its box is enough"
    strict = Job(
        samples=str(tmp_path / "samples"), annotator=str(tiny_annotator), out=str(tmp_path / "labels"),
        max_quarantined=0.5,
    )  # fmt: skip
    with pytest.raises(ValueError, match="only 1 of 8 samples were labelled"):
        main(strict)  # the labels stand already; what was asked of them is still judged


def test_mistakes_are_named_before_anything_is_made(
    tiny_world: Path, tiny_annotator: Path, tiny_prior: Path, tmp_path: Path
) -> None:
    job = Job(samples=str(tiny_world / "street"), annotator=str(tiny_annotator), out=str(tmp_path / "out"))
    for wrong, said in (
        ({"annotator": str(tiny_prior)}, "a run of train_prior, not of train_annotator"),
        ({"annotator": str(tmp_path / "gone")}, "not a run folder"),
        ({"samples": str(tmp_path / "gone")}, "it does not exist"),
        ({"samples": None}, "--samples, or --images"),
        ({"samples": None, "images": str(tmp_path)}, "--samples, or --images"),
    ):
        with pytest.raises(ValueError, match=said):
            main(dataclasses.replace(job, **wrong))
        assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="holds another run"):
        main(dataclasses.replace(job, out=str(tiny_world)))


def test_the_report_is_one_page_that_hides_nothing(photo_labels: Path) -> None:
    labels = photo_labels
    page = make_report(labels=str(labels), samples=str(labels / "samples"), title="Our <photos>")
    assert (page.rows, page.labelled) == (6, 3)
    assert "http" not in page.html.replace("http://www.w3.org", ""), "nothing is fetched"
    assert "Our &lt;photos&gt;" in page.html and "<script" not in page.html.lower()
    for text in ("bad_image", "keypoints_not_finite", "folder/all/1/4", "folder/all/2/5", "folder/all/1/7"):
        assert text in page.html
    assert page.html.count("data:image/jpeg;base64") >= 3 and page.html.count("data:image/png;base64") == 1
    flagged = Counter(flag for flags in rows_of(labels)["flags"].to_pylist() for flag in flags or ())
    assert page.flagged == flagged["high_reprojection"] > 0


def test_the_report_is_written_where_the_command_says(
    photo_labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare name, samples not named: as in the README."""
    monkeypatch.chdir(tmp_path)
    report_main(ReportJob(labels=str(photo_labels), out="photos.html"))
    assert "data:image/jpeg" in (tmp_path / "photos.html").read_text()


def test_a_report_of_other_samples_is_refused(tiny_labels: Path, tiny_world: Path) -> None:
    with pytest.raises(ValueError, match="are they another dataset's"):
        make_report(labels=str(tiny_labels), samples=str(tiny_world / "studio"), title="x")


def test_scores_are_against_the_truth_kept_aside(tiny_labels: Path, tiny_world: Path, tmp_path: Path) -> None:
    body = load_body(cached_body("low"))
    truth = str(tiny_world / "truth" / "street")
    score = score_labels(labels=str(tiny_labels), truth=truth, reference=truth, body=body)
    assert score.samples == 24 and 20 < score.mean_pose_pa_mpjpe_mm < 300 and 20 < score.pa_mpjpe_mm < 400
    perfect = storage.read_parquet(truth).select(["sample_key", "global_orient", "body_pose", "betas"])
    storage.write_parquet(perfect, str(tmp_path / "l" / "pseudo_gt" / "status=ok" / "a.parquet"))
    exact = score_labels(labels=str(tmp_path / "l"), truth=truth, reference=truth, body=body)
    assert exact.pa_mpjpe_mm < 0.1 and exact.mean_pose_pa_mpjpe_mm == score.mean_pose_pa_mpjpe_mm
    with pytest.raises(ValueError, match="has its truth"):
        score_labels(labels=str(tiny_labels), truth=str(tiny_world / "truth" / "studio"), reference=truth, body=body)
