"""Verify: audit the labels of a run from their files alone, row by row.

Reads   <path>             run folder of jobs/annotate.py, and the samples that it labelled (their keys)
Writes  nothing; with --json the findings, to standard output. Exit code 0 if all is well, else 1.

Schema, every sample there once, no sample twice, page checksums, finite values, each mesh seen where its camera says,
one lineage in all files, and all that _SUCCESS.json promises.

    python jobs/verify.py labels/coco
    python jobs/verify.py s3://labels/coco --json
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs import start
from pipelines.verify import verify

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Audit a set of labels."""

    path: Annotated[str, tyro.conf.Positional]
    """Run folder of jobs/annotate.py."""
    samples: str | None = None
    """Where the samples lie now; by default where the run found them."""
    json: bool = False
    """Print the findings as JSON."""


def main(job: Job) -> None:
    audit = verify(job.path, samples=job.samples)
    if job.json:
        sys.stdout.write(json.dumps(audit.record(), indent=2) + "\n")
    else:
        for status, count in sorted(audit.statuses.items()):
            log.info("%10d rows %s", count, status)
        log.info(
            "%d rows of %d samples in %d files, %.1f MB", audit.rows, audit.samples, audit.files, audit.bytes / 1e6
        )
        for kind, count in sorted(audit.faults.items()):
            log.info("FAULT %s: %d\n  %s", kind, count, "\n  ".join(audit.examples[kind]))
        log.info("all is well" if audit.good else "these labels are not what they should be")
    if not audit.good:
        raise SystemExit(1)


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "")
