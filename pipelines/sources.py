"""Sample datasets as their readers see them: which files and row groups, of which joints, and what they know."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mesh_lib import tables
from mesh_lib.body.joints import RIGHT_HAND21, JointSet
from pipelines import runs, storage

COLUMNS = (
    "sample_key", "image", "image_uri", "crop_to_image", "image_size", "bbox_xywh_px", "keypoints_2d_px",
    "keypoints_3d_m", "smpl_global_orient", "smpl_body_pose", "smpl_betas", "smpl_transl_m", "smpl_valid", "camera",
)  # fmt: skip

MANO = ("mano_pose", "mano_betas", "mano_transl_m", "mano_valid")
"""Read beside them of samples of hands."""
Part = Literal["body", "right_hand"]
"""Whose truth is read of samples."""

LOOKS = 16
"""Footers that are read at the same time: in object storage each is a round trip or two."""
LISTED = 3


@dataclass(frozen=True)
class Labels:
    """Labels that stand in for a dataset's truth (pipelines/labelled.py)."""

    path: str
    parts: tuple[tuple[tuple[str, int], ...], ...]
    """For each row group of the samples, the (file, row group) of the labels that hold its rows."""


@dataclass(frozen=True)
class Source:
    """One sample dataset, as the planner sees it."""

    path: str
    joint_set: JointSet
    groups: tuple[tuple[str, int, int], ...]
    """(file, row group, rows); of samples with labels, those rows alone that have one."""
    bodies: frozenset[str]
    """SHA-256 of the body files whose parameters `smpl_*` holds, as far as the files name them."""
    has_3d: bool
    """Some sample has 3D joints or SMPL parameters, as far as the files' statistics say."""
    weak: bool = False
    """Supervised by 2D only: whatever 3D the samples carry is not read."""
    labels: Labels | None = None
    """In place of the 3D that the samples carry."""
    part: Part = "body"

    @property
    def rows(self) -> int:
        return sum(rows for _, _, rows in self.groups)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a training reads."""
        return COLUMNS if self.part == "body" else (*COLUMNS, *MANO)


def open_source(path: str, part: Part = "body") -> Source:
    """Look at a dataset's files, not its rows.

    Raises ValueError where it is absent, empty, not samples, or the half-written output of an interrupted run; and
    where hands are asked for and it has none.
    """
    path = storage.absolute(path)
    run = runs.run_of(path)
    if run and run.get("status") != "complete":
        raise ValueError(
            f"the samples at {path} are incomplete: their run of {run.get('job')} is {run.get('status')}\n"
            f"  fix: run jobs/{run.get('job')}.py with the same settings again; it takes up its folder"
        )
    groups, joint_set, bodies, has_3d = [], None, set(), False
    files = storage.parquet_files(path)
    with ThreadPoolExecutor(LOOKS) as pool:
        for file, found in zip(files, pool.map(lambda file: _look(path, file), files), strict=True):
            if joint_set is not None and found.joint_set != joint_set:
                raise ValueError(f"{path} mixes joint sets: {joint_set.name} and, in {file}, {found.joint_set.name}")
            joint_set = found.joint_set
            bodies |= found.bodies
            groups += [(file, i, count) for i, count in enumerate(found.rows) if count]
            has_3d = has_3d or found.has_3d
    if joint_set is None or not groups:
        raise ValueError(f"no samples at {path}: its {len(files)} files hold no row")
    if part == "right_hand" and (lacking := [name for name in RIGHT_HAND21.names if name not in joint_set.names]):
        raise ValueError(
            f"the samples in {path} are not of right hands: their joints are those of {joint_set.name}, which lacks "
            f"{', '.join(lacking[:LISTED])} …\n  fix: ingest hands (jobs/ingest.py freihand, interhand)"
        )
    has_3d = has_3d or part == "right_hand"  # statistics do not tell of MANO
    return Source(path, joint_set, tuple(groups), frozenset(bodies), has_3d, part=part)


@dataclass(frozen=True)
class _File:
    """What a shard's footer says."""

    joint_set: JointSet
    bodies: set[str]
    rows: list[int]
    """Of each row group."""
    has_3d: bool


def _look(path: str, file: str) -> _File:
    system, _ = storage.resolve(path)
    try:
        info = storage.patiently(path, lambda: pq.ParquetFile(system.open_input_file(file)))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is not a Parquet file: {error}") from None
    joint_set = tables.joint_set_of(info.schema_arrow, where=file)
    if absent := {*COLUMNS, "sample_id"} - {*info.schema_arrow.names}:
        raise ValueError(f"{file} lacks columns of the samples table: {', '.join(sorted(absent))}")
    groups = [info.metadata.row_group(i) for i in range(info.metadata.num_row_groups)]
    rows = [group.num_rows for group in groups]
    return _File(joint_set, tables.bodies_of(info.schema_arrow), rows, any(map(_may_hold_3d, groups)))


def _may_hold_3d(group: pq.RowGroupMetaData) -> bool:
    columns = {(column := group.column(i)).path_in_schema.partition(".")[0]: column for i in range(group.num_columns)}
    joints, mesh = columns["keypoints_3d_m"], columns["smpl_valid"]
    if not (joints.is_stats_set and mesh.is_stats_set):
        return True
    return joints.statistics.null_count < joints.num_values or (mesh.statistics.has_min_max and mesh.statistics.max)


def holds_3d(source: Source) -> bool:
    """Whether any sample has a valid 3D joint or SMPL parameters (of hands: of a right one, or MANO's): read until one
    is found, mostly the first."""
    for file, group, _ in source.groups if source.has_3d else ():
        if source.part == "right_hand":
            if holds_hands(read_group(source.path, file, group, ("keypoints_3d_m", "mano_valid")), source.joint_set):
                return True
            continue
        table = read_group(source.path, file, group, ("keypoints_3d_m", "smpl_valid"))
        joints = tables.numpy_column(table, "keypoints_3d_m", missing=0.0)
        if (joints[:, 3::4] > 0).any() or any(table.column("smpl_valid").to_pylist()):
            return True
    return False


def holds_hands(table: pa.Table, joint_set: JointSet) -> bool:
    """Whether any row knows a right hand in 3D: one of its joints, or its MANO."""
    joints = tables.numpy_column(table, "keypoints_3d_m", missing=0.0).reshape(len(table), len(joint_set), 4)
    mano = tables.numpy_column(table, "mano_valid", missing=0.0)
    return bool((joints[:, joint_set.indices(RIGHT_HAND21.names), 3] > 0).any() or mano[:, 1].any())


def read_group(path: str, file: str, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One row group of one shard.

    Raises ValueError, with its name, for one that cannot be read; OSError where an object store does not answer, which
    says nothing about the shard.
    """
    system, _ = storage.resolve(path)
    wanted = list(columns) if columns else None
    try:
        return storage.patiently(
            path, lambda: pq.ParquetFile(system.open_input_file(file)).read_row_group(group, columns=wanted)
        )
    except (pa.ArrowInvalid, OSError) as error:
        if "://" in path and not isinstance(error, (pa.ArrowInvalid, FileNotFoundError)):
            raise
        raise ValueError(f"row group {group} of {file} cannot be read: {error}") from error
