"""Samples from Parquet to ready batches, by Ray Data: decoded, augmented and warped in tasks, away from the trainer."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import Dataset, TaskPoolStrategy
from torch import Tensor

from pipelines.cluster import set_up_data
from pipelines.cutter import CropWindow
from pipelines.windows import Feed, StreamConfig, planned

SEGMENT = 1000
"""Windows of one Ray Data execution: each is an object that the cluster keeps an eye on."""
READER_CPUS = 0.01
"""A reader whose crops nobody takes yet waits with its CPU in hand. With whole CPUs the readers of one dataset could
take them all and starve the dataset that the training waits for; `StreamConfig.readers` bounds them already."""
STORE_SHARE = 0.8
"""Of the object store, for all streams of a training together."""


def batches(
    feed: Feed,
    *,
    config: StreamConfig,
    input_size: tuple[int, int],
    steps: range,
    device: torch.device,
    rank: int = 0,
    workers: int = 1,
    streams: int = 1,
) -> Iterator[dict[str, Tensor]]:
    """A worker's part (count / workers samples) of the feed's batches for `steps` of a training, counted from 0.

    `streams` is how many such streams, over all workers, share the object store.
    """
    segment = max(1, SEGMENT * min(config.shuffle_rows, feed.rows) // feed.count)
    for start in range(steps.start, steps.stop, segment):
        stop = min(start + segment, steps.stop)
        crops = crop_stream(
            feed, config=config, input_size=input_size, span=range(start * feed.count, stop * feed.count),
            rank=rank, workers=workers, streams=streams,
        )  # fmt: skip
        blocks = crops.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
        for rows in _stretches(blocks, feed.count // workers):
            yield {name: _tensor(pieces, device) for name, pieces in rows.items()}


def _stretches(blocks: Iterable[pa.Table], size: int) -> Iterator[dict[str, list[np.ndarray]]]:
    """Stretches of `size` rows, each in as many pieces as it lies in blocks: views of the object store, no copies."""
    begun: dict[str, list[np.ndarray]] = {}
    wanted = size
    for block in itertools.chain.from_iterable(table.to_batches() for table in blocks):
        columns = {name: np.asarray(column.to_numpy(zero_copy_only=False)) for name, column in _columns(block)}
        at = 0
        while at < len(block):
            taken = min(wanted, len(block) - at)
            for name, values in columns.items():
                begun.setdefault(name, []).append(values[at : at + taken])
            at, wanted = at + taken, wanted - taken
            if not wanted:
                yield begun
                begun, wanted = {}, size


def _columns(block: pa.RecordBatch) -> Iterator[tuple[str, Any]]:
    return zip(block.schema.names, block.columns, strict=True)


def _tensor(pieces: list[np.ndarray], device: torch.device) -> Tensor:
    """Rows that lie in pieces, as one tensor on a device. On a CPU a single piece is not copied: do not write to it."""
    if device.type == "cpu":
        values = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the object store cannot be written to
            return torch.from_numpy(values)
    shape = (sum(map(len, pieces)), *pieces[0].shape[1:])
    pinned = torch.empty(shape, dtype=torch.from_numpy(np.empty(0, pieces[0].dtype)).dtype, pin_memory=True)
    np.concatenate(pieces, out=pinned.numpy())
    return pinned.to(device, non_blocking=True)


def crop_stream(
    feed: Feed,
    *,
    config: StreamConfig,
    input_size: tuple[int, int],
    span: range,
    rank: int = 0,
    workers: int = 1,
    streams: int = 1,
) -> Dataset:
    """A worker's crops of the positions `span` of the feed's order, a row each, in that order."""
    set_up_data()
    windows = [{"window": window} for window in planned(feed, config, span)]
    reader = CropWindow(feed, config, input_size, span, rank=rank, workers=workers)
    crops = ray.data.from_items(windows, override_num_blocks=len(windows)).map_batches(
        reader,
        batch_size=1,
        batch_format="numpy",
        num_cpus=READER_CPUS,
        compute=TaskPoolStrategy(size=min(config.readers, len(windows))),
    )
    crops.context.execution_options.preserve_order = True
    crops.context.override_object_store_memory_limit_fraction = STORE_SHARE / streams
    crops.context.target_max_block_size = reader.block_bytes  # which each yield exceeds: it becomes a block as it is
    return crops
