"""Samples from Parquet to ready crops, by Ray Data: read, decode, augment and warp in tasks, away from the trainer.

A stream is planned before it starts: every row group of every shard, once an epoch, in an order that a seed
fixes. So an epoch is a number of samples, and no worker waits for an iterator that ended elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data import Dataset, TaskPoolStrategy

from mesh_lib import tables
from mesh_lib.body.joints import JointSet
from mesh_lib.datasets.images import BadImage, decode
from mesh_lib.geometry import crop
from mesh_lib.supervision import to_body33
from pipelines import runs, storage

COLUMNS = (
    "sample_key", "image", "image_uri", "crop_to_image", "image_size", "bbox_xywh_px", "keypoints_2d_px",
    "keypoints_3d_m", "smpl_global_orient", "smpl_body_pose", "smpl_betas", "smpl_transl_m", "smpl_valid", "camera",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How samples become crops."""

    augment: bool = True
    """Scale, rotation, flip and colour."""
    strength: float = 1.0
    """Of scale, rotation and colour; 1 is the published ranges. Short trainings learn faster with less."""
    seed: int = 0
    """Fixes the order of shards and the augmentations."""
    readers: int = 2
    """Ray Data tasks that decode and warp at the same time, per stream."""

    def __post_init__(self) -> None:
        runs.require_positive(self, "readers")
        if self.strength < 0:
            raise ValueError(f"strength is at least 0; it is {self.strength}")


@dataclass(frozen=True)
class Source:
    """One sample dataset, as the planner sees it."""

    path: str
    joint_set: JointSet
    groups: tuple[tuple[str, int, int], ...]
    """(file, row group, rows)"""
    bodies: frozenset[str]
    """SHA-256 of the body files whose parameters `smpl_*` holds, as far as the files name them."""

    @property
    def rows(self) -> int:
        return sum(rows for _, _, rows in self.groups)


def open_source(path: str) -> Source:
    """Look at a dataset's files, not its rows.

    Raises ValueError where it is absent, empty, not samples, or the half-written output of an interrupted run.
    """
    path = storage.absolute(path)
    run = runs.run_of(path)
    if run and run.get("status") != "complete":
        raise ValueError(
            f"the samples at {path} are incomplete: their run of {run.get('job')} is {run.get('status')}\n"
            f"  fix: run jobs/{run.get('job')}.py with the same settings again; it takes up its folder"
        )
    system, _ = storage.resolve(path)
    groups, joint_set, bodies = [], None, set()
    for file in storage.parquet_files(path):
        try:
            info = pq.ParquetFile(system.open_input_file(file))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file} is not a Parquet file: {error}") from None
        found = tables.joint_set_of(info.schema_arrow, where=file)
        if joint_set is not None and found != joint_set:
            raise ValueError(f"{path} mixes joint sets: {joint_set.name} and, in {file}, {found.name}")
        joint_set = found
        bodies |= tables.bodies_of(info.schema_arrow)
        meta = info.metadata
        rows = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        groups += [(file, i, count) for i, count in enumerate(rows) if count]
    if joint_set is None or not groups:
        raise ValueError(f"no samples at {path}: its {len(storage.parquet_files(path))} files hold no row")
    return Source(path, joint_set, tuple(groups), frozenset(bodies))


def read_group(path: str, file: str, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One row group of one shard."""
    system, _ = storage.resolve(path)
    wanted = list(columns) if columns else None
    return pq.ParquetFile(system.open_input_file(file)).read_row_group(group, columns=wanted)


def training_stream(
    paths: Sequence[str], *, samples: int, weak: bool, input_size: tuple[int, int], config: StreamConfig
) -> Dataset:
    """Endless-looking stream of `samples` crops from all `paths` together (datasets concatenated, then shuffled).

    `weak` marks the samples as supervised by 2D only: whatever 3D they carry is not read.
    """
    sources = [open_source(path) for path in paths]
    units: list[dict[str, Any]] = []
    planned, epoch = 0, 0
    while planned < samples:
        every = [(s, g) for s in range(len(sources)) for g in range(len(sources[s].groups))]
        order = np.random.default_rng((config.seed, epoch)).permutation(len(every))
        for index in order:
            source, group = every[index]
            file, row_group, rows = sources[source].groups[group]
            units.append({"source": source, "file": file, "group": row_group, "epoch": epoch})
            planned += rows
            if planned >= samples:
                break
        epoch += 1
    reader = _CropGroup(sources, weak=weak, input_size=input_size, config=config)
    return ray.data.from_items(units, override_num_blocks=min(len(units), 1000)).map_batches(
        reader,
        batch_size=1,
        batch_format="numpy",
        num_cpus=1,
        compute=TaskPoolStrategy(size=min(config.readers, len(units))),
    )


class _CropGroup:
    """Ray Data function: one planned row group in, its crops and truth out."""

    def __init__(self, sources: list[Source], *, weak: bool, input_size: tuple[int, int], config: StreamConfig) -> None:
        self.sources, self.weak, self.input_size, self.config = sources, weak, input_size, config

    def __call__(self, unit: Any) -> dict[str, np.ndarray]:
        cv2.setNumThreads(1)
        source = self.sources[int(unit["source"][0])]
        table = read_group(source.path, str(unit["file"][0]), int(unit["group"][0]), COLUMNS)
        truth = truth_columns(table, source.joint_set, weak=self.weak)
        rows = []
        for i in range(len(table)):
            seed = (self.config.seed, int(unit["epoch"][0]), int(truth["sample_key"][i]) & (2**63 - 1))
            rng = np.random.default_rng(seed)
            augmentation = (
                crop.draw_augmentation(rng, strength=self.config.strength)
                if self.config.augment
                else crop.Augmentation()
            )
            try:
                rows.append((i, augmentation, *cut(table, i, input_size=self.input_size, augmentation=augmentation)))
            except (BadImage, ValueError):
                continue  # an undecodable sample cannot teach; annotate is where it is reported, by reason
        keep = np.array([row[0] for row in rows], dtype=int)
        size = (self.input_size[1], self.input_size[0], 3)
        out = {name: values[keep] for name, values in truth.items()}
        out["image"] = np.stack([row[2] for row in rows]) if rows else np.zeros((0, *size), np.uint8)
        out["affine"] = np.array([row[3] for row in rows], np.float32).reshape(-1, 2, 3)
        out["flip"] = np.array([row[1].flip for row in rows], bool)
        out["rotation_rad"] = np.array([row[1].rotation_rad for row in rows], np.float32)
        return out


def cut(
    table: pa.Table, row: int, *, input_size: tuple[int, int], augmentation: crop.Augmentation | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The network's view of one row: crop (H, W, 3) RGB uint8, affine (whole image → crop), and its box.

    Raises BadImage for a picture that cannot be read, ValueError for a box without area.
    """
    data = table.column("image")[row].as_py()
    if data is None:
        data = storage.read_image(table.column("image_uri")[row].as_py())
    picture = decode(data)
    whole = tuple(table.column("image_size")[row].as_py())
    stored = np.array(table.column("crop_to_image")[row].as_py(), float).reshape(2, 3)
    box = crop.network_box(
        np.array(table.column("bbox_xywh_px")[row].as_py()), image_size=whole, aspect=input_size[0] / input_size[1]
    )
    affine = crop.crop_affine(box, input_size=input_size, image_width=whole[0], augmentation=augmentation)
    pixels = crop.warp(picture, crop.compose_affine(affine, stored), input_size=input_size)
    if augmentation is not None and augmentation.colour != (1.0, 1.0, 1.0):
        pixels = np.clip(pixels * np.array(augmentation.colour, np.float32), 0, 255).astype(np.uint8)
    return pixels, affine, box


def truth_columns(table: pa.Table, joint_set: JointSet, *, weak: bool) -> dict[str, np.ndarray]:
    """The unaugmented truth of a table of samples as arrays in BODY33 order; absent values are zero."""
    rows, joints = len(table), len(joint_set)

    def column(name: str) -> np.ndarray:
        return np.nan_to_num(tables.numpy_column(table, name, missing=0.0)).astype(np.float32)

    camera = table.column("camera").combine_chunks()
    camera = camera if isinstance(camera, pa.StructArray) else pa.concat_arrays(camera.chunks)
    inner = pa.table({"focal_px": camera.field("focal_px"), "princpt_px": camera.field("princpt_px")})
    valid = np.asarray(table.column("smpl_valid").fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)
    keypoints_2d = column("keypoints_2d_px").reshape(rows, joints, 3)
    keypoints_3d = column("keypoints_3d_m").reshape(rows, joints, 4)
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
        "focal_px": np.nan_to_num(tables.numpy_column(inner, "focal_px", missing=0.0)).astype(np.float32),
        "princpt_px": np.nan_to_num(tables.numpy_column(inner, "princpt_px", missing=0.0)).astype(np.float32),
        "weak": np.full(rows, weak),
    }
