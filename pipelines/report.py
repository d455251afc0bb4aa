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
from pipelines.bodies import load_body_of
from pipelines.compare import Comparison, compare_labels
from pipelines.label_files import LABELS, count_labels
from pipelines.sources import Source, open_source, read_group

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CELLS = 24
CELL_HEIGHT_PX = 300
LISTED = 50
PAIRS = 12
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
    comparison: Comparison | None


def make_report(*, labels: str, samples: str, title: str, against: str | None = None, seed: int = 0) -> Page:
    """With `against`, older labels of the same samples, the page says what has changed since.

    Raises ValueError where the labels or samples are absent, or are not of one another.
    """
    comparison = compare_labels(labels=labels, against=against) if against else None
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
    cells = _cells([(folder, body)], source, wanted={int(k) for k in keys[np.union1d(some, worst)]})
    if len(made) and not cells:
        raise ValueError(f"none of the labels in {labels} is of a sample in {samples}: are they another dataset's?")
    flag_counts = Counter(flag for flags in made.column("flags").to_pylist() for flag in flags)
    median = float(np.nanmedian(error)) if np.isfinite(error).any() else None
    numbers = [
        ("samples", f"{counts.total():,}"),
        ("labelled", f"{counts[tables.OK]:,}"),
        ("quarantined", f"{counts.total() - counts[tables.OK]:,}"),
        ("median reprojection error", f"{number(median)} px"),
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
    page = render(
        "report.html.j2",
        title=title,
        subtitle=f"labels {labels} · samples {samples}",
        numbers=numbers,
        statuses=[(s, f"{n:,}", tables.QUARANTINE.get(s, "labelled")) for s, n in sorted(counts.items())],
        flags=flag_counts.most_common(),
        histograms=_histograms(made),
        sheets=sheets,
        changes=_changes(comparison, labels, against, source) if comparison and against else None,
        quarantined=_quarantined(folder, counts),
        lineage=_lineage(folder),
    )  # fmt: skip
    return Page(page, counts.total(), counts[tables.OK], median, flag_counts["high_reprojection"], comparison)


def render(template: str, **values: Any) -> str:
    """A page from one of the templates beside this file."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(autoescape=True, loader=loader).get_template(template).render(**values)


def _changes(comparison: Comparison, labels: str, against: str, source: Source) -> dict[str, Any]:
    """What the page says of the older labels."""
    both = len(comparison.pairs)

    def line(what: str, column: str, unit: str) -> tuple[str, str, str]:
        median, most = (f"{number(comparison.percentile(column, q))} {unit}" for q in (50, 95))
        return what, median, most

    return {
        "against": against,
        "other_pictures": comparison.other_pictures,
        "rows": [
            ("in both", f"{comparison.both:,}"),
            ("in these labels only", f"{comparison.only_new:,}"),
            ("in the older only", f"{comparison.only_old:,}"),
            ("labelled in both", f"{both:,}"),
        ],
        "statuses": [(old, new, f"{count:,}") for (old, new), count in sorted(comparison.statuses.items())],
        "distances": [
            line("joints, once rotated, scaled and shifted onto the older", "pa_mm", "mm"),
            line("joints, pelvis on pelvis", "root_mm", "mm"),
            line("reprojection error, older", "error_px_old", "px"),
            line("reprojection error, these", "error_px", "px"),
            line("its change, sample by sample", "change_px", "px"),
        ],
        "flags": [(flag, f"{old / both:.1%}", f"{new / both:.1%}") for flag, old, new in comparison.flags],
        "sheet": _pair_sheet(comparison, labels, against, source),
        "lineage": comparison.lineage,
    }


def _pair_sheet(comparison: Comparison, labels: str, against: str, source: Source) -> dict[str, Any]:
    keys = comparison.most_different(PAIRS)
    sets = [(storage.join(folder, LABELS), load_body_of(folder)) for folder in (labels, against)]
    cells = _cells(sets, source, wanted=set(keys))
    wanted = np.isin(comparison.pairs["sample_key"].to_numpy(), keys)
    for row in comparison.pairs.filter(pa.array(wanted)).to_pylist():
        if cell := cells.get(row["sample_key"]):
            cell["text"] = (
                f"{row['root_mm']:.1f} mm apart, {row['pa_mm']:.1f} mm once aligned; "
                f"{number(row['error_px'])} px, was {number(row['error_px_old'])} px"
            )
    return {
        "title": f"The {len(keys)} labels that differ most",
        "note": "Furthest apart first, pelvis on pelvis. The picture with its 2D keypoints; this mesh over it, then "
        "the older; both from their side, in the same order.",
        "cells": [cells[key] for key in keys if key in cells],
    }


def _cells(sets: Sequence[tuple[str, Body]], source: Source, *, wanted: set[int]) -> dict[int, dict[str, str]]:
    """The drawn cells by sample key, of samples that every set (its folder, its body) labels.

    Reads only the row groups that hold a wanted sample.
    """
    if not wanted:
        return {}
    labels = [{row["sample_key"]: row for row in _rows_with(open_labels(folder), wanted)} for folder, _ in sets]
    columns = ["sample_key", "image", "image_uri", "crop_to_image", "keypoints_2d_px"]
    bodies = [(BodyLayer(body), body) for _, body in sets]
    groups = ((source.path, file, group) for file, group, _ in source.groups)
    cells = {}
    for record in _rows_with(groups, wanted, columns=columns):
        key = record["sample_key"]
        if all(key in of_set for of_set in labels):
            cells[key] = _cell(record, [of_set[key] for of_set in labels], bodies)
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
    groups: Iterable[tuple[str, str, int]], wanted: set[int], *, columns: Sequence[str] | None = None
) -> Iterable[dict[str, Any]]:
    for path, file, group in groups:
        keys = read_group(path, file, group, ["sample_key"]).column("sample_key").to_numpy()
        rows = np.flatnonzero(np.isin(keys, list(wanted)))
        if len(rows):
            yield from read_group(path, file, group, columns).take(rows).to_pylist()


def _cell(
    sample: dict[str, Any], labels: Sequence[dict[str, Any]], bodies: Sequence[tuple[BodyLayer, Body]]
) -> dict[str, str]:
    """Picture with keypoints, overlays of the labels, then their side views in one strip; what to say of the first."""
    label = labels[0]
    try:
        picture = decode(sample["image"] if sample["image"] is not None else storage.read_image(sample["image_uri"]))
    except BadImage as error:
        return {"name": label["sample_id"], "image": "", "text": str(error), "flags": "picture gone"}
    picture, scale, shift = fit(picture, np.array(sample["crop_to_image"]).reshape(2, 3))
    drawn = picture.copy()
    for x, y, confidence in np.array(sample["keypoints_2d_px"]).reshape(-1, 3):
        if confidence > 0 and np.isfinite([x, y]).all():
            at = (np.array([x, y]) - shift) / scale
            cv2.circle(drawn, (int(at[0]), int(at[1])), 4, (255, 210, 0), -1, cv2.LINE_AA)
            cv2.circle(drawn, (int(at[0]), int(at[1])), 4, (30, 30, 30), 1, cv2.LINE_AA)
    views = [_views(picture, scale, shift, *each) for each in zip(labels, bodies, strict=True)]
    strip = [drawn, *(front for front, _ in views), *(side for _, side in views)]
    return {
        "name": label["sample_id"],
        "image": inline(encode_jpeg(np.concatenate(strip, axis=1), quality=82), "jpeg"),
        "text": f"{number(label['reprojection_error_px'])} px, "
        f"{number(label['reprojection_error_box'], '.1%')} of the box; "
        f"‖z‖ {number(label['pose_prior_norm'])}, ‖betas‖ {number(label['shape_norm'])}",
        "flags": ", ".join(label["flags"]),
    }


def fit(picture: np.ndarray, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A stored picture in a cell's height; its pixels times scale plus shift are the whole picture's."""
    zoom = CELL_HEIGHT_PX / picture.shape[0]
    size = (max(1, round(picture.shape[1] * zoom)), CELL_HEIGHT_PX)
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return picture, np.array([stored[0, 0], stored[1, 1]]) / zoom, stored[:, 2]


@torch.no_grad()
def _views(
    picture: np.ndarray, scale: np.ndarray, shift: np.ndarray, label: dict[str, Any], body: tuple[BodyLayer, Body]
) -> tuple[np.ndarray, np.ndarray]:
    """The mesh over the picture, whose pixels times `scale` plus `shift` are the whole picture's; and from its side."""
    layer, faces = body[0], body[1].faces
    focal_px = np.array(label["focal_px"]) / scale
    princpt_px = (np.array(label["princpt_px"]) - shift) / scale
    pose = torch.tensor([*label["global_orient"], *label["body_pose"]]).view(24, 3)
    posed = layer(rotmats=rotvec_to_rotmat(pose), betas=torch.tensor(label["betas"]))
    vertices_m = (posed.vertices_m + torch.tensor(label["transl_m"])).numpy()
    size_wh = (picture.shape[1], picture.shape[0])
    return (
        overlay(picture, vertices_m, faces, focal_px=focal_px, princpt_px=princpt_px),
        side_view(vertices_m, faces, focal_px=focal_px, princpt_px=princpt_px, size_wh=size_wh),
    )


def number(value: float | None, form: str = ".1f") -> str:
    return "–" if value is None or np.isnan(value) else f"{value:{form}}"


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
    return inline(out.getvalue(), "png")


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


def inline(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
