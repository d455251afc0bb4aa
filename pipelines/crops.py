"""Samples as crops: every row of a dataset once, decoded and cut for a network, or with the reason why not."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset, TaskPoolStrategy

from mesh_lib import tables
from mesh_lib.body.joints import BODY33, JointSet
from mesh_lib.datasets.images import BadImage
from pipelines import storage
from pipelines.cutter import Cutter
from pipelines.sources import Source

IDENTITY = ("sample_id", "sample_key", "dataset", "split", "image_id", "person_id")
COLUMNS = (*IDENTITY, "image", "image_uri", "image_size", "crop_to_image", "bbox_xywh_px", "keypoints_2d_px")
READ_CPUS = 0.25
"""Reading waits more than it computes."""


def crop_rows(
    source: Source, *, input_size: tuple[int, int], block_rows: int, readers: int, need_keypoints: bool = True
) -> Dataset:
    """Every sample of a dataset, once, cut for a network: crop, box, given keypoints, and a `status`.

    So many rows become one block, where as many are left. As many tasks read files as decode: Ray would start one for
    every file, up to all CPUs, which fill the object store before anybody decodes.
    """
    system, _ = storage.resolve(source.path)
    files = sorted({file for file, _, _ in source.groups})
    rows = ray.data.read_parquet(files, filesystem=system, shuffle=None, num_cpus=READ_CPUS, concurrency=readers)
    return rows.select_columns(list(COLUMNS)).map_batches(
        lambda table: prepare(table, input_size=input_size, joint_set=source.joint_set, need_keypoints=need_keypoints),
        batch_size=block_rows,
        batch_format="pyarrow",
        num_cpus=1,
        compute=TaskPoolStrategy(size=readers),
    )


def prepare(
    table: pa.Table, *, input_size: tuple[int, int], joint_set: JointSet, need_keypoints: bool = True
) -> dict[str, np.ndarray]:
    """Decode and crop; a row that cannot be annotated gets its reason as `status` and a black crop."""
    cv2.setNumThreads(1)
    width, height = input_size
    rows, cutter = len(table), Cutter(table)
    keypoints = tables.numpy_column(table, "keypoints_2d_px", missing=0.0).reshape(rows, len(joint_set), 3)
    out: dict[str, Any] = {name: table.column(name).to_numpy(zero_copy_only=False) for name in IDENTITY}
    out |= {
        "status": unusable(table, keypoints, need_keypoints=need_keypoints),
        "crop": np.zeros((rows, height, width, 3), np.uint8),
        "box": np.ones((rows, 4)),
        "bbox": np.nan_to_num(tables.numpy_column(table, "bbox_xywh_px", missing=0.0)),
        "image_size": tables.numpy_column(table, "image_size", missing=0.0),
        "keypoints": BODY33.take_from(np.nan_to_num(keypoints), joint_set).astype(np.float32),
    }
    for i in np.flatnonzero(out["status"] == "bad_image"):
        out["status"][i] = cutter.reason(int(i))
    for i in np.flatnonzero(out["status"] == tables.OK):
        try:
            _, out["box"][i] = cutter.cut(int(i), out=out["crop"][i])
        except BadImage as error:
            out["status"][i] = error.reason
        except ValueError:
            out["status"][i] = "bad_box"
    return out


def unusable(table: pa.Table, keypoints: np.ndarray, *, need_keypoints: bool) -> np.ndarray:
    """For each row `ok`, or what its columns alone say against it."""
    claimed = ~(keypoints[..., 2] <= 0)  # a NaN confidence claims a keypoint too
    finite = (np.isfinite(keypoints).all(axis=2) | ~claimed).all(axis=1)
    status = np.where(finite, tables.OK, "keypoints_not_finite").astype(object)
    if need_keypoints:
        status[~claimed.any(axis=1)] = "no_keypoints"
    status[(status == tables.OK) & np.asarray(table.column("image_size").is_null())] = "bad_image"
    return status


class Crops:
    """Ray Data function: rows of samples with their pictures in, the same with `crop`, `box` and `status` out."""

    def __init__(self, input_size: tuple[int, int], joint_set: JointSet) -> None:
        self.input_size, self.joint_set = input_size, joint_set

    def __call__(self, table: pa.Table) -> pa.Table:
        crops = prepare(table, input_size=self.input_size, joint_set=self.joint_set, need_keypoints=False)
        table = table.drop_columns(["image", "image_uri"])
        for name in ("crop", "box"):
            table = table.append_column(name, tables.list_column(crops[name]))
        return table.append_column("status", pa.array(crops["status"].tolist(), pa.string()))
