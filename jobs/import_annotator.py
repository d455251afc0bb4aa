"""Make an annotation network f out of a published Pose2Pose checkpoint, so that the other jobs can use it.

Reads   <weights>          body network of the Pose2Pose family (.pth.tar): only tensors are taken from it
Writes  <out>              run.json, annotator.safetensors, model.json, body.npz, import.json (which name went where)

    python jobs/import_annotator.py --weights snapshot_6.pth.tar --body SMPL_NEUTRAL.npz --out runs/pose2pose
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from jobs import start
from pipelines.annotators import import_annotator, load_prior, read_published
from pipelines.bodies import find_body
from pipelines.runs import open_run

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Import a published annotation network."""

    weights: str
    """Checkpoint file, as its authors published it."""
    prior: str | None = None
    """VPoser that the network's codes belong to (run folder of jobs/train_prior.py, or a published checkpoint); only
    for a network that answers with such codes."""
    out: str
    """Run folder to create."""
    body: str
    """Body that the network was trained with: SMPL as its owners ship it (.npz, .pkl), or full, or low."""
    input_width: int = 192
    input_height: int = 256
    """The crop that the network was trained on, in pixels."""


def main(job: Job) -> None:
    body, state = find_body(job.body), read_published(job.weights)
    prior = load_prior(job.prior) if job.prior else None
    settings = {"input_width": job.input_width, "input_height": job.input_height}
    inputs = [job.weights, str(body), *([job.prior] if job.prior else [])]
    run = open_run(job.out, job="import_annotator", settings=settings, inputs=inputs)
    if run.finished:
        log.info("%s is complete already", job.out)
        return
    found = import_annotator(
        run, state=state, prior=prior, body=str(body), input_size=(job.input_width, job.input_height)
    )
    run.finish(result={"matched": len(found.matched), "left_over": len(found.unknown)})
    log.info("%s", found)
    log.info("annotator: %s", job.out)


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "")
