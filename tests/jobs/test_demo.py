"""The demo's line at tiny size: every stage for real, its summary complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.demo import Job, main, table
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from pipelines.demo import Coco, Plan, demo, plan
from pipelines.runs import open_run
from pipelines.synthesize import World
from pipelines.train_annotator import AnnotatorTraining
from pipelines.train_prior import PriorTraining

TINY = Plan(
    world=World(studio=16, street=24, street3d=8, street_test=0, size=96),
    prior=PriorTraining(generated=128, steps=4, batch_size=32),
    training=AnnotatorTraining(
        model=Pose2PoseConfig(backbone=18, input_width=64, input_height=64),
        batch_size=8,
        epochs=1,
        samples_per_epoch=16,
    ),
    control=True,
)


def interrupt(**_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.ray
def test_the_whole_line_from_nothing_to_a_report(
    ray_cluster: None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By relative paths, which Ray's workers, running elsewhere, must not read as their own."""
    monkeypatch.chdir(tmp_path)
    coco = Coco(annotations=f"{photos.name}/keypoints.json", images=photos.name)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipelines.demo.make_report", interrupt)
        demo(open_run("demo", job="demo", settings={}, resume=True), chosen=TINY, coco=coco)
    stages = sorted((tmp_path / "demo").glob("*/run.json"))
    before = {path: json.loads(path.read_text()) for path in stages}
    made = demo(open_run("demo", job="demo", settings={}, resume=True), chosen=TINY, coco=coco)
    assert len(stages) == 8 and before == {path: json.loads(path.read_text()) for path in stages}, "nothing done twice"
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary == made
    assert summary["samples"] == 24
    assert set(summary["pa_mpjpe_mm"]) == {"mean_pose", "labels", "labels_without_3d"}
    assert all(10 < value < 500 for value in summary["pa_mpjpe_mm"].values())
    assert summary["coco"] == {
        "persons": 5, "labelled": 2, "quarantined": 3,
        "median_reprojection_error_px": summary["coco"]["median_reprojection_error_px"],
        "flagged_high_reprojection": summary["coco"]["flagged_high_reprojection"],
    }  # fmt: skip
    assert summary["coco"]["median_reprojection_error_px"] > 0
    assert summary["peak_memory_gb"] > 0.5 and len(summary["seconds"]) == 11
    assert summary["total_seconds"] == pytest.approx(sum(summary["seconds"].values()), abs=0.2)
    for name in ("report.html", "report-coco.html"):
        assert "data:image/jpeg" in (tmp_path / "demo" / name).read_text()
    told = "\n".join(table(summary))
    assert "median reprojection error – px" in "\n".join(
        table(summary | {"coco": summary["coco"] | {"median_reprojection_error_px": None}})
    )
    assert "24 street samples" in told and "f without any 3D" in told and "5 people, 2 labelled, 3 quarantined" in told


def test_the_presets_are_whole_plans() -> None:
    quick, evening = plan("quick"), plan("evening")
    assert evening.control and not quick.control
    for chosen in (quick, evening):
        assert chosen.training.weak_share == 0.5 and chosen.training.model.pose_head == "vposer"
        assert chosen.training.loss.l2_weight == 1e-2 and not chosen.training.withhold_3d


def test_wrong_pictures_are_named_before_the_long_work(photos: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(ValueError, match="together"):
        main(Job(out=out, coco_images=str(photos)))
    with pytest.raises(ValueError, match="no annotation file"):
        main(Job(out=out, coco_annotations=str(photos / "gone.json"), coco_images=str(photos)))
    with pytest.raises(ValueError, match="no folder of pictures"):
        main(Job(out=out, coco_annotations=str(photos / "keypoints.json"), coco_images=str(tmp_path / "gone")))
    assert not Path(out).exists()
