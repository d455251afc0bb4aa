"""See the whole method work: body, world, prior, annotator, labels, report. Nothing to download, no licence to sign.

Reads   nothing; or the COCO pictures that you name
Writes  <out>              report.html, report-coco.html, summary.json, and a run folder for each stage
Costs   quick: under 12 minutes and 6 GB on two CPU cores; evening: under 90 minutes

    python jobs/demo.py
    python jobs/demo.py --out demo-coco --coco-annotations person_keypoints_val2017.json --coco-images val2017
    python jobs/demo.py --preset evening --out demo-evening
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from jobs import start
from mesh_lib.datasets.coco import Coco
from pipelines.demo import Preset, check_coco, demo, plan
from pipelines.runs import open_run

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Run the whole line at small size."""

    out: str = "demo"
    """Run folder to create."""
    preset: Preset = "quick"
    """quick: minutes. evening: a longer training, and a control without 3D supervision."""
    coco_annotations: str | None = None
    """A person_keypoints_*.json, to label real pictures too."""
    coco_images: str | None = None
    """Folder of its pictures."""


def main(job: Job) -> None:
    if (job.coco_annotations is None) != (job.coco_images is None):
        raise ValueError("pass --coco-annotations and --coco-images together")
    coco = None
    if job.coco_annotations and job.coco_images:
        coco = Coco(annotations=job.coco_annotations, images=job.coco_images)
    if coco:
        check_coco(coco)
    inputs = [coco.annotations, coco.images] if coco else []
    run = open_run(job.out, job="demo", settings={"preset": job.preset}, inputs=inputs, resume=True)
    if run.finished:
        log.info("%s is complete already; its report is %s", job.out, run.path("report.html"))
        return
    summary = demo(run, chosen=plan(job.preset), coco=coco)
    run.finish(result=summary)
    for line in table(summary):
        log.info(line)
    log.info("\nreport: %s", run.path("report.html"))
    if coco:
        log.info("        %s", run.path("report-coco.html"))
    log.info("numbers: %s", run.path("summary.json"))


def table(summary: dict[str, Any]) -> list[str]:
    """The summary as lines of text."""
    error = summary["pa_mpjpe_mm"]
    lines = ["", f"PA-MPJPE on {summary['samples']} street samples, whose 3D truth training never sees:"]
    lines.append(f"  mean pose           {error['mean_pose']:7.1f} mm")
    lines.append(f"  labels of f         {error['labels']:7.1f} mm   {error['labels'] / error['mean_pose']:.2f} of it")
    if "labels_without_3d" in error:
        without = error["labels_without_3d"]
        lines.append(f"  f without any 3D    {without:7.1f} mm   {without / error['mean_pose']:.2f} of it")
    if "coco" in summary:
        coco = summary["coco"]
        error_px = coco["median_reprojection_error_px"]
        lines.append(
            f"COCO: {coco['persons']} people, {coco['labelled']} labelled, {coco['quarantined']} quarantined, "
            f"median reprojection error {'–' if error_px is None else f'{error_px:.1f}'} px, "
            f"{coco['flagged_high_reprojection']} flagged"
        )
    lines += ["", "stage                                        seconds"]
    lines += [f"  {name:<42} {seconds:8.1f}" for name, seconds in summary["seconds"].items()]
    lines.append(f"  {'total':<42} {summary['total_seconds']:8.1f}   peak memory {summary['peak_memory_gb']:.1f} GB")
    return lines


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "")
