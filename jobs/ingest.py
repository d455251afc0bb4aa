"""Ingest a dataset: the owners' annotations and pictures to sample shards (Parquet).

Reads   <annotations>      person_keypoints_*.json, as the owners ship it
        <images>           folder of the pictures that it names
Writes  <out>              run.json, part-*.parquet: one row a person (docs/data.md)

    python jobs/ingest.py coco --annotations person_keypoints_val2017.json --images val2017 --out samples/coco
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from jobs import start
from pipelines.cluster import connect
from pipelines.ingest import IngestStage, ingest_coco, read_coco
from pipelines.runs import open_run

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Coco:
    """COCO person keypoints (or any file in that format)."""

    annotations: str
    """person_keypoints_*.json"""
    images: str
    """Folder of the pictures."""
    out: str
    """Folder to create."""
    dataset: str = "coco"
    """Name of the dataset in the sample ids."""
    split: str = "train"
    """Name of the split in the sample ids."""
    stage: IngestStage = field(default_factory=IngestStage)


def main(job: Coco) -> None:
    read_coco(job.annotations)
    run = open_run(job.out, job="ingest", settings=job, inputs=[job.annotations, job.images])
    if run.finished:
        log.info("%s is complete already", job.out)
        return
    connect()
    found = ingest_coco(
        run, annotations=job.annotations, images=job.images, dataset=job.dataset, split=job.split, stage=job.stage
    )
    run.finish(result=found)
    log.info("%d people kept: %s", found["rows"], job.out)
    for reason, count in sorted(found["skipped"].items()):
        log.info("  %d left out: %s", count, reason)
    if found["unreadable_pictures"]:
        log.info("  %d kept without a readable picture; annotate will quarantine them", found["unreadable_pictures"])


if __name__ == "__main__":
    start(main, {"coco": Coco}, doc=__doc__ or "")
