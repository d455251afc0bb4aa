"""What readers do in their tasks: decode, augment and cut the crops of one window, with the truth of its rows.

Nothing here may import torch, which would cost each of their processes three seconds and 300 MB.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from mesh_lib import tables
from mesh_lib.body.joints import JointSet, to_body33
from mesh_lib.datasets.images import BadImage, decode
from mesh_lib.geometry import crop
from pipelines import storage
from pipelines.hands import hand_columns
from pipelines.labelled import labelled_rows
from pipelines.sources import read_group
from pipelines.windows import Feed, StreamConfig, Window, power_of_two, shuffled, window_batches

BLOCK_BYTES = 20 * 2**20
"""Crops that a reader hands over at once: small enough to flow, large enough not to keep the scheduler busy."""


class CropWindow:
    """Ray Data function: one planned window in, a worker's crops and truth of it out, a few batches at a time."""

    def __init__(
        self, feed: Feed, config: StreamConfig, input_size: tuple[int, int], span: range, *, rank: int, workers: int
    ) -> None:
        self.feed, self.config, self.input_size, self.span = feed, config, input_size, span
        self.rank, self.share = rank, feed.count // workers
        part_bytes = 3 * input_size[0] * input_size[1] * self.share
        self.block = min(power_of_two(BLOCK_BYTES // part_bytes), window_batches(feed, config))
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


def _fetch(uri: str | None) -> bytes | None:
    try:
        return storage.read_image(uri)
    except ValueError as error:  # an address that nobody serves
        raise BadImage(str(error), reason="missing_image") from error


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
