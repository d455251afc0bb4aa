"""The demo: the whole line on one machine, from nothing to labels and a report."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import ray

from mesh_lib.body.files import load_body
from mesh_lib.losses.pose2pose import Pose2PoseLossConfig
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from pipelines import storage
from pipelines.annotate import AnnotateStage, annotate
from pipelines.bodies import cached_body
from pipelines.cluster import connect
from pipelines.ingest import IngestStage, ingest_coco, read_coco
from pipelines.measure import PeakMemory
from pipelines.report import Page, make_report
from pipelines.runs import Run, open_run
from pipelines.score import score_labels
from pipelines.stream import StreamConfig, open_source
from pipelines.synthesize import World, synthesize
from pipelines.train_annotator import AnnotatorTraining, train_annotator
from pipelines.train_prior import PriorTraining, gather_poses, train_prior

log = logging.getLogger(__name__)
Preset = Literal["quick", "evening"]
Result = TypeVar("Result")
LARGEST_SHARE = 0.25
"""The user's pictures join the training while they are at most this part of `street`."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of everything a preset makes."""

    world: World
    prior: PriorTraining
    training: AnnotatorTraining
    control: bool
    """Also train f without any 3D supervision, and label with it."""


def plan(preset: Preset) -> Plan:
    """quick: minutes, the demo. evening: under 90 minutes on two cores, with the control of Three Recipes' Table 9."""
    model = Pose2PoseConfig(backbone=18, input_width=96, input_height=128)
    small = AnnotatorTraining(
        model=model, loss=Pose2PoseLossConfig(pose_space="rotmat", normalise_by="valid"),
        stream=StreamConfig(readers=1, strength=0.0), batch_size=16, learning_rate=1e-3, schedule="linear",
        epochs=10, samples_per_epoch=3000,
    )  # fmt: skip
    match preset:
        case "quick":
            return Plan(
                world=World(studio=320, street=200, street3d=180, street_test=0),
                prior=PriorTraining(generated=50_000, steps=1000, batch_size=256, warm_up=1.0),
                training=small,
                control=False,
            )
        case "evening":
            return Plan(
                world=World(studio=1000, street=400, street3d=500, street_test=0),
                prior=PriorTraining(generated=100_000, steps=4000, batch_size=256, warm_up=1.0),
                training=dataclasses.replace(small, epochs=14, samples_per_epoch=13_000),
                control=True,
            )


@dataclass
class Clock:
    """Says which stage runs and how long each took."""

    stages: int
    seconds: dict[str, float] = field(default_factory=dict)

    def time(self, name: str, work: Callable[[], Result]) -> Result:
        log.info("\n[%d/%d] %s", len(self.seconds) + 1, self.stages, name)
        started = time.monotonic()
        result = work()
        self.seconds[name] = round(time.monotonic() - started, 1)
        log.info("      %.0f s", self.seconds[name])
        return result


@dataclass(frozen=True)
class Coco:
    """The user's COCO-style pictures, if any."""

    annotations: str
    images: str


def demo(run: Run, *, chosen: Plan, coco: Coco | None) -> dict[str, Any]:
    """Body, world, prior, f, labels of `street` and of the COCO pictures, report; returns the summary."""
    clock = Clock(stages=7 + (2 if chosen.control else 0) + (2 if coco else 0))
    with PeakMemory() as memory:
        summary = _stages(run, chosen, coco, clock)
    summary |= {"seconds": clock.seconds, "total_seconds": round(sum(clock.seconds.values()), 1)}
    summary["peak_memory_gb"] = round(memory.peak_gb, 2)
    storage.write_json(run.path("summary.json"), summary)
    return summary


def _stages(run: Run, chosen: Plan, coco: Coco | None, clock: Clock) -> dict[str, Any]:
    def begin(name: str) -> Run:
        return open_run(run.path(name), job=_JOBS[name.split("-")[0]], settings={})

    def bodies() -> dict[str, Path]:
        build = ray.remote(max_calls=1)(cached_body)  # what anny holds in memory goes with its process
        return {name: ray.get(build.remote(name)) for name in ("full", "low")}

    def world() -> None:
        stage = begin("world")
        stage.finish(result=synthesize(stage, world=chosen.world, body=files["full"]))

    def prior() -> None:
        stage = begin("prior")
        poses = gather_poses(chosen.prior, bvh_dir=None, amass_dir=None)
        stage.finish(result=train_prior(stage, poses=poses, body=files["low"], training=chosen.prior))

    def train(name: str, training: AnnotatorTraining) -> None:
        stage = begin(name)
        weak = [run.path("world", "street")]
        # f learns from the pictures that it will label, by their 2D (NeuralAnnot), if they do not crowd out the street.
        if coco and open_source(run.path("coco")).rows <= LARGEST_SHARE * chosen.world.street:
            weak.append(run.path("coco"))
        last = train_annotator(
            stage, strong=[run.path("world", "studio"), run.path("world", "street3d")], weak=weak,
            prior=run.path("prior"), body=str(files["full"]), training=training,
        )  # fmt: skip
        stage.finish(result=last)

    def label(annotator: str, samples: str, name: str) -> None:
        stage = begin(name)
        counts = annotate(stage, samples=samples, annotator=run.path(annotator), stage=AnnotateStage())
        stage.finish(counts=dict(counts), samples=samples)

    def score(name: str) -> dict[str, float]:
        truth = run.path("world", "truth", "street"), run.path("world", "truth", "studio")
        body = load_body(files["full"])
        return score_labels(labels=run.path(name), truth=truth[0], reference=truth[1], body=body).as_dict()

    def ingest_pictures() -> None:
        assert coco
        stage = begin("coco")
        found = ingest_coco(
            stage, annotations=coco.annotations, images=coco.images, dataset="coco", split="demo", stage=IngestStage()
        )
        stage.finish(result=found)

    def pages() -> dict[str, Page]:
        names = {"street": "world/street"} | ({"coco": "coco"} if coco else {})
        made = {n: make_report(labels=run.path(f"labels-{n}"), samples=run.path(s), title=f"Labels of {n}") for n, s in
                names.items()}  # fmt: skip
        storage.write_bytes(run.path("report.html"), made["street"].html.encode())
        if coco:
            storage.write_bytes(run.path("report-coco.html"), made["coco"].html.encode())
        return made

    connect()
    files = clock.time("build the open body", bodies)
    clock.time("render the open world", world)
    clock.time("train the pose prior (VPoser)", prior)
    if coco:
        clock.time("ingest the COCO pictures", ingest_pictures)
    clock.time("train the annotator f", lambda: train("annotator", chosen.training))
    clock.time("annotate street", lambda: label("annotator", run.path("world", "street"), "labels-street"))
    if chosen.control:
        control = dataclasses.replace(chosen.training, withhold_3d=True)
        clock.time("train f without 3D supervision (control)", lambda: train("annotator-no3d", control))
        clock.time(
            "annotate street with the control",
            lambda: label("annotator-no3d", run.path("world", "street"), "labels-no3d"),
        )
    if coco:
        clock.time("annotate the COCO pictures", lambda: label("annotator", run.path("coco"), "labels-coco"))
    found = clock.time("score against the truth kept aside", lambda: score("labels-street"))
    made = clock.time("write the report", pages)
    summary: dict[str, Any] = {
        "pa_mpjpe_mm": {"mean_pose": found["mean_pose_pa_mpjpe_mm"], "labels": found["pa_mpjpe_mm"]},
        "per_axis_mm": {axis: found[f"pa_{axis}_mm"] for axis in "xyz"},
        "samples": found["samples"],
        "street": {"median_reprojection_px": made["street"].median_reprojection_px},
    }
    if chosen.control:
        control_score = score("labels-no3d")
        summary["pa_mpjpe_mm"]["labels_without_3d"] = control_score["pa_mpjpe_mm"]
        summary["per_axis_mm_without_3d"] = {axis: control_score[f"pa_{axis}_mm"] for axis in "xyz"}
    if coco:
        page = made["coco"]
        summary["coco"] = {
            "persons": page.rows,
            "labelled": page.labelled,
            "quarantined": page.rows - page.labelled,
            "median_reprojection_error_px": page.median_reprojection_px,
            "flagged_high_reprojection": page.flagged,
        }
    return summary


_JOBS = {
    "world": "synthesize",
    "prior": "train_prior",
    "annotator": "train_annotator",
    "labels": "annotate",
    "coco": "ingest",
}


def check_coco(coco: Coco) -> None:
    """Fail before the long work, not after it."""
    read_coco(coco.annotations)
    if not storage.exists(coco.images):
        raise ValueError(f"no folder of pictures at {coco.images}")
