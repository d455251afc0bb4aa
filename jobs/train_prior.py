"""Train the pose prior: VPoser, 21 body joints and a 32-dimensional latent code.

Reads   poses              from the built-in generator, a folder of BVH clips, a folder of AMASS clips
Writes  <out>              run.json, vposer.safetensors

    python jobs/train_prior.py --out runs/prior
    python jobs/train_prior.py --training.generated 0 --amass data/AMASS --out runs/prior-amass
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from jobs import start
from pipelines.bodies import find_body
from pipelines.runs import open_run
from pipelines.train_prior import PriorTraining, gather_poses, train_prior

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Train the pose prior VPoser."""

    out: str
    """Run folder to create."""
    bvh: Path | None = None
    """Folder of BVH motion capture clips (CMU's skeleton)."""
    amass: Path | None = None
    """Folder of AMASS clips (*_poses.npz, *_stageii.npz)."""
    body: str = "low"
    """Body on which poses are compared: low, full, or a file (.npz, .pkl)."""
    training: PriorTraining = field(default_factory=PriorTraining)


def main(job: Job) -> None:
    body = find_body(job.body)
    inputs = [str(path) for path in (job.bvh, job.amass, body) if path]
    run = open_run(job.out, job="train_prior", settings=job.training, inputs=inputs)
    if run.finished:
        log.info("%s is complete already", job.out)
        return
    poses = gather_poses(job.training, bvh_dir=job.bvh, amass_dir=job.amass)
    log.info("learning from %d poses", len(poses))
    found = train_prior(run, poses=poses, body=body, training=job.training)
    run.finish(result=found)
    log.info(
        "reconstruction %.2f cm on held-out poses, %d of 32 latent units active: %s",
        found["reconstruction_cm"], found["active_units"], job.out,
    )  # fmt: skip


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "")
