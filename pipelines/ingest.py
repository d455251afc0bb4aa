"""Ingest: people of a dataset to sample shards, each with a crop of its picture, in parallel tasks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import ray
from ray.data import TaskPoolStrategy

from mesh_lib import tables
from mesh_lib.body.joints import COCO17
from mesh_lib.datasets import coco
from mesh_lib.datasets.images import BadImage, decode, encode_jpeg
from mesh_lib.geometry import crop
from pipelines import runs, storage

log = logging.getLogger(__name__)

SHARD_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class IngestStage:
    """What an ingested sample looks like."""

    min_keypoints: int = 6
    """People with fewer labelled keypoints are left out, and counted."""
    store: str = "crop"
    """crop: the person with a wide margin; whole: the whole picture; uri: only where the picture is."""
    margin: float = 2.0
    """Edge of the stored crop, in edges of the person's square box: room for scale and rotation augmentation."""
    max_side_px: int = 640
    """Larger crops are reduced to this side."""
    readers: int = 2
    """Tasks that work at the same time."""

    def __post_init__(self) -> None:
        if self.store not in ("crop", "whole", "uri"):
            raise ValueError(f"store is crop, whole or uri; it is {self.store!r}")
        if self.min_keypoints < 1 or self.margin < 1 or self.max_side_px < 32:
            raise ValueError("min_keypoints and margin are at least 1, max_side_px at least 32")


def ingest_coco(
    run: runs.Run, *, annotations: str, images: str, dataset: str, split: str, stage: IngestStage
) -> dict[str, Any]:
    """COCO person keypoints to samples in the run folder; returns what was kept and what was not, by reason.

    Raises ValueError for a file that is not COCO, for duplicated ids, and where no picture can be found.
    """
    skipped: Counter[str] = Counter()
    images = storage.absolute(images)
    people = list(coco.people(read_coco(annotations), min_keypoints=stage.min_keypoints, skipped=skipped))
    if not people:
        raise ValueError(f"no person to keep in {annotations}: {dict(skipped) or 'it has no annotations'}")
    tables.check_keys([sample_id(dataset, split, person) for person in people])
    if not any(storage.exists(storage.join(images, person.file_name)) for person in people[:1000]):
        raise ValueError(
            f"none of the pictures is under {images}: looked for {people[0].file_name} and others\n"
            "  fix: pass the folder that holds the files that `file_name` in the annotations names"
        )
    shards = list(range(0, len(people), SHARD_ROWS))
    writer = _CocoShard(run.folder, ray.put(people), images=images, dataset=dataset, split=split, stage=stage)
    done = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
        writer,
        batch_size=1,
        batch_format="numpy",
        compute=TaskPoolStrategy(size=min(stage.readers, len(shards))),
    )
    written = list(done.take_all())
    rows, unreadable = sum(int(w["rows"]) for w in written), sum(int(w["unreadable"]) for w in written)
    if rows != len(people):
        raise ValueError(f"{len(people)} people went in but {rows} rows came out: {run.folder}")
    return {"rows": rows, "unreadable_pictures": unreadable, "skipped": dict(skipped)}


def read_coco(path: str) -> coco.CocoFile:
    """Raises ValueError where the file is absent or is not COCO."""
    if not storage.exists(path):
        raise ValueError(
            f"no annotation file at {path}\n"
            "  fix: pass the dataset's person_keypoints_*.json (https://cocodataset.org, 2017 Train/Val annotations)"
        )
    return coco.parse(storage.read_bytes(path), where=path)


def sample_id(dataset: str, split: str, person: coco.CocoPerson) -> str:
    return f"{dataset}/{split}/{person.image_id}/{person.annotation_id}"


class _CocoShard:
    """Ray Data function: one planned shard in; its file written, its counts out."""

    def __init__(
        self, folder: str, people: ray.ObjectRef, *, images: str, dataset: str, split: str, stage: IngestStage
    ) -> None:
        self.folder, self.people, self.images = folder, people, images
        self.dataset, self.split, self.stage = dataset, split, stage

    def __call__(self, batch: Any) -> dict[str, np.ndarray]:
        cv2.setNumThreads(1)
        first = int(batch["item"][0])
        rows = [self._row(person) for person in ray.get(self.people)[first : first + SHARD_ROWS]]
        unreadable = sum(row.get("image_size") is None for row in rows)
        path = storage.join(self.folder, f"part-{first // SHARD_ROWS:05d}.parquet")
        storage.write_parquet(tables.samples_table(rows, COCO17), path)
        return {"rows": np.array([len(rows)]), "unreadable": np.array([unreadable])}

    def _row(self, person: coco.CocoPerson) -> dict[str, Any]:
        uri = storage.join(self.images, person.file_name)
        box: Any = person.bbox_xywh_px
        if box is None or box[2] * box[3] <= 0:
            finite = np.isfinite(person.keypoints_2d_px).all(axis=1, keepdims=True)
            visible = np.where(finite, person.keypoints_2d_px, 0.0)
            box = crop.box_of_keypoints(visible) if visible[:, 2].any() else np.zeros(4)
        row: dict[str, Any] = {
            "sample_id": sample_id(self.dataset, self.split, person),
            "dataset": self.dataset,
            "split": self.split,
            "image_id": person.image_id,
            "person_id": person.annotation_id,
            "image_uri": uri,
            "bbox_xywh_px": box,
            "keypoints_2d_px": person.keypoints_2d_px,
            "smpl_valid": False,
            "supervision": "itw_2d",
        }
        data = storage.read_image(uri)
        try:
            picture = decode(data)
        except BadImage:
            return row  # annotate quarantines it as bad_image: a row is never lost on the way
        row["image_size"] = np.array([picture.shape[1], picture.shape[0]], np.int32)
        row["image"], row["crop_to_image"] = store(picture, data, box, self.stage)
        return row


def store(
    picture: np.ndarray, data: bytes | None, box: Sequence[float] | np.ndarray, stage: IngestStage
) -> tuple[bytes | None, np.ndarray]:
    """Bytes to keep of a picture, and the 2×3 affine from their pixels to the whole picture's."""
    whole = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    height, width = picture.shape[:2]
    x, y, w, h = (float(v) for v in box)
    if stage.store == "uri":
        return None, whole
    side = max(w, h) * stage.margin
    left, top = max(0, int(x + w / 2 - side / 2)), max(0, int(y + h / 2 - side / 2))
    right, bottom = min(width, int(x + w / 2 + side / 2) + 1), min(height, int(y + h / 2 + side / 2) + 1)
    if stage.store == "whole" or right - left < 2 or bottom - top < 2:
        return data, whole
    part = picture[top:bottom, left:right]
    scale = max(1.0, max(part.shape[:2]) / stage.max_side_px)
    size = (max(1, round(part.shape[1] / scale)), max(1, round(part.shape[0] / scale)))
    scale_x, scale_y = part.shape[1] / size[0], part.shape[0] / size[1]
    reduced = cv2.resize(part, size, interpolation=cv2.INTER_AREA) if scale > 1 else np.ascontiguousarray(part)
    # cv2.resize aligns pixel edges, our pixel (0, 0) is a centre: half a pixel goes each way.
    affine = np.array([[scale_x, 0, left + (scale_x - 1) / 2], [0, scale_y, top + (scale_y - 1) / 2]])
    return encode_jpeg(reduced), affine
