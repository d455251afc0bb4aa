"""Train an estimation network g: on motion capture with 3D truth, and on pictures in the wild with labels for a truth.

Reads   <strong>           sample folders with 3D truth (motion capture; 3D in the wild)
        <weak>             sample folders in the wild
        <labels>           for each of these the labels of it: a run folder of jobs/annotate.py or jobs/import_labels.py
                           (anybody's), or `none`, where 2D keypoints alone supervise
        <prior>            run folder of jobs/train_prior.py, for a Pose2Pose with the vposer head
Writes  <out>              run.json, the network, model.json, body.npz, metrics.json, tensorboard/,
                           checkpoint.safetensors: killed at any moment, the same command goes on from there
Costs   I2L-MeshNet took 36 hours on three RTX 2080 Ti; the demo presets minutes on two CPU cores

    python jobs/train_estimator.py pose2pose --strong world/studio world/street3d --weak world/street \\
        --labels runs/labels --weights runs/pose2d --out runs/g
    python jobs/train_estimator.py lixel --preset demo --strong world/studio --weak world/street --labels runs/labels \\
        --out runs/i2l
    python jobs/train_estimator.py lixel --preset hands --body MANO_RIGHT.pkl --strong samples/freihand \\
        --weights resnet50-0676ba61.pth --out runs/i2l-hands
    python jobs/train_estimator.py hmr --show
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
from pipelines.train_estimator import (
    NO_LABELS,
    PRESETS,
    AnyTraining,
    HmrTraining,
    LixelTraining,
    Pose2PoseTraining,
    train_estimator,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Train an estimation network g."""

    strong: tuple[str, ...] = ()
    """Sample folders whose 3D truth supervises."""
    weak: tuple[str, ...] = ()
    """Sample folders in the wild."""
    labels: tuple[str, ...] = ()
    """Labels of each folder of --weak, in their order; `none` for one whose 2D keypoints alone supervise. Without any,
    that is so for all."""
    prior: str | None = None
    """Run folder of jobs/train_prior.py, or a published VPoser; only with --training.model.pose-head vposer."""
    validate: str | None = None
    """Sample folder with 3D truth whose PA-MPJPE is reported after every epoch."""
    weights: str | None = None
    """Checkpoint file, or run folder, that --training.init is read from."""
    out: str
    """Run folder to create."""
    body: str = "full"
    """Body that g will speak, as the labels do: full, low, or a file (.npz, .pkl)."""
    preset: Literal["paper", "demo"] = "paper"
    """Settings to start from; --training.… options change them one by one."""
    show: bool = False
    """Print all settings and stop."""
    training: AnyTraining


@dataclass(frozen=True, kw_only=True)
class Pose2Pose(Job):
    """Pose2Pose, the architecture of f (Moon et al., 2022)."""

    training: Pose2PoseTraining = field(default_factory=Pose2PoseTraining)


@dataclass(frozen=True, kw_only=True)
class Hmr(Job):
    """The iterative regressor of HMR and SPIN (Kanazawa et al., 2018; Kolotouros et al., 2019)."""

    training: HmrTraining = field(default_factory=HmrTraining)


@dataclass(frozen=True, kw_only=True)
class Lixel(Job):
    """I2L-MeshNet (Moon and Lee, 2020): of bodies, or of right hands (--body MANO_RIGHT.pkl --preset hands)."""

    preset: Literal["paper", "param", "demo", "hands", "hands-demo"] = "paper"
    """Settings to start from; --training.… options change them one by one. param: stage two, from a run of the first as
    --weights. Hands have settings of their own."""
    training: LixelTraining = field(default_factory=LixelTraining)


def main(job: Job) -> None:
    body, training = find_body(job.body), job.training
    head = training.model.pose_head if isinstance(training, Pose2PoseTraining) else "none"
    if (job.prior is None) == (head == "vposer"):
        raise ValueError(
            "the vposer head decodes its poses by a VPoser\n  fix: pass --prior, or --training.model.pose-head rot6d"
            if job.prior is None
            else "this network has no use for --prior\n  fix: leave it out, or pass --training.model.pose-head vposer"
        )
    prior = load_prior(job.prior) if job.prior else None
    # Which dataset plays which part, and in which order, is as much of a training as its numbers are.
    parts = {"strong": job.strong, "weak": job.weak, "validate": job.validate, "weights": job.weights}
    made = [path for path in job.labels if path != NO_LABELS]
    inputs = [*job.strong, *job.weak, *made, str(body), *(p for p in (job.prior, job.weights, job.validate) if p)]
    settings = {"training": training, **roles(parts), "labels": list(job.labels)}
    with Lease(job.out):
        run = open_run(job.out, job="train_estimator", settings=settings, inputs=inputs, resume=True)
        if run.finished:
            log.info("%s is complete already", job.out)
            return
        connect()
        last = train_estimator(
            run, strong=job.strong, weak=job.weak, labels=job.labels, prior=prior, body=str(body), weights=job.weights,
            training=training, validation=job.validate,
        )  # fmt: skip
        run.finish(result=last)
    log.info("trained, loss %.3f: %s", last["loss"], job.out)


if __name__ == "__main__":
    start(main, {"pose2pose": Pose2Pose, "hmr": Hmr, "lixel": Lixel}, doc=__doc__ or "", presets=PRESETS)
