"""The report: one self-contained HTML page about a set of labels, with overlays on the original pictures."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mesh_lib import tables
from mesh_lib.body.files import Body
from mesh_lib.body.layer import BodyLayer
from mesh_lib.datasets.images import BadImage, decode, encode_jpeg
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.render.overlay import overlay, side_view
from pipelines import storage
from pipelines.annotate import LABELS, count_labels
from pipelines.bodies import load_body_of
from pipelines.sources import Source, open_source, read_group

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CELLS = 24
CELL_HEIGHT_PX = 300
LISTED = 50
HISTOGRAMS = (
    ("reprojection_error_px", "reprojection error (px of the picture)"),
    ("reprojection_error_box", "reprojection error / box side"),
    ("pose_prior_norm", "‖z‖ (5.7 ± 0.7 for a standard normal)"),
    ("shape_norm", "‖betas‖"),
)
TEXT_COLUMNS = ["sample_id", "sample_key", "flags", *(name for name, _ in HISTOGRAMS)]


@dataclass(frozen=True)
class Page:
    """What a report found, and its HTML."""

    html: str
    rows: int
    labelled: int
    median_reprojection_px: float | None
    flagged: int


def make_report(*, labels: str, samples: str, title: str, seed: int = 0) -> Page:
    """Raises ValueError where the labels or samples are absent, or are not of one another."""
    folder = storage.join(labels, LABELS)
    counts = count_labels(folder)
    source = open_source(samples)
    made = (
        storage.read_parquet(storage.join(folder, "status=ok"), columns=TEXT_COLUMNS, what="labels")
        if counts[tables.OK]
        else tables.rows_to_table([], tables.PSEUDO_GT).select(TEXT_COLUMNS)
    )
    body = load_body_of(labels)
    error = made.column("reprojection_error_px").to_numpy()
    order = np.argsort(-np.nan_to_num(error, nan=-1.0), kind="stable")
    some = np.sort(np.random.default_rng(seed).permutation(len(made))[:CELLS])
    worst = order[:CELLS]
    keys = made.column("sample_key").to_numpy()
    cells = _cells(folder, source, body, wanted={int(k) for k in keys[np.union1d(some, worst)]})
    if len(made) and not cells:
        raise ValueError(f"none of the labels in {labels} is of a sample in {samples}: are they another dataset's?")
    flag_counts = Counter(flag for flags in made.column("flags").to_pylist() for flag in flags)
    median = float(np.nanmedian(error)) if len(made) else None
    numbers = [
        ("samples", f"{counts.total():,}"),
        ("labelled", f"{counts[tables.OK]:,}"),
        ("quarantined", f"{counts.total() - counts[tables.OK]:,}"),
        ("median reprojection error", f"{_number(median)} px"),
        ("flagged high_reprojection", f"{flag_counts['high_reprojection']:,}"),
    ]
    sheets = [
        {
            "title": f"{len(some)} labels drawn at random",
            "note": "The picture with its 2D keypoints, the mesh over it, and the mesh from its side.",
            "cells": [cells[int(key)] for key in keys[some] if int(key) in cells],
        },
        {
            "title": f"The worst {len(worst)} by reprojection error",
            "note": "Largest error first; a red frame marks flags.",
            "cells": [cells[int(key)] for key in keys[worst] if int(key) in cells],
        },
    ]
    page = jinja2.Environment(autoescape=True).from_string(_template()).render(
        title=title,
        subtitle=f"labels {labels} · samples {samples}",
        numbers=numbers,
        statuses=[(s, f"{n:,}", tables.QUARANTINE.get(s, "labelled")) for s, n in sorted(counts.items())],
        flags=flag_counts.most_common(),
        histograms=_histograms(made),
        sheets=sheets,
        quarantined=_quarantined(folder, counts),
        lineage=_lineage(folder),
    )  # fmt: skip
    return Page(page, counts.total(), counts[tables.OK], median, flag_counts["high_reprojection"])


def _template() -> str:
    return (Path(__file__).parent / "report.html.j2").read_text()


def _cells(folder: str, source: Source, body: Body, *, wanted: set[int]) -> dict[int, dict[str, str]]:
    """The drawn cells by sample key; reads only the row groups that hold a wanted sample."""
    if not wanted:
        return {}
    labels = {record["sample_key"]: record for record in _rows_with(open_labels(folder), wanted, columns=None)}
    columns = ["sample_key", "image", "image_uri", "crop_to_image", "keypoints_2d_px"]
    layer = BodyLayer(body)
    groups = ((source.path, file, group) for file, group, _ in source.groups)
    cells = {}
    for record in _rows_with(groups, wanted, columns=columns):
        if record["sample_key"] in labels:
            cells[record["sample_key"]] = _cell(record, labels[record["sample_key"]], layer, body)
    return cells


def open_labels(folder: str) -> list[tuple[str, str, int]]:
    """(folder, file, row group) of all labels with status ok."""
    system, _ = storage.resolve(folder)
    return [
        (folder, file, group)
        for file in storage.parquet_files(storage.join(folder, "status=ok"), what="labels")
        for group in range(pq.read_metadata(file, filesystem=system).num_row_groups)
    ]


def _rows_with(
    groups: Iterable[tuple[str, str, int]], wanted: set[int], *, columns: Sequence[str] | None
) -> Iterable[dict[str, Any]]:
    for path, file, group in groups:
        keys = read_group(path, file, group, ["sample_key"]).column("sample_key").to_numpy()
        rows = np.flatnonzero(np.isin(keys, list(wanted)))
        if len(rows):
            yield from read_group(path, file, group, columns).take(rows).to_pylist()


@torch.no_grad()
def _cell(sample: dict[str, Any], label: dict[str, Any], layer: BodyLayer, body: Body) -> dict[str, str]:
    """Picture with keypoints, overlay and side view in one strip, and what to say below it."""
    try:
        picture = decode(sample["image"] if sample["image"] is not None else storage.read_image(sample["image_uri"]))
    except BadImage as error:
        return {"name": label["sample_id"], "image": "", "text": str(error), "flags": "picture gone"}
    stored = np.array(sample["crop_to_image"]).reshape(2, 3)
    zoom = CELL_HEIGHT_PX / picture.shape[0]
    picture = cv2.resize(
        picture, (max(1, round(picture.shape[1] * zoom)), CELL_HEIGHT_PX), interpolation=cv2.INTER_AREA
    )
    scale, shift = np.array([stored[0, 0], stored[1, 1]]) / zoom, stored[:, 2]
    focal_px = np.array(label["focal_px"]) / scale
    princpt_px = (np.array(label["princpt_px"]) - shift) / scale
    pose = torch.tensor([*label["global_orient"], *label["body_pose"]]).view(24, 3)
    posed = layer(rotmats=rotvec_to_rotmat(pose), betas=torch.tensor(label["betas"]))
    vertices_m = (posed.vertices_m + torch.tensor(label["transl_m"])).numpy()
    drawn = picture.copy()
    for x, y, confidence in np.array(sample["keypoints_2d_px"]).reshape(-1, 3):
        if confidence > 0 and np.isfinite([x, y]).all():
            at = (np.array([x, y]) - shift) / scale
            cv2.circle(drawn, (int(at[0]), int(at[1])), 4, (255, 210, 0), -1, cv2.LINE_AA)
            cv2.circle(drawn, (int(at[0]), int(at[1])), 4, (30, 30, 30), 1, cv2.LINE_AA)
    front = overlay(picture, vertices_m, body.faces, focal_px=focal_px, princpt_px=princpt_px)
    side = side_view(vertices_m, body.faces, focal_px=focal_px, princpt_px=princpt_px, size_wh=picture.shape[1::-1])
    return {
        "name": label["sample_id"],
        "image": _inline(encode_jpeg(np.concatenate([drawn, front, side], axis=1), quality=82), "jpeg"),
        "text": f"{label['reprojection_error_px']:.1f} px, {label['reprojection_error_box']:.1%} of the box; "
        f"‖z‖ {_number(label['pose_prior_norm'])}, ‖betas‖ {_number(label['shape_norm'])}",
        "flags": ", ".join(label["flags"]),
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _histograms(made: pa.Table) -> str:
    figure, axes = plt.subplots(1, len(HISTOGRAMS), figsize=(15, 3.2), layout="constrained")
    for axis, (name, what) in zip(axes, HISTOGRAMS, strict=True):
        values = made.column(name).to_numpy()
        values = values[np.isfinite(values)]
        if len(values):
            axis.hist(np.clip(values, None, np.percentile(values, 99)), bins=40, color="#2b6cb0")
            axis.axvline(float(np.median(values)), color="#c0392b", linewidth=1.5)
            axis.set_title(f"median {np.median(values):.3g}", fontsize=10)
        axis.set_xlabel(what, fontsize=9)
    axes[0].set_ylabel("labels")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=80)
    plt.close(figure)
    return _inline(out.getvalue(), "png")


def _quarantined(folder: str, counts: Counter[str]) -> list[tuple[str, str]]:
    rows = []
    for status in sorted(counts):
        if status != tables.OK and len(rows) < LISTED:
            table = storage.read_parquet(storage.join(folder, f"status={status}"), columns=["sample_id"], what="labels")
            rows += [(sample_id, status) for sample_id in table.column("sample_id").to_pylist()]
    return rows[:LISTED]


def _lineage(folder: str) -> list[tuple[str, str]]:
    metadata = storage.parquet_schema(folder, what="labels").metadata or {}
    names = ("run_id", "annotator", "annotator_sha256", "code_commit", "samples", "recipe")
    return [(name, metadata.get(name.encode(), b"unknown").decode()) for name in names]


def _inline(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
