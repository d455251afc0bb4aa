"""The two tables that stages hand over, as Arrow schemas, and the few helpers that read and write them.

Fixed-size lists hold arrays; each such field names its shape in the field's metadata. The schema's own
metadata names the table, its version and the joint sets, so a file explains itself to anyone with pyarrow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mesh_lib.body.joints import BODY33, JOINT_SETS, SMPL24, JointSet

SCHEMA_VERSION = "1"
MOST_BYTES = int(np.iinfo(np.int32).max)
"""Of the values of one Arrow array."""

OK = "ok"
QUARANTINE = {
    "missing_image": "there is no image: nothing is stored, nothing lies where image_uri points",
    "image_too_large": "the image claims more pixels than the limit: a small file can claim any size",
    "bad_image": "the image is truncated, damaged or no image, or nobody knows where in the picture it lies",
    "keypoints_not_finite": "a keypoint that is marked visible is NaN or infinite",
    "no_keypoints": "no keypoint is visible",
    "bad_box": "the box is empty, not finite, or outside the image",
    "not_finite": "the network's answer is NaN or infinite",
    "behind_camera": "a joint of the label lies behind the camera",
    "camera_inconsistent": "the stored mesh through the stored camera is not where the label says, by half a pixel",
    "not_labelled": "the labels that were imported have none of this person",
    "out_of_memory": "the network ran out of memory even on this sample alone",
}
"""Why a sample carries no label; every other sample has status `ok`."""


def array(shape: Sequence[int], dtype: pa.DataType | None = None) -> pa.DataType:
    """Fixed-size list that holds an array of `shape`, row by row."""
    return pa.list_(dtype or pa.float32(), int(np.prod(shape)))


def _field(name: str, shape: Sequence[int], dtype: pa.DataType | None = None) -> pa.Field:
    return pa.field(name, array(shape, dtype), metadata={"shape": ",".join(map(str, shape))})


CAMERA = pa.struct(
    [
        _field("focal_px", (2,)),
        _field("princpt_px", (2,)),
        _field("rotation", (3, 3)),
        _field("translation_m", (3,)),
    ]
)
"""Perspective camera of the whole image; rotation and translation take the dataset's world to the camera."""


def samples_schema(joint_set: JointSet, *, body_sha256: str | None = None) -> pa.Schema:
    """One row a person (docs/data.md). Keypoints follow `joint_set`, `smpl_*` the body of that file; `mano_*` are the
    left hand, then the right."""
    joints = len(joint_set)
    body = {} if body_sha256 is None else {"body_sha256": body_sha256}
    return pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("sample_key", pa.int64(), nullable=False),
            ("dataset", pa.string()),
            ("split", pa.string()),
            ("image_id", pa.string()),
            ("person_id", pa.string()),
            ("sequence", pa.string()),
            ("frame", pa.int32()),
            ("image", pa.binary()),
            ("image_uri", pa.string()),
            _field("image_size", (2,), pa.int32()),
            _field("crop_to_image", (2, 3), pa.float64()),
            _field("bbox_xywh_px", (4,)),
            _field("keypoints_2d_px", (joints, 3)),
            _field("keypoints_3d_m", (joints, 4)),
            _field("smpl_global_orient", (3,)),
            _field("smpl_body_pose", (69,)),
            _field("smpl_betas", (10,)),
            _field("smpl_transl_m", (3,)),
            ("smpl_valid", pa.bool_()),
            ("smpl_gender", pa.string()),
            _field("mano_pose", (2, 48)),
            _field("mano_betas", (2, 10)),
            _field("mano_transl_m", (2, 3)),
            _field("mano_valid", (2,), pa.bool_()),
            ("camera", CAMERA),
            ("supervision", pa.string()),
        ],
        metadata={"table": "samples", "schema_version": SCHEMA_VERSION, "joint_set": joint_set.name,
                  "joint_names": ",".join(joint_set.names), **body},
    )  # fmt: skip


PSEUDO_GT = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("sample_key", pa.int64(), nullable=False),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("image_id", pa.string()),
        ("person_id", pa.string()),
        ("status", pa.string()),
        _field("global_orient", (3,)),
        _field("body_pose", (69,)),
        _field("betas", (10,)),
        _field("vposer_z", (32,)),
        _field("crop_camera", (3,)),
        _field("crop_box_xywh_px", (4,)),
        _field("transl_m", (3,)),
        _field("focal_px", (2,)),
        _field("princpt_px", (2,)),
        _field("joints_2d_px", (len(BODY33), 2)),
        _field("joints_3d_m", (len(BODY33), 3)),
        ("camera_self_check_px", pa.float32()),
        ("reprojection_error_px", pa.float32()),
        ("reprojection_error_box", pa.float32()),
        ("keypoints_used", pa.int32()),
        ("pose_prior_norm", pa.float32()),
        ("shape_norm", pa.float32()),
        ("confidence", pa.float32()),
        ("flip_disagreement_deg", pa.float32()),
        ("flip_disagreement_mm", pa.float32()),
        ("flags", pa.list_(pa.string())),
    ],
    metadata={"table": "pseudo_gt", "schema_version": SCHEMA_VERSION, "joint_set": BODY33.name,
              "joint_names": ",".join(BODY33.names), "pose_joints": ",".join(SMPL24.names)},
)  # fmt: skip


def sample_key(sample_id: str) -> int:
    """Stable 64-bit key of a sample id (BLAKE2b); collisions are refused where samples are made."""
    digest = hashlib.blake2b(sample_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def check_keys(ids: Sequence[str]) -> None:
    """Raises ValueError where two ids are equal or share a key."""
    seen: dict[int, str] = {}
    for sample_id in ids:
        key = sample_key(sample_id)
        if key in seen:
            what = "appears twice" if seen[key] == sample_id else f"has the same key as {seen[key]!r}"
            raise ValueError(f"sample id {sample_id!r} {what}; every person needs an id of its own")
        seen[key] = sample_id


def samples_table(
    rows: Sequence[Mapping[str, Any]], joint_set: JointSet, *, body_sha256: str | None = None
) -> pa.Table:
    """Rows (arrays of any shape, missing keys become null) as a samples table; fills in `sample_key`."""
    rows = [{**row, "sample_key": sample_key(row["sample_id"])} for row in rows]
    return rows_to_table(rows, samples_schema(joint_set, body_sha256=body_sha256))


def rows_to_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows of scalars and arrays as a table of `schema`. Raises ValueError for a column it does not have."""
    unknown = {key for row in rows for key in row} - set(schema.names)
    if unknown:
        raise ValueError(f"columns not in the {table_kind(schema)} schema: {', '.join(sorted(unknown))}")
    columns = [_column([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Values, None where there is none; arrays are laid end to end, which is ten times faster than one by one."""
    if all(value is None for value in values):
        return pa.nulls(len(values), kind)
    if pa.types.is_binary(kind):
        return _bytes(values)
    if not pa.types.is_fixed_size_list(kind):
        return pa.array([_plain(value) for value in values], kind)
    absent = np.array([value is None for value in values], bool)
    flat = np.zeros((len(values), kind.list_size), kind.value_type.to_pandas_dtype())
    for i in np.flatnonzero(~absent):
        flat[i] = np.asarray(values[i]).ravel()
    filled = pa.array(flat.ravel(), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(filled, type=kind, mask=pa.array(absent))


def _bytes(values: list[bytes | None]) -> pa.Array | pa.ChunkedArray:
    """Pictures, joined at once: pa.array grows its memory as it goes, which takes ten times as long."""
    ends = np.cumsum([len(value or b"") for value in values])
    if ends[-1] > MOST_BYTES:
        return pa.array(values, pa.binary())  # in chunks, since offsets have 32 bits
    known = pa.array([value is not None for value in values]).buffers()[1]
    data = [known, pa.py_buffer(np.append(0, ends).astype(np.int32)), pa.py_buffer(b"".join(v or b"" for v in values))]
    return pa.Array.from_buffers(pa.binary(), len(values), data)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bytes, int, float)):  # most; looking for a Mapping takes longest
        return value
    if isinstance(value, np.ndarray):
        return value.ravel()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def list_column(values: np.ndarray) -> pa.Array:
    """(rows, …) as an array column: bytes stay bytes, all else is single precision."""
    kind = np.uint8 if values.dtype == np.uint8 else np.float32
    flat = np.ascontiguousarray(values.reshape(len(values), -1), kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


def numpy_column(table: pa.Table, name: str, *, missing: float = np.nan) -> np.ndarray:
    """A fixed-size-list column as (rows, values); null rows become `missing`, 0 where the type has no NaN.

    (pyarrow's own flatten() drops the slots of null rows, which would shift every row after them.)
    """
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if not pa.types.is_fixed_size_list(column.type):
        raise ValueError(f"column {name} is {column.type}, not an array column")
    width = column.type.list_size
    values = column.values.to_numpy(zero_copy_only=False)[column.offset * width :][: len(column) * width]
    values = values.reshape(len(column), width)
    if column.null_count:
        kind = np.dtype(column.type.value_type.to_pandas_dtype())
        values = values.copy()
        values[column.is_null().to_numpy(zero_copy_only=False)] = (
            missing if kind.kind == "f" else np.nan_to_num(missing)
        )
        values = values.astype(kind, copy=False)  # integers came as floats, for the sake of the nulls
    return values


def camera_columns(table: pa.Table) -> dict[str, np.ndarray]:
    """focal_px and princpt_px of each row's camera, zero where it is unknown."""
    camera = table.column("camera").combine_chunks()
    camera = camera if isinstance(camera, pa.StructArray) else pa.concat_arrays(camera.chunks)
    inner = pa.table({name: camera.field(name) for name in ("focal_px", "princpt_px")})
    return {
        name: np.nan_to_num(numpy_column(inner, name, missing=0.0)).astype(np.float32) for name in inner.column_names
    }


def table_kind(schema: pa.Schema) -> str:
    return (schema.metadata or {}).get(b"table", b"unknown").decode()


def bodies_of(schema: pa.Schema) -> set[str]:
    """SHA-256 of the body file that a samples file's `smpl_*` speak of; empty where it names none."""
    body = (schema.metadata or {}).get(b"body_sha256")
    return {body.decode()} if body else set()


def joint_set_of(schema: pa.Schema, *, where: str) -> JointSet:
    """The joint set that a samples file names. Raises ValueError for any other file or version."""
    metadata = schema.metadata or {}
    kind, version = table_kind(schema), metadata.get(b"schema_version", b"none").decode()
    if kind != "samples":
        raise ValueError(
            f"{where} does not hold annomesh samples (table: {kind})\n"
            "  fix: make samples with jobs/ingest.py or jobs/synthesize.py, and pass their folder"
        )
    if version != SCHEMA_VERSION:
        raise ValueError(f"{where} has samples of schema version {version}; this code reads {SCHEMA_VERSION}")
    name = metadata[b"joint_set"].decode()
    names = tuple(metadata[b"joint_names"].decode().split(","))
    known = JOINT_SETS.get(name)
    return known if known is not None and known.names == names else JointSet(name, names)
