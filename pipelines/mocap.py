"""Motion capture clips in folders: every clip's poses, thinned, clip by clip."""

from __future__ import annotations

import logging
from pathlib import Path

from mesh_lib.datasets import amass, bvh
from mesh_lib.world.poses import Poses

log = logging.getLogger(__name__)

FRAMES_PER_S = 10.0
"""Motion capture is far denser in time than in poses."""


def gather_clips(*, bvh_dir: Path | None, amass_dir: Path | None) -> list[Poses]:
    """Every clip of both folders at FRAMES_PER_S, sorted by path. Raises ValueError where a named folder holds none."""
    clips: list[Poses] = []
    if bvh_dir:
        paths = sorted(Path(bvh_dir).rglob("*.bvh"))
        if not paths:
            raise ValueError(f"no .bvh clips in {bvh_dir}")
        clips += [_thinned_bvh(path) for path in paths]
    if amass_dir:
        paths = amass.find_clips(amass_dir)
        if not paths:
            raise ValueError(f"no AMASS clips (*{', *'.join(amass.SUFFIXES)}) in {amass_dir}")
        clips += [amass.read_amass(path, frames_per_s=FRAMES_PER_S) for path in paths]
    if clips:
        log.info("%d poses from %d clips of motion capture", sum(map(len, clips)), len(clips))
    return clips


def _thinned_bvh(path: Path) -> Poses:
    motion = bvh.parse_bvh(path)
    return bvh.retarget(motion, every=max(1, round(1 / (FRAMES_PER_S * motion.frame_time_s))))
