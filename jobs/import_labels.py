"""Import pseudo-GT that others made, so that it can be compared, reported on and trained with.

Reads   <labels>           their file: NeuralAnnot JSON, EFT JSON, or SPIN .npz
        <fits>             of SPIN, where its fits are in a file of their own
        <samples>          the samples that they label (jobs/ingest.py)
        <body>             the body model that their parameters are of
Writes  <out>              run.json, pseudo_gt/, _SUCCESS.json: what jobs/annotate.py writes (docs/data.md)

    python jobs/import_labels.py eft --labels COCO2014-Part-ver01.json --samples samples/coco \\
        --body SMPL_NEUTRAL.pkl --out labels/coco-eft
    python jobs/import_labels.py spin --labels mpii_train.npz --fits mpii_fits.npy --samples samples/mpii \\
        --body SMPL_NEUTRAL.pkl --out labels/mpii-spin
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
    """Their file. Of NeuralAnnot the flat form of datasets in the wild: smpl_param and cam_param by annotation id."""
    fits: str | None = None
    """SPIN's fits for the rows of `labels`, in their order: {dataset}_fits.npy, or an .npz of final fits, whose invalid
    ones become no label."""
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
    inputs = {"labels": job.labels, "fits": job.fits, "samples": job.samples, "body": str(body)}
    settings = {"kind": job.kind, **roles(inputs)}
    run = open_run(job.out, job="import_labels", settings=settings, inputs=[path for path in inputs.values() if path])
    if run.finished:
        log.info("%s is complete already", job.out)
        return
    connect()
    counts = import_labels(
        run, kind=job.kind, labels=job.labels, fits=job.fits, samples=job.samples, body=str(body),
        parallel=job.parallel,
    )  # fmt: skip
    run.finish(counts=dict(counts), samples=storage.absolute(job.samples))
    log.info("%d samples, %d labelled: %s", counts.total(), counts["ok"], job.out)
    for status, count in sorted(counts.items()):
        if status != "ok":
            log.info("  %d quarantined: %s", count, status)


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "")
