"""COCO person keypoints: `person_keypoints_*.json` beside a folder of pictures, as the owners ship them.

Licence: annotations CC BY 4.0; every picture has a licence of its own, named in the JSON. Coordinates are pixels
of the whole picture, y down, integers at pixel centres: our frame already. v is 0 not labelled, 1 labelled but
hidden, 2 visible.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mesh_lib.body.joints import COCO17, JointSet

EXAMPLE = '{"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "keypoints": [x, y, v] * 17, "bbox"}]}'


@dataclass(frozen=True)
class CocoPerson:
    """One person record, in the picture's pixels."""

    annotation_id: str
    image_id: str
    file_name: str
    keypoints_2d_px: np.ndarray
    """(17, 3): x, y, confidence (1 labelled, 0 not)."""
    bbox_xywh_px: np.ndarray | None
    """The record's box; None where it has none of four finite numbers."""


@dataclass(frozen=True)
class CocoFile:
    """A parsed annotation file."""

    images: dict[Any, dict[str, Any]]
    annotations: list[dict[str, Any]]
    joint_set: JointSet = COCO17


def parse(text: str | bytes, *, where: str) -> CocoFile:
    """The file's images and person records. Raises ValueError that says what is not COCO about it."""
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    wanted = f"\n  expected: COCO person keypoints, {EXAMPLE}"
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(f"{where} is not a COCO file: it has no list `images`{wanted}")
    if not isinstance(content.get("annotations"), list):
        raise ValueError(f"{where} is not a COCO file: it has no list `annotations`{wanted}")
    for name in ("id", "file_name"):
        if any(not isinstance(image, dict) or name not in image for image in content["images"]):
            raise ValueError(f"{where}: an entry of `images` has no `{name}`{wanted}")
    for i, record in enumerate(content["annotations"]):
        missing = [k for k in ("id", "image_id") if not isinstance(record, dict) or k not in record]
        if missing:
            raise ValueError(f"{where}: annotation {i} has no {' and no '.join(missing)}{wanted}")
    if content["annotations"] and not any("keypoints" in record for record in content["annotations"]):
        raise ValueError(f"{where} has annotations but no keypoints: is it an instances_*.json?{wanted}")
    images = {image["id"]: image for image in content["images"]}
    for image in images.values():
        path = PurePosixPath(str(image["file_name"]))
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{where}: file_name {image['file_name']!r} leaves the image folder; refused")
    return CocoFile(images, content["annotations"])


def people(file: CocoFile, *, min_keypoints: int, skipped: Counter[str]) -> Iterator[CocoPerson]:
    """Every person with at least `min_keypoints` labelled keypoints; the others are counted in `skipped` by reason.

    A record whose keypoints are not finite is passed on: it stays a row, and annotate quarantines it.
    """
    for record in file.annotations:
        if record.get("iscrowd"):
            skipped["crowd"] += 1
            continue
        image = file.images.get(record["image_id"])
        if image is None:
            skipped["image_not_listed"] += 1
            continue
        try:
            keypoints = np.asarray(record.get("keypoints"), dtype=np.float64).reshape(len(file.joint_set), 3)
        except (TypeError, ValueError):
            skipped["malformed_keypoints"] += 1
            continue
        confidence = (keypoints[:, 2] > 0) | np.isnan(keypoints[:, 2])
        if not confidence.any():
            skipped["no_keypoints"] += 1
            continue
        if confidence.sum() < min_keypoints:
            skipped["too_few_keypoints"] += 1
            continue
        keypoints[:, 2] = confidence
        box = record.get("bbox")
        yield CocoPerson(
            annotation_id=str(record["id"]),
            image_id=str(record["image_id"]),
            file_name=str(image["file_name"]),
            keypoints_2d_px=keypoints,
            bbox_xywh_px=np.asarray(box, np.float64) if _is_box(box) else None,
        )


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) and math.isfinite(v) for v in box)
    )
