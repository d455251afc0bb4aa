"""See labels, or samples: one self-contained HTML page with counts, histograms and drawings on the original pictures.

Reads   <labels>           run folder of jobs/annotate.py or jobs/import_labels.py; without, the page is of the samples
        <samples>          the samples that were annotated, or any that were ingested
        <against>          older labels of the same samples (optional): the page then says what has changed since
Writes  <out>              one .html file that needs nothing else

    python jobs/report.py --labels labels/coco --out report.html
    python jobs/report.py --samples samples/coco --out samples.html
    python jobs/report.py --labels labels/coco-v2 --against labels/coco --out changes.html
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from jobs import start
from pipelines import storage
from pipelines.label_files import LABELLERS
from pipelines.report import make_report
from pipelines.report_samples import report_samples
from pipelines.runs import load_run

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Write the report of a set of labels, or of samples."""

    labels: str | None = None
    """Run folder of jobs/annotate.py or jobs/import_labels.py."""
    samples: str | None = None
    """Samples that were annotated, by default those that the labels' run names; without labels, what to report on."""
    against: str | None = None
    """Run folder of older labels of the same samples, to compare with."""
    out: str
    """HTML file to write (an older one is replaced)."""
    title: str = ""
    """Heading of the page."""


def main(job: Job) -> None:
    if job.labels:
        _labels(job, job.labels)
    elif job.samples and not job.against:
        _samples(job, job.samples)
    else:
        raise ValueError("pass --labels for a report of labels, or --samples alone for one of samples")


def _samples(job: Job, samples: str) -> None:
    page = report_samples(samples, title=job.title or "Samples")
    storage.write_bytes(job.out, page.html.encode())
    log.info("%d people: %s", page.rows, job.out)
    if len(page.projection_px):
        log.info(
            "  3D truth lands on 2D truth within %.2f px (median), %.2f px (95 %%), over %d joints",
            *np.percentile(page.projection_px, [50, 95]), len(page.projection_px),
        )  # fmt: skip


def _labels(job: Job, labels: str) -> None:
    record = load_run(labels, job=LABELLERS)
    if job.against:
        load_run(job.against, job=LABELLERS)
    samples = job.samples or record["samples"]
    page = make_report(
        labels=labels, samples=samples, title=job.title or "Pseudo-ground-truth report", against=job.against
    )
    storage.write_bytes(job.out, page.html.encode())
    log.info("%d samples, %d labelled: %s", page.rows, page.labelled, job.out)
    if found := page.comparison:
        log.info("  %d are in %s too, %d labelled in both", found.both, job.against, len(found.pairs))


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "")
