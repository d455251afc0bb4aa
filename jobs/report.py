"""See labels: one self-contained HTML page with counts, histograms and overlays on the original pictures.

Reads   <labels>           run folder of jobs/annotate.py
        <samples>          the samples that were annotated
        <against>          older labels of the same samples (optional): the page then says what has changed since
Writes  <out>              one .html file that needs nothing else

    python jobs/report.py --labels labels/coco --samples samples/coco --out report.html
    python jobs/report.py --labels labels/coco-v2 --against labels/coco --out changes.html
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from jobs import start
from pipelines import storage
from pipelines.report import make_report
from pipelines.runs import load_run
from pipelines.verify import JOBS

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Write the report of a set of labels."""

    labels: str
    """Run folder of jobs/annotate.py."""
    samples: str | None = None
    """Samples that were annotated; by default those that the labels' run names."""
    against: str | None = None
    """Run folder of older labels of the same samples, to compare with."""
    out: str
    """HTML file to write (an older one is replaced)."""
    title: str = "Pseudo-ground-truth report"
    """Heading of the page."""


def main(job: Job) -> None:
    record = load_run(job.labels, job=JOBS)
    if job.against:
        load_run(job.against, job=JOBS)
    samples = job.samples or record["samples"]
    page = make_report(labels=job.labels, samples=samples, title=job.title, against=job.against)
    storage.write_bytes(job.out, page.html.encode())
    log.info("%d samples, %d labelled: %s", page.rows, page.labelled, job.out)
    if found := page.comparison:
        log.info("  %d are in %s too, %d labelled in both", found.both, job.against, len(found.pairs))


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "")
