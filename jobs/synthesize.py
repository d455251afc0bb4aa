"""Synthesize the open world: pictures of made-up people whose pose, shape and camera are known.

Reads   <body>             a body file; optionally your photos as backgrounds, BVH or AMASS clips as poses
Writes  <out>              run.json, studio/ street/ street3d/ street_test/ (samples, docs/data.md) and
                           truth/<domain>/ (everything that is known, for scoring; training must not read it)

    python jobs/synthesize.py --out world --seed 0 --studio 2000 --street 2000 --street3d 200 --street-test 200
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import tyro

from jobs import start
from pipelines.bodies import find_body
from pipelines.cluster import connect
from pipelines.runs import open_run
from pipelines.synthesize import World, synthesize, write_sheets

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Draw the open world."""

    out: str
    """Run folder to create."""
    world: tyro.conf.OmitArgPrefixes[World] = field(default_factory=World)
    body: str = "full"
    """Body to draw: full, low (coarse, faster), or a file (.npz, .pkl)."""
    sheet: str | None = None
    """Also write contact sheets (open_world.png, open_world_truth.png, poses.png) into this folder."""


def main(job: Job) -> None:
    body = find_body(job.body)
    inputs = [str(path) for path in (body, job.world.backgrounds, job.world.bvh, job.world.amass) if path]
    run = open_run(job.out, job="synthesize", settings=job.world, inputs=inputs)
    if run.finished:
        log.info("%s is complete already", job.out)
    else:
        connect()
        found = synthesize(run, world=job.world, body=body)
        run.finish(result=found)
        log.info("%s: %s", ", ".join(f"{rows} {domain}" for domain, rows in found["rows"].items()), job.out)
    if job.sheet:
        write_sheets(job.sheet, world=job.world, body=body)
        log.info("contact sheets: %s", job.sheet)


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "")
