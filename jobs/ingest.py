"""Ingest a dataset: the owners' annotations and pictures to sample shards (Parquet).

Reads   the dataset        as its owners ship it; which files, each dataset's --help says (docs/datasets.md)
Writes  <out>              run.json, part-*.parquet: one row a person (docs/data.md)

    python jobs/ingest.py coco --annotations person_keypoints_val2017.json --images val2017 --out samples/coco
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated

import tyro

from jobs import start
from mesh_lib.datasets.people import Reader
from mesh_lib.datasets.readers import READERS
from pipelines import runs, storage
from pipelines.cluster import connect
from pipelines.ingest import IngestStage, ingest
from pipelines.runs import open_run

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A dataset to ingest."""

    reader: Reader
    out: str
    """Folder to create."""
    dataset: str = ""
    """Name of the dataset in the sample ids; by default the reader's."""
    split: str = "train"
    """Name of the split in the sample ids."""
    stage: IngestStage = field(default_factory=IngestStage)


def main(job: Job) -> None:
    dataset = job.dataset or next(name for name, kind in READERS.items() if isinstance(job.reader, kind))
    for name in (dataset, job.split):
        if not name or "/" in name:
            raise ValueError(f"names of dataset and split become parts of sample ids: {name!r} is empty or has a /")
    job.reader.units(storage.Files())
    run = open_run(job.out, job="ingest", settings=runs.plain(job), inputs=job.reader.inputs, resume=True)
    if run.finished:
        log.info("%s is complete already", job.out)
        return
    connect()
    found = ingest(run, reader=job.reader, dataset=dataset, split=job.split, stage=job.stage)
    run.finish(result=found)
    log.info("%d people kept: %s", found["rows"], job.out)
    for reason, count in sorted(found["skipped"].items()):
        log.info("  %d left out: %s", count, reason)
    if found["unreadable_pictures"]:
        log.info("  %d kept without a readable picture; annotate will quarantine them", found["unreadable_pictures"])


def job_of(kind: type[Reader]) -> type[Job]:
    """The job of one dataset: its reader's fields are options of its own."""
    reader = Annotated[kind, tyro.conf.arg(name="")]
    job = make_dataclass(kind.__name__, [("reader", reader)], bases=(Job,), frozen=True, kw_only=True)
    job.__doc__ = kind.__doc__
    return job


if __name__ == "__main__":
    start(main, {name: job_of(kind) for name, kind in READERS.items()}, doc=__doc__ or "")
