"""The demo: the whole line on one machine, from nothing to labels and a report."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import ray

from mesh_lib.datasets.coco import Coco
from pipelines import storage
from pipelines.annotate import AnnotateStage, annotate
from pipelines.annotators import load_prior
from pipelines.bodies import cached_body, load_body_of
from pipelines.cluster import connect
from pipelines.ingest import IngestStage, ingest
from pipelines.measure import PeakMemory
from pipelines.report import Page, make_report
from pipelines.runs import Run, open_run
from pipelines.score import Score, score_labels
from pipelines.sources import open_source
from pipelines.synthesize import World, synthesize
from pipelines.train_annotator import PRESETS, AnnotatorTraining, train_annotator
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
    small = PRESETS["demo"]
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
                world=World(studio=600, street=300, street3d=500, street_test=0),
                prior=PriorTraining(generated=100_000, steps=4000, batch_size=256, warm_up=1.0),
                training=dataclasses.replace(small, epochs=12, samples_per_epoch=12_000),
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


def demo(run: Run, *, chosen: Plan, coco: Coco | None) -> dict[str, Any]:
    """Body, world, prior, f, labels of `street` and of the COCO pictures, report; returns the summary."""
    clock = Clock(stages=7 + (2 if chosen.control else 0) + (2 if coco else 0))
    with PeakMemory() as memory:
        summary = _stages(_Line(run, chosen, coco), clock)
    summary |= {"seconds": clock.seconds, "total_seconds": round(sum(clock.seconds.values()), 1)}
    summary["peak_memory_gb"] = round(memory.peak_gb, 2)
    storage.write_json(run.path("summary.json"), summary)
    return summary


def _stages(line: _Line, clock: Clock) -> dict[str, Any]:
    connect()
    clock.time("build the open body", line.build_bodies)
    clock.time("render the open world", line.render_world)
    clock.time("train the pose prior (VPoser)", line.train_prior)
    if line.coco:
        clock.time("ingest the COCO pictures", line.ingest_pictures)
    training = line.chosen.training
    clock.time("train the annotator f", lambda: line.train("annotator", training))
    clock.time("annotate street", lambda: line.label("annotator", "world/street", "labels-street"))
    if line.chosen.control:
        control = dataclasses.replace(training, withhold_3d=("all",))
        clock.time("train f without 3D supervision (control)", lambda: line.train("annotator-no3d", control))
        clock.time(
            "annotate street with the control", lambda: line.label("annotator-no3d", "world/street", "labels-no3d")
        )
    if line.coco:
        clock.time("annotate the COCO pictures", lambda: line.label("annotator", "coco", "labels-coco"))
    score = clock.time("score against the truth kept aside", lambda: line.score("labels-street"))
    pages = clock.time("write the report", line.write_pages)
    return _summary(score, line.score("labels-no3d") if line.chosen.control else None, pages)


def _summary(score: Score, control: Score | None, pages: dict[str, Page]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "pa_mpjpe_mm": {"mean_pose": score.mean_pose_pa_mpjpe_mm, "labels": score.pa_mpjpe_mm},
        "per_axis_mm": score.per_axis_mm,
        "samples": score.samples,
        "street": {"median_reprojection_px": pages["street"].median_reprojection_px},
    }
    if control:
        summary["pa_mpjpe_mm"]["labels_without_3d"] = control.pa_mpjpe_mm
        summary["per_axis_mm_without_3d"] = control.per_axis_mm
    if "coco" in pages:
        page = pages["coco"]
        summary["coco"] = {
            "persons": page.rows,
            "labelled": page.labelled,
            "quarantined": page.rows - page.labelled,
            "median_reprojection_error_px": page.median_reprojection_px,
            "flagged_high_reprojection": page.flagged,
        }
    return summary


@dataclass
class _Line:
    """The stages, each in a run folder of its own inside the demo's; one that is complete there is not redone."""

    run: Run
    chosen: Plan
    coco: Coco | None
    bodies: dict[str, Path] = field(default_factory=dict)

    def path(self, name: str) -> str:
        return self.run.path(name)

    def stage(
        self,
        name: str,
        work: Callable[[Run], dict[str, Any]],
        *,
        settings: Any = None,
        inputs: Sequence[str | Path],
        resume: bool = False,
    ) -> None:
        """Do the work in the run folder `name`, finished with what it returns."""
        job = _JOBS[name.split("-")[0]]
        stage = open_run(self.path(name), job=job, settings=settings, inputs=inputs, resume=resume)
        if stage.finished:
            log.info("      done by an earlier start")
        else:
            stage.finish(**work(stage))

    def build_bodies(self) -> None:
        build = ray.remote(max_calls=1)(cached_body)  # what anny holds in memory goes with its process
        self.bodies = {name: ray.get(build.remote(name)) for name in ("full", "low")}

    def render_world(self) -> None:
        world, body = self.chosen.world, self.bodies["full"]
        self.stage(
            "world", lambda run: {"result": synthesize(run, world=world, body=body)}, settings=world, inputs=[body]
        )

    def train_prior(self) -> None:
        training, body = self.chosen.prior, self.bodies["low"]

        def work(run: Run) -> dict[str, Any]:
            poses = gather_poses(training, bvh_dir=None, amass_dir=None)
            return {"result": train_prior(run, poses=poses, body=body, training=training)}

        self.stage("prior", work, settings=training, inputs=[body])

    def ingest_pictures(self) -> None:
        assert self.coco
        reader = Coco(annotations=self.coco.annotations, images=self.coco.images)
        stage = IngestStage()

        def work(run: Run) -> dict[str, Any]:
            return {"result": ingest(run, reader=reader, dataset="coco", split="demo", stage=stage)}

        self.stage("coco", work, settings=stage, inputs=reader.inputs)

    def train(self, name: str, training: AnnotatorTraining) -> None:
        strong, weak = [self.path("world/studio"), self.path("world/street3d")], [self.path("world/street")]
        # f learns from the pictures that it will label, by their 2D (NeuralAnnot), if they do not crowd out the street.
        if self.coco and open_source(self.path("coco")).rows <= LARGEST_SHARE * self.chosen.world.street:
            weak.append(self.path("coco"))
        prior, body = self.path("prior"), self.bodies["full"]

        def work(run: Run) -> dict[str, Any]:
            vposer = load_prior(prior)
            last = train_annotator(run, strong=strong, weak=weak, prior=vposer, body=str(body), training=training)
            return {"result": last}

        self.stage(name, work, settings=training, inputs=[*strong, *weak, prior, body], resume=True)

    def label(self, annotator: str, samples: str, name: str) -> None:
        annotator, samples = self.path(annotator), self.path(samples)

        def work(run: Run) -> dict[str, Any]:
            counts = annotate(run, samples=samples, annotator=annotator, stage=AnnotateStage())
            return {"counts": dict(counts), "samples": samples}

        self.stage(name, work, inputs=[samples, annotator])

    def score(self, name: str) -> Score:
        truth, reference = self.path("world/truth/street"), self.path("world/truth/studio")
        return score_labels(
            labels=self.path(name), truth=truth, reference=reference, body=load_body_of(self.path(name))
        )

    def write_pages(self) -> dict[str, Page]:
        wanted = {"street": ("world/street", "report.html")}
        if self.coco:
            wanted["coco"] = ("coco", "report-coco.html")
        pages = {}
        for name, (samples, file) in wanted.items():
            pages[name] = make_report(
                labels=self.path(f"labels-{name}"), samples=self.path(samples), title=f"Labels of {name}"
            )
            storage.write_bytes(self.path(file), pages[name].html.encode())
        return pages


_JOBS = {
    "world": "synthesize",
    "prior": "train_prior",
    "annotator": "train_annotator",
    "labels": "annotate",
    "coco": "ingest",
}


def check_coco(coco: Coco) -> None:
    """Fail before the long work, not after it."""
    files = storage.Files()
    for unit in coco.units(files):
        next(coco.people(unit, files, Counter()), None)
    if not storage.exists(coco.images):
        raise ValueError(f"no folder of pictures at {coco.images}")
