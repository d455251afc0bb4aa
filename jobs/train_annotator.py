"""Train the annotation network f: Pose2Pose with the VPoser head, on mixed batches of 3D and 2D supervision.

Reads   <strong>           sample folders with 3D truth (motion capture; 3D in the wild, the first recipe)
        <weak>             sample folders with 2D keypoints only (in the wild)
        <prior>            run folder of jobs/train_prior.py
Writes  <out>              run.json, annotator.safetensors, model.json, body.npz, metrics.json, tensorboard/,
                           checkpoint.safetensors: killed at any moment, the same command goes on from there
Costs   the paper's f took 6 hours on one A100; jobs/demo.py trains a small one in minutes on two CPU cores

    python jobs/train_annotator.py --preset three-recipes --show
    python jobs/train_annotator.py --strong world/studio world/street3d --weak world/street --prior runs/prior \\
        --weights runs/pose2d --out runs/f
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Literal

from jobs import start
from pipelines.annotators import load_prior
from pipelines.bodies import find_body
from pipelines.cluster import connect
from pipelines.lease import Lease
from pipelines.runs import open_run, roles
from pipelines.train_annotator import PRESETS, AnnotatorTraining, starting_backbone, train_annotator

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Train the annotation network f."""

    strong: tuple[str, ...] = ()
    """Sample folders whose 3D truth supervises."""
    weak: tuple[str, ...] = ()
    """Sample folders whose 2D keypoints supervise."""
    prior: str | None = None
    """Run folder of jobs/train_prior.py, or a published VPoser checkpoint (first release .pt, second .ckpt); not with
    --training.model.pose-head rot6d, which has no use for it."""
    validate: str | None = None
    """Sample folder with 3D truth whose PA-MPJPE is reported after every epoch."""
    weights: str | None = None
    """Checkpoint file, or run folder, that --training.init is read from."""
    out: str
    """Run folder to create."""
    body: str = "full"
    """Body that the labels will speak: full, low, or a file (.npz, .pkl)."""
    preset: Literal["three-recipes", "neuralannot", "demo"] = "three-recipes"
    """Settings to start from; --training.… options change them one by one."""
    show: bool = False
    """Print all settings and stop."""
    training: AnnotatorTraining = field(default_factory=AnnotatorTraining)


def main(job: Job) -> None:
    body = find_body(job.body)
    if (job.prior is None) != (job.training.model.pose_head == "rot6d"):
        raise ValueError(
            "the vposer head decodes its poses by a VPoser\n  fix: pass --prior, or --training.model.pose-head rot6d"
            if job.prior is None
            else "the rot6d head has no use for --prior\n  fix: leave it out"
        )
    prior = load_prior(job.prior) if job.prior else None  # what does not fit is named before any work
    backbone = starting_backbone(job.training, job.weights)
    # Which dataset plays which part, and in which order, is as much of a training as its numbers are.
    parts = {"strong": job.strong, "weak": job.weak, "validate": job.validate, "weights": job.weights}
    inputs = [*job.strong, *job.weak, str(body), *(p for p in (job.prior, job.weights, job.validate) if p)]
    settings = {"training": job.training, **roles(parts)}
    with Lease(job.out):
        run = open_run(job.out, job="train_annotator", settings=settings, inputs=inputs, resume=True)
        if run.finished:
            log.info("%s is complete already", job.out)
            return
        connect()
        last = train_annotator(
            run, strong=list(job.strong), weak=list(job.weak), prior=prior, body=str(body), training=job.training,
            backbone=backbone, validation=job.validate,
        )  # fmt: skip
        run.finish(result=last)
    log.info("trained, loss %.3f: %s", last["loss"], job.out)


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "", presets=PRESETS)
