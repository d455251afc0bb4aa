"""Labels in the formats of others: read row group by row group, joined with their samples, written as a stream.

Each format's own knowledge is in mesh_lib/formats; here is what reads, joins and writes.
"""

from __future__ import annotations

import json
import logging
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO, Literal
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import TaskPoolStrategy

from mesh_lib import tables
from mesh_lib.body.files import SMPL_VERTICES
from mesh_lib.body.joints import BODY33, to_body33
from mesh_lib.body.layer import BodyLayer
from mesh_lib.datasets.images import BadImage, decode
from mesh_lib.formats import coco_smpl, eft, hmr2, human_data, meshes, neural_annot, spin
from mesh_lib.formats.batch import Labels
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from pipelines import runs, storage
from pipelines.bodies import load_body_of
from pipelines.join import Lookup
from pipelines.label_files import LABELS
from pipelines.npz import NpzWriter
from pipelines.picture_names import UniqueNames, common_folder, file_name, picture_of
from pipelines.report import open_labels
from pipelines.sources import Source, open_source, read_group

log = logging.getLogger(__name__)
Format = Literal["neuralannot", "spin", "eft", "humandata", "coco", "webdataset", "obj", "ply", "glb"]
Key = Literal["person_id", "sample_id"]
FILE = {
    "neuralannot": "SMPL_NeuralAnnot.json", "spin": "spin.npz", "eft": "eft.json", "humandata": "human_data.npz",
    "coco": "coco_smpl.json",
}  # fmt: skip
"""What a format of one file is called in the output folder."""
SAMPLE = ("image_uri", "image_size", "bbox_xywh_px", "keypoints_2d_px")
PIXELS = ("image", "crop_to_image")
NAMES: Mapping[str, tuple[str, ...]] = {
    "spin": ("file_name",), "eft": ("file_name",), "humandata": ("file_name",), "coco": ("file_name", "image_id"),
}  # fmt: skip
"""What a format calls a picture by: each name must be one picture's."""
UNREADABLE = ("missing_image", "bad_image", "image_too_large")
JOINT_MOVED_PX = 0.5


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was exported."""

    labels: int
    moved_px: tuple[float, float]
    """Median and largest distance of a joint between this format's camera and the label's."""
    moved: int
    """Labels of which a joint moved by more than half a pixel."""
    left_out: dict[str, int]
    """Labels that were not written, by reason: WebDataset's of which there is no picture to write."""
    smpl_mesh: bool
    """The labels are of a body with SMPL's mesh; of another, SMPL with their parameters is another mesh."""


class Joined:
    """Batches of labels with what their samples know: iterated a row group at a time."""

    def __init__(self, labels: str, samples: str, *, strip: str, key: Key = "person_id", pixels: bool = False) -> None:
        self.folder, self.strip, self.key = storage.join(labels, LABELS), strip, key
        self.source: Source = open_source(samples)
        self.groups = open_labels(self.folder)
        groups = [(file, group) for file, group, _ in self.source.groups]
        self.lookup = Lookup(self.source.path, groups, (*SAMPLE, *PIXELS) if pixels else SAMPLE)

    def batch(self, group: int) -> tuple[Labels, pa.Table]:
        """Labels of one row group, and their samples. Raises ValueError where a label has no sample."""
        _, file, number = self.groups[group]
        table = read_group(self.folder, file, number)
        rows = self.lookup.find(table.column("sample_key").to_numpy())
        if (lost := np.flatnonzero(rows < 0)).size:
            name = table.column("sample_id")[int(lost[0])].as_py()
            raise ValueError(
                f"{len(lost)} labels of {file} have no sample in {self.source.path}, the first is {name}\n"
                "  fix: pass --samples with the samples that were labelled"
            )
        samples = self.lookup.take(rows)
        return self._labels(table, samples), samples

    def _labels(self, table: pa.Table, samples: pa.Table) -> Labels:
        def column(name: str, *shape: int) -> np.ndarray:
            return tables.numpy_column(table, name).astype(np.float64).reshape(len(table), *shape)

        joint_set = self.source.joint_set
        given = np.nan_to_num(tables.numpy_column(samples, "keypoints_2d_px", missing=0.0))
        pose = np.concatenate([column("global_orient", 3), column("body_pose", 69)], axis=1)
        known = (table.column(name).to_pylist() for name in ("dataset", "split", "image_id"))
        pictures = list(zip(samples.column("image_uri").to_pylist(), *known, strict=True))
        return Labels(
            sample_id=table.column("sample_id").to_pylist(),
            image_id=table.column("image_id").to_pylist(),
            person_id=table.column(self.key).to_pylist(),
            file_name=[file_name(uri, name, self.strip) for uri, _, _, name in pictures],
            picture=[picture_of(*picture) for picture in pictures],
            rotvec=pose.reshape(-1, 24, 3),
            betas=column("betas", 10),
            transl_m=column("transl_m", 3),
            focal_px=column("focal_px", 2),
            princpt_px=column("princpt_px", 2),
            joints_2d_px=column("joints_2d_px", len(BODY33), 2),
            joints_3d_m=column("joints_3d_m", len(BODY33), 3),
            keypoints_2d_px=to_body33(given.reshape(len(table), len(joint_set), 3).astype(np.float64), joint_set),
            bbox_xywh_px=tables.numpy_column(samples, "bbox_xywh_px", missing=0.0).astype(np.float64),
            image_size=tables.numpy_column(samples, "image_size", missing=0.0),
        )

    def batches(self, names: tuple[str, ...]) -> Iterator[Labels]:
        """All labels. Raises ValueError where one of `names` (file_name, image_id) is of two pictures."""
        seen = {what: UniqueNames() for what in names}
        for group in range(len(self.groups)):
            labels, _ = self.batch(group)
            for what, found in seen.items():
                self._refuse(found.add(getattr(labels, what), labels.picture), what)
            yield labels
        for what, found in seen.items():
            self._refuse(found.find(), what)

    def _refuse(self, name: int | None, what: str) -> None:
        """Raises ValueError for a name of two pictures, given by its hash."""
        if name is None:
            return
        pictures: dict[str, str] = {}
        for labels, _ in map(self.batch, range(len(self.groups))):
            for called, picture in zip(getattr(labels, what), labels.picture, strict=True):
                if tables.sample_key(called) == name:
                    pictures[picture] = called
            if len(pictures) > 1:
                break
        (first, called), (second, _) = list(pictures.items())[:2]
        fix = "export one dataset and split at a time"
        if what == "file_name" and all(storage.absolute(path) == path for path in pictures):
            fix = f"pass --images-root {common_folder(first, second)}"
        raise ValueError(f"this format would call two pictures {called!r}: {first} and {second}\n  fix: {fix}")


def export(
    out: str, *, labels: str, samples: str, to: Format, key: Key = "person_id", strip: str = "", parallel: int = 2
) -> Found:
    """Write every label with status ok; returns what was written.

    Raises ValueError where labels and samples are not of one another, an id that the format keys by comes twice, or
    two pictures would have one name.
    """
    strip = storage.absolute(strip) if strip else ""
    smpl_mesh = len(load_body_of(labels).v_template) == SMPL_VERTICES
    if not smpl_mesh and to not in meshes.KINDS:
        log.warning(
            "these labels are not of SMPL: their body has another mesh, so whoever poses SMPL with them gets other "
            "people than these; their own body is %s", storage.join(labels, runs.BODY),
        )  # fmt: skip
    if to in ("webdataset", *meshes.KINDS):
        tally = _export_parts(out, labels=labels, samples=samples, to=to, strip=strip, parallel=parallel)
        return tally.found(smpl_mesh=smpl_mesh)
    joined = Joined(labels, samples, strip=strip, key=key)
    write = {
        "neuralannot": _neural_annot, "spin": _spin, "eft": _eft, "humandata": _human_data, "coco": _coco
    }[to]  # fmt: skip
    tally = _Tally()
    with storage.writing(storage.join(out, FILE[to])) as stream:
        write(stream, joined.batches(NAMES.get(to, ())), tally)
    return tally.found(smpl_mesh=smpl_mesh)


class _Tally:
    """Counts labels, how far a format's camera moves them, and those left out."""

    def __init__(self) -> None:
        self.moved: list[np.ndarray] = []
        self.count = 0
        self.left_out: Counter[str] = Counter()

    def add(self, labels: Labels, moved_px: np.ndarray | None = None) -> None:
        self.count += len(labels)
        self.moved.append(np.zeros(len(labels), np.float32) if moved_px is None else moved_px.astype(np.float32))

    def found(self, *, smpl_mesh: bool) -> Found:
        moved = np.concatenate([np.zeros(0, np.float32), *self.moved])
        span = (float(np.median(moved)), float(moved.max())) if len(moved) else (0.0, 0.0)
        return Found(
            labels=self.count, moved_px=span, moved=int((moved > JOINT_MOVED_PX).sum()), left_out=dict(self.left_out),
            smpl_mesh=smpl_mesh,
        )  # fmt: skip


def _write(stream: BinaryIO, text: str) -> None:
    stream.write(text.encode())


def _once(seen: set[str], keys: list[str], *, what: str) -> None:
    for key in keys:
        if key in seen:
            raise ValueError(
                f"two labels have the {what} {key!r}, by which this format tells people apart\n"
                "  fix: export one dataset and split at a time, or pass --key sample_id"
            )
        seen.add(key)


def _neural_annot(stream: BinaryIO, batches: Iterator[Labels], tally: _Tally) -> None:
    seen: set[str] = set()
    separator = "{\n"
    for labels in batches:
        entries = neural_annot.entries(labels)
        _once(seen, [key for key, _ in entries], what="annotation id")
        for key, entry in entries:
            _write(stream, f"{separator}{json.dumps(key)}: {json.dumps(entry)}")
            separator = ",\n"
        tally.add(labels)
    _write(stream, "\n}\n" if tally.count else "{}\n")


def _eft(stream: BinaryIO, batches: Iterator[Labels], tally: _Tally) -> None:
    seen: set[str] = set()
    _write(stream, f'{{"ver": {eft.VERSION}, "data": [')
    separator = "\n"
    for labels in batches:
        entries = eft.entries(labels)
        _once(seen, [str(entry["annotId"]) for entry in entries], what="annotation id")
        for entry in entries:
            _write(stream, separator + json.dumps(entry))
            separator = ",\n"
        tally.add(labels, eft.moved_px(labels))
    _write(stream, "\n]}\n")


def _coco(stream: BinaryIO, batches: Iterator[Labels], tally: _Tally) -> None:
    seen: set[str] = set()
    listed: set[str] = set()
    _write(stream, f'{{"categories": {json.dumps([coco_smpl.CATEGORY])},\n"annotations": [')
    separator = "\n"
    with tempfile.TemporaryFile() as pictures:  # they follow the annotations, and are as many
        for labels in batches:
            _once(seen, list(labels.person_id), what="annotation id")
            for entry in coco_smpl.person_records(labels):
                _write(stream, separator + json.dumps(entry))
                separator = ",\n"
            for image_id, entry in coco_smpl.images(labels):
                if image_id not in listed:
                    pictures.write(((",\n" if listed else "") + json.dumps(entry)).encode())
                    listed.add(image_id)
            tally.add(labels)
        _write(stream, '\n],\n"images": [\n')
        pictures.seek(0)
        shutil.copyfileobj(pictures, stream)
    _write(stream, "\n]}\n")


def _spin(stream: BinaryIO, batches: Iterator[Labels], tally: _Tally) -> None:
    with NpzWriter() as arrays:
        for labels in batches:
            columns = spin.columns(labels)
            arrays.add(columns)
            tally.add(labels, spin.moved_px(labels, columns))
        arrays.write(stream)


def _human_data(stream: BinaryIO, batches: Iterator[Labels], tally: _Tally) -> None:
    with NpzWriter() as arrays:
        for labels in batches:
            arrays.add(human_data.columns(labels))
            tally.add(labels)
        kinds = ("keypoints2d_smpl", "keypoints3d_smpl", "keypoints2d_original")
        extra: dict[str, Any] = {f"{kind}_mask": human_data.mask() for kind in kinds}
        extra |= {"config": "annomesh", "__data_len__": tally.count, "__key_strict__": False}
        extra |= {"__keypoints_compressed__": True}
        groups = ("smpl", "cam_param")
        extra |= {name: np.array(arrays.pop_group(name), dtype=object) for name in groups}
        extra |= {"meta": np.array({"gender": ["neutral"] * tally.count}, dtype=object)}
        arrays.write(stream, extra)


def _export_parts(out: str, *, labels: str, samples: str, to: Format, strip: str, parallel: int) -> _Tally:
    """Formats of many files: a Ray task for each row group of labels."""
    tally = _Tally()
    joined = Joined(labels, samples, strip=strip, pixels=to == "webdataset")
    groups = range(len(joined.groups))
    if not groups:
        return tally
    shared = ray.put(joined)  # its keys once a node, not once a task
    work: Callable[[Any], dict[str, np.ndarray]] = (
        _Tar(out, shared) if to == "webdataset" else _Mesh(out, shared, to, labels)
    )
    done = ray.data.from_items([{"group": group} for group in groups], override_num_blocks=len(groups)).map_batches(
        work, batch_size=1, batch_format="numpy", compute=TaskPoolStrategy(size=min(parallel, len(groups)))
    )
    for row in done.iter_rows():
        tally.count += int(row.pop("labels"))
        tally.left_out.update({reason: int(count) for reason, count in row.items() if count})
    return tally


class _Tar:
    """Ray Data function: one row group of labels in, its tar written, its count and those left out by reason out."""

    def __init__(self, out: str, joined: Any) -> None:
        self.out, self.joined = out, joined

    def __call__(self, unit: Any) -> dict[str, np.ndarray]:
        group = int(unit["group"][0])
        joined: Joined = ray.get(self.joined)
        labels, samples = joined.batch(group)
        place = tables.numpy_column(samples, "crop_to_image").reshape(-1, 2, 3)
        members = hmr2.members(labels, crop_to_image=place)
        path, left_out = storage.join(self.out, f"{group:06d}.tar"), Counter[str]()
        with storage.writing(path) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
            for i, arrays in enumerate(members):
                try:
                    data = _picture(samples, i)
                except BadImage as error:
                    left_out[error.reason] += 1
                    continue
                key = f"{tables.sample_key(labels.sample_id[i]) & (2**64 - 1):016x}"
                ending = "png" if data[:4] == b"\x89PNG" else "jpg"
                for name, content in {ending: data, **arrays}.items():
                    info = tarfile.TarInfo(f"{key}.{name}")
                    info.size = len(content)
                    tar.addfile(info, BytesIO(content))
        counts = {"labels": len(labels) - left_out.total(), **{reason: left_out[reason] for reason in UNREADABLE}}
        return {name: np.array([count]) for name, count in counts.items()}


def _picture(samples: pa.Table, row: int) -> bytes:
    """A sample's picture as it is stored. Raises BadImage, with the reason, for one that nobody can decode."""
    data = samples.column("image")[row].as_py() or storage.read_image(samples.column("image_uri")[row].as_py())
    decode(data)
    assert data is not None
    return data


class _Mesh:
    """Ray Data function: one row group of labels in, a mesh file for each written, their count out."""

    def __init__(self, out: str, joined: Any, kind: str, labels: str) -> None:
        self.out, self.joined, self.kind, self.run = out, joined, kind, labels

    def __call__(self, unit: Any) -> dict[str, np.ndarray]:
        joined: Joined = ray.get(self.joined)
        labels, _ = joined.batch(int(unit["group"][0]))
        body = load_body_of(self.run)
        layer = BodyLayer(body)
        for i, sample_id in enumerate(labels.sample_id):
            with torch.no_grad():
                posed = layer(
                    rotmats=rotvec_to_rotmat(torch.as_tensor(labels.rotvec[i], dtype=torch.float32)),
                    betas=torch.as_tensor(labels.betas[i], dtype=torch.float32),
                )
            vertices = posed.vertices_m.double().numpy() + labels.transl_m[i]
            path = storage.join(self.out, *(_safe(part) for part in sample_id.split("/"))) + f".{self.kind}"
            storage.write_bytes(path, meshes.mesh_bytes(vertices, body.faces, self.kind))
        return {"labels": np.array([len(labels)])}


def _safe(part: str) -> str:
    """A part of a sample id as a name of a file or folder, and of no other part: what is neither letter nor digit nor
    one of ._-, a leading dot and % itself become %XX, as in addresses."""
    name = "".join(c if c.isalnum() or c in "._-" else quote(c, safe="") for c in part)
    return "%2E" + name[1:] if name.startswith(".") else name or "%"
