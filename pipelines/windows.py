"""The order of all samples, planned, not happened upon; its settings (StreamConfig) and its datasets (Feed).

It is an endless sequence that a seed fixes, shuffled epoch by epoch in windows of row groups, so that no dataset need
fit in memory. A batch is a stretch of that sequence and a worker takes its part of the stretch: the same pictures make
the same batch on one worker or on eight, and a training that was killed goes on at the very sample where it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines import runs
from pipelines.sources import Source


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How samples become crops."""

    augment: bool = True
    """Scale, rotation, flip and colour."""
    strength: float = 1.0
    """Of scale, rotation and colour; 1 is the published ranges. Short trainings learn faster with less."""
    seed: int = 0
    """Fixes the order of the samples and their augmentations."""
    shuffle_rows: int = 1024
    """Samples of a window: row groups are shuffled over the whole dataset, their rows within windows of this size."""
    readers: int = 3
    """Ray Data tasks that decode and warp at the same time, per worker and kind of dataset."""

    def __post_init__(self) -> None:
        runs.require_positive(self, "shuffle_rows", "readers")
        if self.strength < 0:
            raise ValueError(f"strength is at least 0; it is {self.strength}")


@dataclass(frozen=True)
class Feed:
    """Datasets that give a fixed number of samples to every batch, mixed with one another by their size."""

    name: str
    sources: tuple[Source, ...]
    count: int
    """Samples of a batch, over all workers."""

    @property
    def rows(self) -> int:
        return sum(source.rows for source in self.sources)

    @property
    def may_mirror(self) -> bool:
        """A mirrored right hand is a left one (mesh_lib/hand_supervision.py)."""
        return all(source.part == "body" for source in self.sources)


@dataclass(frozen=True)
class Piece:
    """Rows low:high of a row group."""

    source: int
    group: int
    low: int
    high: int


@dataclass(frozen=True)
class Window:
    """A stretch of the planned order: rows of a few row groups, shuffled together."""

    epoch: int
    start: int
    """Position of its first row in the endless order."""
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        return sum(piece.high - piece.low for piece in self.pieces)


def planned(feed: Feed, config: StreamConfig, span: range) -> Iterator[Window]:
    """The windows that hold the positions `span` of the feed's endless order: each epoch holds every sample once."""
    for epoch in range(span.start // feed.rows, -(-span.stop // feed.rows)):
        for window in _plan_epoch(feed, config, epoch):
            if window.start < span.stop and window.start + window.rows > span.start:
                yield window


def _plan_epoch(feed: Feed, config: StreamConfig, epoch: int) -> Iterator[Window]:
    groups = [(s, g, rows) for s, source in enumerate(feed.sources) for g, (_, _, rows) in enumerate(source.groups)]
    start = at = epoch * feed.rows
    size, pieces = window_batches(feed, config) * feed.count, []
    for index in np.random.default_rng((config.seed, epoch)).permutation(len(groups)):
        source, group, rows = groups[index]
        low = 0
        while low < rows:
            high = min(rows, low + size - at % size)
            pieces.append(Piece(source, group, low, high))
            at, low = at + high - low, high
            if at % size == 0:
                yield Window(epoch, start, tuple(pieces))
                start, pieces = at, []
    if pieces:
        yield Window(epoch, start, tuple(pieces))


def window_batches(feed: Feed, config: StreamConfig) -> int:
    """Batches of a window: a power of two, so that blocks of a power of two of batches fill it. Never smaller than a
    row group, which would be read again for every window that has some of it."""
    rows = max(config.shuffle_rows, *(rows for source in feed.sources for _, _, rows in source.groups))
    return power_of_two(2 * -(-rows // feed.count) - 1)


def power_of_two(limit: int) -> int:
    """The largest up to `limit` (at least 1)."""
    return 1 << (max(1, limit).bit_length() - 1)


def shuffled(window: Window, *, seed: int) -> np.ndarray:
    """The window's rows, numbered through its groups, in the order of the stream."""
    return np.random.default_rng((seed, window.epoch, window.start)).permutation(window.rows)
