"""Samples from Parquet to ready batches, by Ray Data: read, decode, augment and warp in tasks, away from the trainer.

The order of all samples is planned, not happened upon: an endless sequence that a seed fixes, shuffled epoch by epoch
in windows of row groups, so that no dataset need fit in memory. A batch is a stretch of that sequence and a worker
takes its part of the stretch: the same pictures make the same batch on one worker or on eight, and a training that
was killed goes on at the very sample where it was.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import Dataset, TaskPoolStrategy
from torch import Tensor

from mesh_lib import tables
from mesh_lib.body.joints import JointSet
from mesh_lib.datasets.images import BadImage, decode
from mesh_lib.geometry import crop
from mesh_lib.supervision import to_body33
from pipelines import runs, storage
from pipelines.cluster import set_up_data
from pipelines.hands import hand_columns
from pipelines.labelled import labelled_rows
from pipelines.sources import Source, read_group

SEGMENT = 1000
"""Windows of one Ray Data execution: each is an object that the cluster keeps an eye on."""
BLOCK_BYTES = 20 * 2**20
"""Crops that a reader hands over at once: small enough to flow, large enough not to keep the scheduler busy."""
READER_CPUS = 0.01
"""A reader whose crops nobody takes yet waits with its CPU in hand. With whole CPUs the readers of one dataset could
take them all and starve the dataset that the training waits for; `StreamConfig.readers` bounds them already."""
STORE_SHARE = 0.8
"""Of the object store, for all streams of a training together."""


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
    return _power_of_two(2 * -(-rows // feed.count) - 1)


def _power_of_two(limit: int) -> int:
    """The largest up to `limit` (at least 1)."""
    return 1 << (max(1, limit).bit_length() - 1)


def shuffled(window: Window, *, seed: int) -> np.ndarray:
    """The window's rows, numbered through its groups, in the order of the stream."""
    return np.random.default_rng((seed, window.epoch, window.start)).permutation(window.rows)


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
    reader = _CropWindow(feed, config, input_size, span, rank=rank, workers=workers)
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


class _CropWindow:
    """Ray Data function: one planned window in, a worker's crops and truth of it out, a few batches at a time."""

    def __init__(
        self, feed: Feed, config: StreamConfig, input_size: tuple[int, int], span: range, *, rank: int, workers: int
    ) -> None:
        self.feed, self.config, self.input_size, self.span = feed, config, input_size, span
        self.rank, self.share = rank, feed.count // workers
        part_bytes = 3 * input_size[0] * input_size[1] * self.share
        self.block = min(_power_of_two(BLOCK_BYTES // part_bytes), window_batches(feed, config))
        """Batches of a block: whole ones, so that none begins in one block and ends in another."""
        self.block_bytes = self.block * part_bytes

    def __call__(self, unit: Any) -> Iterator[dict[str, np.ndarray]]:
        cv2.setNumThreads(1)
        window: Window = unit["window"][0]
        truth, shots = self._open(window)
        order = shuffled(window, seed=self.config.seed)
        unreadable: set[int] = set()
        for places in self._blocks(window):
            images = np.empty((len(places), self.input_size[1], self.input_size[0], 3), np.uint8)
            affines = np.empty((len(places), 2, 3), np.float32)
            chosen = np.empty(len(places), int)
            for slot, place in enumerate(places):
                # A picture that cannot be read gives way to the next one: a batch is never short, a worker never waits.
                for row in itertools.chain(order[place:], order[:place]):
                    affine = None if row in unreadable else shots[row].cut(out=images[slot])
                    if affine is not None:
                        affines[slot], chosen[slot] = affine, row
                        break
                    unreadable.add(row)
                else:
                    paths = ", ".join(sorted({self.feed.sources[piece.source].path for piece in window.pieces}))
                    raise ValueError(f"no picture can be read among {window.rows} neighbouring samples of {paths}")
            drawn = [shots[row].augmentation for row in chosen]
            yield {name: values[chosen] for name, values in truth.items()} | {
                "image": images,
                "affine": affines,
                "flip": np.array([a.flip for a in drawn], bool),
                "rotation_rad": np.array([a.rotation_rad for a in drawn], np.float32),
                "stand_in": chosen != order[places],
            }

    def _open(self, window: Window) -> tuple[dict[str, np.ndarray], list[_Shot]]:
        """The truth of the window's rows, and what their crops are cut from."""
        drawn = [crop.Augmentation()] * window.rows
        if self.config.augment:
            rng = np.random.default_rng((self.config.seed, window.epoch, window.start, 1))
            drawn = crop.draw_augmentations(
                rng, window.rows, strength=self.config.strength, mirror=self.feed.may_mirror
            )
        truth, shots = [], []
        for piece in window.pieces:
            source = self.feed.sources[piece.source]
            file, row_group, _ = source.groups[piece.group]
            table = read_group(source.path, file, row_group, source.columns)
            if source.labels:
                table = labelled_rows(table, source.labels, piece.group)
            table = table.slice(piece.low, piece.high - piece.low)
            columns = truth_columns if source.part == "body" else hand_columns
            truth.append(columns(table, source.joint_set, weak=source.weak))
            cutter = Cutter(table)
            shots += [_Shot(cutter, row, drawn[len(shots) + row]) for row in range(len(table))]
        return {name: np.concatenate([part[name] for part in truth]) for name in truth[0]}, shots

    def _blocks(self, window: Window) -> list[np.ndarray]:
        """Places in the window that this worker's batches take, a block's together."""
        position = np.arange(window.start, window.start + window.rows)
        batch, within = np.divmod(position, self.feed.count)
        mine = within // self.share == self.rank
        places = np.flatnonzero(mine & (position >= self.span.start) & (position < self.span.stop))
        return np.split(places, np.flatnonzero(np.diff(batch[places] // self.block)) + 1)


@dataclass(frozen=True)
class _Shot:
    """One row of a shard, and how it is augmented."""

    cutter: Cutter
    row: int
    augmentation: crop.Augmentation

    def cut(self, *, out: np.ndarray) -> np.ndarray | None:
        """Cut the crop into its slot; the affine, or None for a picture that cannot be read."""
        try:
            return self.cutter.cut(self.row, out=out, augmentation=self.augmentation)[0]
        except (BadImage, ValueError):
            return None  # annotate is where it is reported, by reason


def _fetch(uri: str | None) -> bytes | None:
    try:
        return storage.read_image(uri)
    except ValueError as error:  # an address that nobody serves
        raise BadImage(str(error), reason="missing_image") from error


class Cutter:
    """Cuts the network's view out of the rows of a table of samples."""

    def __init__(self, table: pa.Table) -> None:
        self.image, self.image_uri = table.column("image"), table.column("image_uri")
        self.image_size = tables.numpy_column(table, "image_size", missing=0.0)
        self.crop_to_image = tables.numpy_column(table, "crop_to_image").reshape(-1, 2, 3)
        self.placed = np.asarray(np.isfinite(self.crop_to_image).all(axis=(1, 2)))
        self.bbox = tables.numpy_column(table, "bbox_xywh_px")

    def cut(
        self, row: int, *, out: np.ndarray, augmentation: crop.Augmentation | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Write the crop into `out` (H, W, 3) RGB uint8; returns its affine (whole image → crop) and its box.

        Raises BadImage for a picture that cannot be read or lies nobody knows where, ValueError for a box without area.
        """
        if not self.placed[row]:
            raise BadImage("crop_to_image does not say where in the picture the stored crop lies")
        picture = self._picture(row)
        width, height = self.image_size[row].tolist()
        input_size = out.shape[1], out.shape[0]
        box = crop.network_box(self.bbox[row], image_size=(width, height), aspect=input_size[0] / input_size[1])
        affine = crop.crop_affine(box, input_size=input_size, image_width=width, augmentation=augmentation)
        crop.warp(picture, crop.compose_affine(affine, self.crop_to_image[row]), out=out)
        if augmentation is not None:
            crop.tint(out, augmentation.colour)
        return affine, box

    def _picture(self, row: int) -> np.ndarray:
        data = self.image[row].as_py()
        return decode(_fetch(self.image_uri[row].as_py()) if data is None else data)

    def reason(self, row: int) -> str:
        """Why a picture cannot be used whose size nobody knew when it was ingested."""
        try:
            self._picture(row)
        except BadImage as error:
            return error.reason
        return "bad_image"  # it can be read today: what its keypoints are of, nobody knows


def truth_columns(table: pa.Table, joint_set: JointSet, *, weak: bool) -> dict[str, np.ndarray]:
    """The unaugmented truth of a table of samples as arrays in BODY33 order; absent values are zero.

    What is not finite is not known: its confidence or validity becomes 0. A sample without any valid 3D is weak,
    whatever its dataset is.
    """
    rows, joints = len(table), len(joint_set)

    def column(name: str) -> np.ndarray:
        return np.nan_to_num(tables.numpy_column(table, name, missing=0.0)).astype(np.float32)

    def keypoints(name: str, channels: int) -> np.ndarray:
        values = tables.numpy_column(table, name, missing=0.0).reshape(rows, joints, channels).astype(np.float32)
        return np.where(np.isfinite(values).all(axis=2, keepdims=True), values, np.float32(0))

    valid = np.asarray(table.column("smpl_valid").fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)
    for name in ("smpl_global_orient", "smpl_body_pose", "smpl_betas", "smpl_transl_m"):
        valid &= np.isfinite(tables.numpy_column(table, name)).all(axis=1)
    keypoints_2d, keypoints_3d = keypoints("keypoints_2d_px", 3), keypoints("keypoints_3d_m", 4)
    pose = np.concatenate([column("smpl_global_orient"), column("smpl_body_pose")], axis=1)
    hidden = np.zeros(rows, bool) if weak else np.ones(rows, bool)
    return {
        "sample_key": table.column("sample_key").to_numpy(),
        "keypoints_2d_px": to_body33(keypoints_2d, joint_set),
        "keypoints_3d_m": to_body33(keypoints_3d, joint_set) * hidden[:, None, None],
        "smpl_rotvec": pose.reshape(rows, 24, 3) * hidden[:, None, None],
        "smpl_betas": column("smpl_betas") * hidden[:, None],
        "smpl_transl_m": column("smpl_transl_m") * hidden[:, None],
        "smpl_valid": valid & hidden,
        **tables.camera_columns(table),
        "weak": weak | ~(valid | (keypoints_3d[..., 3] > 0).any(axis=1)),
    }
