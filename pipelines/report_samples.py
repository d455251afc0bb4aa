"""The report of samples: what a dataset holds, with its truth drawn on its pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mesh_lib import tables
from mesh_lib.body.joints import JointSet
from mesh_lib.body.tree import parents
from mesh_lib.datasets.images import BadImage, decode, encode_jpeg
from pipelines import runs, storage
from pipelines.report import CELLS, fit, inline, number, render
from pipelines.sources import open_source, read_group

KEYPOINT, BONE, PROJECTED, BOX = (255, 210, 0), (250, 240, 190), (0, 190, 255), (80, 220, 120)
DRAWN = [
    "sample_id", "image", "image_uri", "crop_to_image", "bbox_xywh_px", "keypoints_2d_px", "keypoints_3d_m", "camera",
]  # fmt: skip
COUNTED = [
    "image_size", "keypoints_2d_px", "keypoints_3d_m", "smpl_valid", "mano_valid", "camera", "supervision", "split",
]  # fmt: skip


@dataclass(frozen=True)
class SamplesPage:
    """What a report found, and its HTML."""

    html: str
    rows: int
    projection_px: np.ndarray
    """(N,) distance between each 2D keypoint and the projection of the same joint's 3D truth, where both are known."""


def report_samples(samples: str, *, title: str, seed: int = 0) -> SamplesPage:
    """Counts over all rows, row group by row group, and a sheet of some. Raises ValueError for what is no samples."""
    source = open_source(samples)
    joint_set = source.joint_set
    counts: Counter[str] = Counter()
    by_joint: dict[str, int] = dict.fromkeys(joint_set.names, 0)
    apart: list[np.ndarray] = []
    for file, group, _ in source.groups:
        table = read_group(source.path, file, group, COUNTED)
        keypoints = _array(table, "keypoints_2d_px", joint_set, 3)
        known = keypoints[..., 2] > 0
        for name, count in zip(joint_set.names, known.sum(axis=0), strict=True):
            by_joint[name] += int(count)
        truth = _array(table, "keypoints_3d_m", joint_set, 4)
        counts["with 3D joints"] += int((truth[..., 3] > 0).any(axis=1).sum())
        counts["with SMPL parameters"] += sum(bool(v) for v in table.column("smpl_valid").to_pylist())
        if "mano_valid" in table.column_names:  # samples of before there were hands
            counts["with MANO parameters"] += sum(any(v or ()) for v in table.column("mano_valid").to_pylist())
        counts["without a readable picture"] += table.column("image_size").null_count
        for value in table.column("supervision").to_pylist():
            counts[f"supervision {value}"] += 1
        for camera, points, seen in zip(table.column("camera").to_pylist(), truth, keypoints, strict=True):
            if camera and (points[:, 3] > 0).any():
                counts["with a camera"] += 1
                both = (points[:, 3] > 0) & (seen[:, 2] > 0)
                apart.append(np.linalg.norm(project(points, camera)[both] - seen[both, :2], axis=1).astype(np.float32))
    rows = source.rows
    some = np.sort(np.random.default_rng(seed).permutation(rows)[:CELLS])
    cells = _cells(source.path, source.groups, joint_set, some)
    distances = np.concatenate([np.empty(0, np.float32), *apart])
    quantile = {q: float(np.percentile(distances, q)) if len(distances) else None for q in (50, 95)}
    numbers = [
        ("people", f"{rows:,}"),
        ("joints in the set", f"{len(joint_set)}"),
        ("3D truth on 2D truth, median", f"{number(quantile[50], '.2f')} px"),
        ("the same, 95 % below", f"{number(quantile[95], '.2f')} px"),
    ]
    record = runs.run_of(source.path) or {}
    html = render(
        "samples.html.j2", title=title, subtitle=f"samples {samples}", numbers=numbers,
        counts=[(what, f"{count:,}") for what, count in sorted(counts.items()) if count],
        skipped=sorted(((record.get("result") or {}).get("skipped") or {}).items()),
        joints=[(name, f"{count:,}", f"{count / rows:.1%}") for name, count in by_joint.items()],
        sheet={
            "title": f"{len(cells)} people drawn at random",
            "note": "Yellow: 2D keypoints (left side filled, right side open). Blue: 3D truth, projected with the "
            "dataset's own camera. Green: the person's box.",
            "cells": cells,
        },
    )  # fmt: skip
    return SamplesPage(html, rows, distances)


def project(points: np.ndarray, camera: dict[str, Any]) -> np.ndarray:
    """(J, 4) joints of the camera's frame → (J, 2) pixels; joints at no depth are nowhere."""
    depth = np.where(points[:, 2:3] > 0, points[:, 2:3], np.nan)
    return points[:, :2] / depth * np.array(camera["focal_px"]) + np.array(camera["princpt_px"])


def _array(table: Any, name: str, joint_set: JointSet, channels: int) -> np.ndarray:
    values = tables.numpy_column(table, name, missing=0.0).reshape(len(table), len(joint_set), channels)
    return np.nan_to_num(values.astype(np.float64))


def _cells(
    path: str, groups: tuple[tuple[str, int, int], ...], joint_set: JointSet, wanted: np.ndarray
) -> list[dict[str, str]]:
    cells, first = [], 0
    for file, group, rows in groups:
        mine = wanted[(wanted >= first) & (wanted < first + rows)] - first
        if len(mine):
            cells += [_cell(row, joint_set) for row in read_group(path, file, group, DRAWN).take(mine).to_pylist()]
        first += rows
    return cells


def _cell(sample: dict[str, Any], joint_set: JointSet) -> dict[str, str]:
    name = sample["sample_id"]
    try:
        picture = decode(sample["image"] if sample["image"] is not None else storage.read_image(sample["image_uri"]))
    except BadImage as error:
        return {"name": name, "image": "", "text": str(error), "flags": "no picture"}
    drawn, scale, shift = fit(picture, np.array(sample["crop_to_image"]).reshape(2, 3))

    def at(points: np.ndarray) -> np.ndarray:
        return np.round((points - shift) / scale)

    x, y, w, h = sample["bbox_xywh_px"]
    low, high = at(np.array([x, y])), at(np.array([x + w, y + h]))
    _line(drawn, low, high)
    keypoints = np.nan_to_num(np.array(sample["keypoints_2d_px"], np.float64).reshape(-1, 3))
    apart = np.empty(0)
    if sample["keypoints_3d_m"] and sample["camera"]:
        truth = np.nan_to_num(np.array(sample["keypoints_3d_m"], np.float64).reshape(-1, 4))
        seen = project(truth, sample["camera"])
        for point in at(seen[(truth[:, 3] > 0) & np.isfinite(seen).all(axis=1)]):
            cv2.drawMarker(drawn, _place(point), PROJECTED, cv2.MARKER_CROSS, 15, 2, cv2.LINE_AA)
        both = (truth[:, 3] > 0) & (keypoints[:, 2] > 0)
        apart = np.linalg.norm(seen[both] - keypoints[both, :2], axis=1)
    for point, parent in zip(keypoints, parents(joint_set), strict=True):
        if point[2] > 0 and parent >= 0 and keypoints[parent, 2] > 0:
            ends = _place(at(keypoints[parent, :2])), _place(at(point[:2]))
            cv2.line(drawn, *ends, BONE, 1, cv2.LINE_AA)
    for joint, point in zip(joint_set.names, keypoints, strict=True):
        if point[2] > 0:
            filled = -1 if joint.startswith("left_") else 1
            cv2.circle(drawn, _place(at(point[:2])), 3, (30, 30, 30), 3, cv2.LINE_AA)
            cv2.circle(drawn, _place(at(point[:2])), 3, KEYPOINT, filled, cv2.LINE_AA)
    text = f"{int((keypoints[:, 2] > 0).sum())} keypoints"
    if len(apart):
        text += f"; 3D on 2D: {number(float(np.nanmedian(apart)), '.2f')} px (median)"
    return {"name": name, "image": inline(encode_jpeg(drawn, quality=85), "jpeg"), "text": text, "flags": ""}


def _place(point: np.ndarray) -> tuple[int, int]:
    x, y = np.clip(np.nan_to_num(point), -10_000, 10_000)
    return int(x), int(y)


def _line(drawn: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    cv2.rectangle(drawn, _place(low), _place(high), BOX, 1, cv2.LINE_AA)
