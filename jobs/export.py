"""Export labels in the formats that downstream code reads.

Reads   <labels>           run folder of jobs/annotate.py or jobs/import_labels.py
        <samples>          the samples that were labelled
Writes  <out>              run.json and the format's file or files (docs/formats.md)

    python jobs/export.py neuralannot --labels labels/coco --out exports/coco-neuralannot
    python jobs/export.py webdataset --labels labels/coco --out s3://bucket/coco-tars

Of NeuralAnnot's forms the flat one is written whatever the dataset, as released for datasets in the wild: annotation
id: {smpl_param, cam_param}, camera frame. Those of Human3.6M and MPI-INF-3DHP (nested by subject, sequence and frame,
world frame) and of 3DPW (no camera) are not.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs import start
from pipelines import storage
from pipelines.cluster import connect
from pipelines.export import JOINT_MOVED_PX, Format, Key, export
from pipelines.label_files import LABELLERS
from pipelines.runs import load_run, open_run

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Write the labels with status ok in a format of others."""

    to: Annotated[Format, tyro.conf.Positional]
    """neuralannot, spin, eft, humandata, coco: one file. webdataset: tars. obj, ply, glb: a mesh file a person."""
    labels: str
    """Run folder of jobs/annotate.py or jobs/import_labels.py."""
    samples: str | None = None
    """Samples that were labelled; by default those that the labels' run names."""
    out: str
    """Folder to create."""
    key: Key = "person_id"
    """What formats that tell people by an annotation's id (neuralannot, eft, coco) take for it: the dataset's own id of
    the person, or, where that is not unique, our sample id."""
    images_root: str = ""
    """Folder below which pictures are named; by default each picture's own folder, so that names are file names. Where
    one name would be of two pictures, spin, eft, humandata and coco refuse."""
    parallel: int = 2
    """Tasks that write tars or meshes at the same time."""


def main(job: Job) -> None:
    record = load_run(job.labels, job=LABELLERS)
    samples = job.samples or record["samples"]
    settings = {"to": job.to, "key": job.key, "images_root": job.images_root, "labels": storage.absolute(job.labels)}
    run = open_run(job.out, job="export", settings=settings, inputs=[job.labels, samples])
    if run.finished:
        log.info("%s is complete already", job.out)
        return
    connect()
    found = export(
        run.folder,
        labels=job.labels,
        samples=samples,
        to=job.to,
        key=job.key,
        strip=job.images_root,
        parallel=job.parallel,
    )
    run.finish(result=dataclasses.asdict(found))
    log.info("%d labels: %s", found.labels, job.out)
    for reason, count in sorted(found.left_out.items()):
        log.info("  %d left out: %s", count, reason)
    if found.moved_px[1]:
        log.info(
            "  this format's camera shows joints %.2f px (median) to %.2f px from where the labels have them; %d labels"
            " by more than %.1f px", *found.moved_px, found.moved, JOINT_MOVED_PX,
        )  # fmt: skip


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "")
