"""Make an estimation network g out of a published SPIN or I2L-MeshNet checkpoint, so that the other jobs can use it.

Reads   <weights>          checkpoint (.pt, .pth.tar) of SPIN, or of an HMR of its names; or of I2L-MeshNet, for bodies
                           or for hands: only tensors are taken from it
Writes  <out>              run.json, estimator.safetensors, model.json, body.npz, import.json (which name went where)

    python jobs/import_estimator.py --weights model_checkpoint.pt --body SMPL_NEUTRAL.pkl --out runs/spin
    python jobs/import_estimator.py --weights snapshot_24.pth.tar --body MANO_RIGHT.pkl --out runs/i2l-hands
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from jobs import start
from pipelines.annotators import read_published
from pipelines.bodies import find_body
from pipelines.estimators import import_estimator
from pipelines.runs import open_run

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Import a published estimation network."""

    weights: str
    """Checkpoint file, as its authors published it."""
    out: str
    """Run folder to create."""
    body: str
    """Body that the network was trained with, as its owners ship it (.npz, .pkl): SMPL, or MANO_RIGHT."""
    stage: Literal["lixel", "param"] = "lixel"
    """I2L-MeshNet alone: which answer counts, the mesh of lixels, or that of the parameters regressed from it."""
    input_side: int | None = None
    """Side of the square crop that the network was trained on, in pixels; by default the published one: 224 for SPIN,
    256 for I2L-MeshNet."""


def main(job: Job) -> None:
    body, state = find_body(job.body), read_published(job.weights)
    settings = {"stage": job.stage, "input_side": job.input_side}
    run = open_run(job.out, job="import_estimator", settings=settings, inputs=[job.weights, str(body)])
    if run.finished:
        log.info("%s is complete already", job.out)
        return
    size = None if job.input_side is None else (job.input_side, job.input_side)
    found = import_estimator(run, state=state, body=str(body), input_size=size, stage=job.stage)
    run.finish(result={"matched": len(found.matched), "left_over": len(found.unknown)})
    log.info("%s", found)
    log.info("estimator: %s", job.out)


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "")
