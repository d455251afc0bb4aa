"""Annotation at scale: samples in, one pseudo_gt row for each out, by a Ray Data pool of annotators."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from mesh_lib import tables
from mesh_lib.body.joints import BODY33, JointSet
from mesh_lib.datasets.images import BadImage
from mesh_lib.labels import failure, flags, make_labels
from pipelines import annotators, runs, storage
from pipelines.bodies import BODY
from pipelines.sources import Source, open_source
from pipelines.stream import Cutter

log = logging.getLogger(__name__)

LABELS = "pseudo_gt"
IDENTITY = ("sample_id", "sample_key", "dataset", "split", "image_id", "person_id")
COLUMNS = (*IDENTITY, "image", "image_uri", "image_size", "crop_to_image", "bbox_xywh_px", "keypoints_2d_px")


@dataclass(frozen=True, kw_only=True)
class AnnotateStage:
    """How wide the annotation runs. No label depends on it, but for the last bits of its numbers, which change with
    the batch size and the number of threads, as with the machine."""

    actors: int = 1
    """Copies of the annotator that work at the same time."""
    batch_size: int = 64
    """Crops an annotator takes at once."""
    threads: int = 2
    """CPU threads of each annotator, where there is no GPU."""
    readers: int = 2
    """Tasks that decode and crop pictures at the same time."""

    def __post_init__(self) -> None:
        runs.require_positive(self, "actors", "batch_size", "threads", "readers")


def annotate(run: runs.Run, *, samples: str, annotator: str, stage: AnnotateStage) -> Counter[str]:
    """Label every sample into the run folder; returns rows by status.

    Raises ValueError where rows out differ from rows in: nothing may be lost or doubled.
    """
    samples, annotator = storage.absolute(samples), storage.absolute(annotator)
    source = open_source(samples)
    config = annotators.load_config(annotator)
    target, folder = storage.resolve(run.path(LABELS))
    storage.write_bytes(run.path(BODY), storage.read_bytes(storage.join(annotator, BODY)))
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    crops = crop_rows(source, input_size=config.input_size, batch_size=stage.batch_size, readers=stage.readers)
    # Unlike resources keep Ray from fusing the decoders into the annotator's own thread.
    labels = crops.map_batches(
        Annotate,
        fn_constructor_args=(annotator, stage),
        batch_size=stage.batch_size,
        batch_format="numpy",
        num_cpus=0.5,
        num_gpus=gpus,
        compute=ActorPoolStrategy(size=stage.actors),
    )
    metadata = (tables.PSEUDO_GT.metadata or {}) | lineage(run, annotator=annotator, samples=samples)
    labels.write_parquet(
        folder, filesystem=target, partition_cols=["status"], schema=tables.PSEUDO_GT.with_metadata(metadata)
    )
    counts = count_labels(run.path(LABELS))
    if counts.total() != source.rows:
        raise ValueError(f"{source.rows} samples went in but {counts.total()} rows came out: {run.folder}")
    return counts


def lineage(run: runs.Run, *, annotator: str, samples: str) -> dict[bytes, bytes]:
    """Where labels come from, written into every file of them."""
    record = storage.read_json(storage.join(annotator, runs.RUN_FILE))
    lines = {
        "run_id": run.run_id,
        "annotator_run_id": record["run_id"],
        "annotator_sha256": annotators.weights_sha256(annotator),
        "annotator": annotator,
        "samples": samples,
        "samples_fingerprint": runs.fingerprint(samples),
        "recipe": str(record["settings"]),
        "code_commit": runs.code_version()["commit"],
    }
    return {name.encode(): value.encode() for name, value in lines.items()}


def count_labels(folder: str) -> Counter[str]:
    """Rows by status, from the files' own footers."""
    system, _ = storage.resolve(folder)
    counts: Counter[str] = Counter()
    for path in storage.parquet_files(folder, what="labels"):
        status = next(part.removeprefix("status=") for part in path.split("/") if part.startswith("status="))
        counts[status] += pq.read_metadata(path, filesystem=system).num_rows
    return counts


def crop_rows(source: Source, *, input_size: tuple[int, int], batch_size: int, readers: int) -> Dataset:
    """Every sample of a dataset, once, cut for a network: crop, box, given keypoints, and a `status`."""
    system, _ = storage.resolve(source.path)
    files = sorted({file for file, _, _ in source.groups})
    rows = ray.data.read_parquet(files, filesystem=system, shuffle=None).select_columns(list(COLUMNS))
    return rows.map_batches(
        lambda table: _prepare(table, input_size=input_size, joint_set=source.joint_set),
        batch_size=batch_size,
        batch_format="pyarrow",
        num_cpus=1,
        compute=TaskPoolStrategy(size=readers),
    )


def _prepare(table: pa.Table, *, input_size: tuple[int, int], joint_set: JointSet) -> dict[str, np.ndarray]:
    """Decode and crop; a row that cannot be annotated gets its reason as `status` and a black crop."""
    cv2.setNumThreads(1)
    width, height = input_size
    rows, cutter = len(table), Cutter(table)
    keypoints = tables.numpy_column(table, "keypoints_2d_px", missing=0.0).reshape(rows, len(joint_set), 3)
    out: dict[str, Any] = {name: table.column(name).to_numpy(zero_copy_only=False) for name in IDENTITY}
    out |= {
        "status": np.full(rows, tables.OK, dtype=object),
        "crop": np.zeros((rows, height, width, 3), np.uint8),
        "box": np.ones((rows, 4)),
        "bbox": np.nan_to_num(tables.numpy_column(table, "bbox_xywh_px", missing=0.0)),
        "image_size": tables.numpy_column(table, "image_size", missing=0),
        "keypoints": BODY33.take_from(np.nan_to_num(keypoints), joint_set).astype(np.float32),
    }
    for i in range(rows):
        if reason := _unusable(keypoints[i], table, i):
            out["status"][i] = reason
            continue
        try:
            _, out["box"][i] = cutter.cut(i, out=out["crop"][i])
        except BadImage:
            out["status"][i] = "bad_image"
        except ValueError:
            out["status"][i] = "bad_box"
    return out


def _unusable(keypoints: np.ndarray, table: pa.Table, row: int) -> str | None:
    claimed = ~(keypoints[:, 2] <= 0)  # a NaN confidence claims a keypoint too
    if not np.isfinite(keypoints[claimed]).all():
        return "keypoints_not_finite"
    if not claimed.any():
        return "no_keypoints"
    known = table.column("image_size")[row].is_valid and table.column("crop_to_image")[row].is_valid
    return None if known else "bad_image"


class Annotate:
    """Ray Data actor: loads the annotator once, then labels batches."""

    def __init__(self, annotator: str, stage: AnnotateStage) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            torch.set_num_threads(stage.threads)
        self.annotator = annotators.load_annotator(annotator).to(self.device)
        self.batch_size = stage.batch_size

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        rows = len(batch["status"])
        # A batch always has the same size: kernels, and with them the last bits, would change with it.
        padding = self.batch_size - rows

        def padded(name: str) -> torch.Tensor:
            value = np.concatenate([batch[name], np.repeat(batch[name][-1:], padding, axis=0)])
            return torch.from_numpy(np.ascontiguousarray(value)).to(self.device)

        image = padded("crop").permute(0, 3, 1, 2).float() / 255
        answer = self.annotator(image)
        label = make_labels(
            self.annotator,
            answer,
            box_xywh_px=padded("box"),
            bbox_xywh_px=padded("bbox"),
            keypoints_2d_px=padded("keypoints"),
        )
        return tables.rows_to_table([_record(batch, label, i) for i in range(rows)], tables.PSEUDO_GT)


def _record(batch: dict[str, np.ndarray], label: dict[str, np.ndarray], row: int) -> dict[str, Any]:
    """One pseudo_gt row: a label, or the reason why there is none."""
    # A column of text without any text comes back from Ray Data as NaN, the only value that is not itself.
    record: dict[str, Any] = {name: value for name in IDENTITY if (value := batch[name][row]) == value}
    status = batch["status"][row]
    if status == tables.OK:
        status = failure(label, row) or tables.OK
    if status == tables.OK:
        record |= {name: values[row] for name, values in label.items() if values[row].size}
        record["flags"] = flags(label, row, image_size=batch["image_size"][row])
    return record | {"status": str(status)}
