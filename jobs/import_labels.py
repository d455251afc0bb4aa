"""Import pseudo-GT that others made, so that it can be compared, reported on and trained with.

Reads   <labels>           their file: NeuralAnnot JSON, EFT JSON, or SPIN .npz with fits
        <samples>          the samples that they label (jobs/ingest.py)
        <body>             the body model that their parameters are of
Writes  <out>              run.json, pseudo_gt/, _SUCCESS.json: what jobs/annotate.py writes (docs/data.md)

    python jobs/import_labels.py eft --labels COCO2014-Part-ver01.json --samples samples/coco \\
        --body SMPL_NEUTRAL.pkl --out labels/coco-eft
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs import start
from pipelines import storage
from pipelines.bodies import find_body
from pipelines.cluster import connect
from pipelines.import_labels import Kind, import_labels
from pipelines.runs import open_run, roles

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Turn labels of others into pseudo_gt, a row for every sample."""

    kind: Annotated[Kind, tyro.conf.Positional]
    """neuralannot, eft or spin."""
    labels: str
    """Their file."""
    samples: str
    """Folder of the samples that they are of."""
    body: str = "full"
    """The body that their parameters are of: the path of an SMPL file, or full or low for the open body."""
    out: str
    """Folder to create."""
    parallel: int = 2
    """Tasks that work at the same time."""


def main(job: Job) -> None:
    body = find_body(job.body)
    inputs = {"labels": job.labels, "samples": job.samples, "body": str(body)}
    settings = {"kind": job.kind, **roles(inputs)}
    run = open_run(job.out, job="import_labels", settings=settings, inputs=list(inputs.values()))
    if run.finished:
        log.info("%s is complete already", job.out)
        return
    connect()
    counts = import_labels(
        run, kind=job.kind, labels=job.labels, samples=job.samples, body=str(body), parallel=job.parallel
    )
    run.finish(counts=dict(counts), samples=storage.absolute(job.samples))
    log.info("%d samples, %d labelled: %s", counts.total(), counts["ok"], job.out)
    for status, count in sorted(counts.items()):
        if status != "ok":
            log.info("  %d quarantined: %s", count, status)


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "")
