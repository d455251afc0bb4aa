"""Motion capture clips in folders: every clip's poses, thinned, clip by clip."""

from __future__ import annotations

import logging
from pathlib import Path

from mesh_lib.datasets import amass, asf_amc, bvh
from mesh_lib.world.poses import Poses

log = logging.getLogger(__name__)

FRAMES_PER_S = 10.0
"""Motion capture is far denser in time than in poses."""


def gather_clips(*, bvh_dir: Path | None, amass_dir: Path | None) -> list[Poses]:
    """Every clip of both folders at FRAMES_PER_S, sorted by path. Raises ValueError where a named folder holds none."""
    clips: list[Poses] = []
    if bvh_dir:
        paths = sorted(path for suffix in ("bvh", "amc") for path in Path(bvh_dir).rglob(f"*.{suffix}"))
        if not paths:
            raise ValueError(f"no .bvh or .amc clips in {bvh_dir}")
        clips += [_thinned(path) for path in paths]
    if amass_dir:
        paths = amass.find_clips(amass_dir)
        if not paths:
            raise ValueError(f"no AMASS clips (*{', *'.join(amass.SUFFIXES)}) in {amass_dir}")
        clips += [amass.read_amass(path, frames_per_s=FRAMES_PER_S) for path in paths]
    if clips:
        log.info("%d poses from %d clips of motion capture", sum(map(len, clips)), len(clips))
    return clips


def _thinned(path: Path) -> Poses:
    if path.suffix == ".amc":
        return asf_amc.read_asf_amc(path, every=round(asf_amc.FRAMES_PER_S / FRAMES_PER_S))
    motion = bvh.parse_bvh(path)
    return bvh.retarget(motion, every=max(1, round(1 / (FRAMES_PER_S * motion.frame_time_s))))
