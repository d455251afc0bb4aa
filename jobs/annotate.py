"""Annotate: a trained annotator's 3D pseudo-ground-truth for every sample.

Reads   <samples>          sample folder (jobs/ingest.py, jobs/synthesize.py); or, in its place,
        <images> <keypoints>   a plain folder of pictures and a COCO-style keypoint file
        <annotator>        run folder of jobs/train_annotator.py
Writes  <out>              run.json, pseudo_gt/status=*/*.parquet: exactly one row a sample; _SUCCESS.json at the end
Safe to kill: the same command again goes on where it stood.

    python jobs/annotate.py --samples samples/coco --annotator runs/f --out labels/coco
    python jobs/annotate.py --images photos --keypoints photos/keypoints.json --annotator runs/f --out labels/photos
    ray job submit --working-dir . -- python jobs/annotate.py --samples s3://data/coco --annotator s3://runs/f ...
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from jobs import start
from mesh_lib.datasets.coco import Coco
from pipelines import commits, storage
from pipelines.annotate import AnnotateStage, annotate, check_fit
from pipelines.annotators import load_annotator, weights_sha256
from pipelines.cluster import connect
from pipelines.ingest import IngestStage, ingest
from pipelines.lease import Lease
from pipelines.runs import Run, check_folder, load_run, open_run, plain, roles
from pipelines.sources import open_source
from pipelines.storage import absolute

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Annotate samples, or a folder of pictures, with 3D pseudo-ground-truth."""

    samples: str | None = None
    """Folder of sample shards."""
    images: str | None = None
    """Folder of pictures, in place of samples."""
    keypoints: str | None = None
    """COCO-style JSON with the keypoints of the people in those pictures."""
    annotator: str
    """Run folder of the trained annotator."""
    out: str
    """Run folder to create."""
    stage: AnnotateStage = field(default_factory=AnnotateStage)
    max_quarantined: float = 1.0
    """Fail when a larger part of the samples gets no label."""


def main(job: Job) -> None:
    if (job.samples is None) == (job.images is None) or (job.images is None) != (job.keypoints is None):
        raise ValueError("pass either --samples, or --images together with --keypoints")
    load_annotator(job.annotator)  # a checkpoint that does not fit is named before any work
    what = identity(job)
    standing = check_folder(absolute(job.out), {"job": what["job"], "settings": what["settings"]})
    connect()
    if not (standing and standing["status"] == "complete"):
        check_fit(job.stage)
    with Lease(job.out):
        run = open_run(job.out, **what, resume=True)
        if run.finished:
            log.info("%s is complete already", job.out)
        else:
            samples = job.samples or _ingest_folder(job, run)
            counts = annotate(run, samples=samples, annotator=job.annotator, stage=job.stage)
            run.finish(counts=dict(counts), samples=storage.absolute(samples))
        commits.forget(run)
    _tell(job, Counter(load_run(job.out, job="annotate")["counts"]))


def identity(job: Job) -> dict[str, Any]:
    """What makes this run this run, as open_run takes it: a folder that holds another one is refused."""
    inputs = {"samples": job.samples, "images": job.images, "keypoints": job.keypoints, "annotator": job.annotator}
    settings = {
        "stage": plain(job.stage),
        "annotator_sha256": weights_sha256(job.annotator),
        "rows": open_source(job.samples).rows if job.samples else None,
        **roles(inputs),
    }
    return {"job": "annotate", "settings": settings, "inputs": [path for path in inputs.values() if path]}


def _tell(job: Job, counts: Counter[str]) -> None:
    """Say what became of the samples. Raises ValueError where too many have no label."""
    rows, labelled = counts.total(), counts["ok"]
    log.info("%d samples in, %d rows out, %d labelled: %s", rows, rows, labelled, job.out)
    for status, count in sorted(counts.items()):
        if status != "ok":
            log.info("  %d quarantined: %s", count, status)
    if rows - labelled > job.max_quarantined * rows:
        raise ValueError(f"only {labelled} of {rows} samples were labelled; --max-quarantined is {job.max_quarantined}")


def _ingest_folder(job: Job, run: Run) -> str:
    assert job.images and job.keypoints
    samples = open_run(run.path("samples"), job="ingest", settings={}, inputs=[job.keypoints], resume=True)
    if samples.finished:
        return samples.folder
    reader = Coco(annotations=job.keypoints, images=job.images)
    found = ingest(samples, reader=reader, dataset="folder", split="all", stage=IngestStage(min_keypoints=1))
    samples.finish(result=found)
    for reason, count in sorted(found["skipped"].items()):
        log.info("  %d people left out: %s", count, reason)
    return samples.folder


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "")
