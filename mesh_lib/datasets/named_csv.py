"""CSV files of people whose columns name our joints: `picture`, `person`, `nose_x`, `nose_y`, `nose_confidence` …"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mesh_lib.body.joints import BODY33, COCO17, FACE68, LSP14, SMPL24, JointSet, hand_joints
from mesh_lib.datasets.people import Files, is_box

NAMED = JointSet(
    "named",
    tuple(
        dict.fromkeys(
            (
                *COCO17.names, *BODY33.names, *SMPL24.names, *LSP14.names,
                "head_top", "thorax", "upper_neck", "spine", "left_toe", "right_toe",
                *hand_joints("left"), *hand_joints("right"),
                *hand_joints("left", root="hand_root"), *hand_joints("right", root="hand_root"),
                *FACE68.names,
            )
        )
    ),
)  # fmt: skip
"""Every joint that a column may name."""

BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
PARTS = ("x", "y", "confidence")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column of a file holds what."""

    count: int
    picture: int
    person: int
    box: tuple[int, ...]
    """Four columns, or none."""
    joints: dict[str, tuple[int, int, int | None]]
    """x, y and confidence of each joint that the file has."""

    def box_of(self, row: list[str]) -> np.ndarray | None:
        """(4,), of some extent; None where the row has none."""
        values = [row[i] for i in self.box]
        if not is_box(values):
            return None
        box = np.array(values, np.float64)
        return box if (box[2:] > 0).all() else None

    def keypoints_of(self, row: list[str]) -> np.ndarray | None:
        """(J, 3) of all joints that have a name; None where a cell is neither a number nor empty."""
        keypoints = np.zeros((len(NAMED), 3))
        for joint, places in self.joints.items():
            cells = ["1" if i is None else row[i].strip() for i in places]
            try:
                x, y, confidence = (float(cell) if cell else None for cell in cells)
            except ValueError:
                return None
            if x is not None and y is not None and confidence is not None:
                # What is no number stays, for annotate to quarantine: it counts as labelled.
                confidence = 1.0 if np.isnan(confidence) else min(max(confidence, 0.0), 1.0)
                keypoints[NAMED.index(joint)] = x, y, confidence
        return keypoints


def rows(files: Files, path: str) -> Iterator[tuple[int, list[str]]]:
    """(number, cells) of each row, the header's 1; empty lines are passed over. Raises ValueError for no CSV."""
    number = 0
    with files.open(path) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
        try:
            for row in csv.reader(text, strict=True):
                if any(cell.strip() for cell in row):
                    number += 1
                    yield number, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no CSV in UTF-8, after row {number}: {error}") from None


def read_header(files: Files, path: str, *, boxes_only: bool) -> Columns:
    """What the columns of a file are. Raises ValueError that names the column that is wrong."""
    names = [name.strip() for name in next(rows(files, path), (0, []))[1]]
    wanted = BOX if boxes_only else ("nose_x", "nose_y", "nose_confidence", "…")
    fix = (
        f"\n  it has: {', '.join(names[:8]) or 'nothing'}{' …' * (len(names) > 8)}"
        f"\n  fix: a header of comma-separated {', '.join(('picture', 'person', *wanted))}"
    )
    at = {name: i for i, name in enumerate(names)}
    if len(at) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: column {twice!r} occurs more than once{fix}")
    for name in ("picture", "person"):
        if name not in at:
            raise ValueError(f"{path} has no column {name!r}{fix}")
    box = [name for name in BOX if name in at]
    if len(box) < 4 and (box or boxes_only):
        raise ValueError(f"{path} has no column {next(name for name in BOX if name not in at)!r}{fix}")
    joints = _joints(at, path, fix)
    if boxes_only and joints:
        raise ValueError(f"{path} has joints: {', '.join(joints)}\n  fix: pass it as keypoints")
    if not boxes_only and not joints:
        raise ValueError(f"{path} has no joints\n  fix: pass it as boxes, or name columns nose_x, nose_y, …")
    return Columns(
        count=len(names),
        picture=at["picture"],
        person=at["person"],
        box=tuple(at[name] for name in box),
        joints=joints,
    )


def _joints(at: dict[str, int], path: str, fix: str) -> dict[str, tuple[int, int, int | None]]:
    parts: dict[str, dict[str, int]] = {}
    for name, i in at.items():
        if name in ("picture", "person", *BOX):
            continue
        joint, _, part = name.rpartition("_")
        if joint not in NAMED.names or part not in PARTS:
            near = difflib.get_close_matches(joint if part in PARTS else name, NAMED.names, n=3)
            hint = f"; near it are {', '.join(near)}" if near else ""
            raise ValueError(f"{path}: column {name!r} is no joint of ours with _x, _y or _confidence{hint}{fix}")
        parts.setdefault(joint, {})[part] = i
    for joint, found in parts.items():
        if not {"x", "y"} <= found.keys():
            raise ValueError(f"{path}: joint {joint!r} has no {joint}_x or no {joint}_y{fix}")
    return {joint: (found["x"], found["y"], found.get("confidence")) for joint, found in parts.items()}
