"""Train the 2D pose network (Simple Baselines) whose backbone the annotation network f starts from.

Reads   <samples>          sample folders with 2D keypoints
Writes  <out>              run.json, pose2d.safetensors, model.json, metrics.json, scores.json

    python jobs/train_pose2d.py --samples samples/coco samples/mpii --validate samples/coco-val --out runs/pose2d
    python jobs/train_annotator.py --training.init pose2d --weights runs/pose2d ...
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from jobs import start
from pipelines import storage
from pipelines.cluster import connect
from pipelines.runs import open_run, roles
from pipelines.sources import open_source
from pipelines.train_pose2d import Pose2DTraining, score_pose2d, starting_network, train_pose2d

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Train the 2D pose network."""

    samples: tuple[str, ...]
    """Sample folders to learn from."""
    validate: str | None = None
    """Sample folder to score on: PCK@0.1."""
    coco_annotations: str | None = None
    """COCO's person_keypoints_*.json of the validation samples: their keypoint AP as well."""
    weights: str | None = None
    """Checkpoint file, or run folder, that --training.init is read from."""
    out: str
    """Run folder to create."""
    training: Pose2DTraining = field(default_factory=Pose2DTraining)


def main(job: Job) -> None:
    if job.coco_annotations and not job.validate:
        raise ValueError("--coco-annotations needs --validate: the samples of those annotations")
    start_network = starting_network(job.training, job.weights)  # what does not fit is named before any work
    inputs = [*job.samples, *(path for path in (job.validate, job.coco_annotations, job.weights) if path)]
    for path in (*job.samples, *([job.validate] if job.validate else [])):
        open_source(path)
    settings = {"training": job.training, **roles({"samples": job.samples, "validate": job.validate})}
    run = open_run(job.out, job="train_pose2d", settings=settings, inputs=inputs, resume=True)
    if run.finished:
        log.info("%s is complete already", job.out)
        return
    connect()
    last = train_pose2d(
        run, samples=list(job.samples), training=job.training, start=start_network, validation=job.validate
    )
    scores = None
    if job.validate:
        scores = score_pose2d(run.folder, samples=job.validate, annotations=job.coco_annotations)
        storage.write_json(run.path("scores.json"), scores)
        log.info("  ".join(f"{name} {value:.3g}" for name, value in scores.items() if value is not None))
    run.finish(result=last, scores=scores)
    log.info("trained, loss %.5f: %s", last["loss"], job.out)


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "")
