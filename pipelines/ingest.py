"""Ingest: people of a dataset to sample shards, each with a crop of its picture, in parallel tasks.

Two stages of one Ray Data stream: readers turn the owners' annotations into people, a shard's at a time; cutters turn
people into rows of a Parquet file. Readers wait while cutters have enough to do, so memory does not grow with the
dataset, and a run that was killed goes on past the shards that are written.
"""

from __future__ import annotations

import dataclasses
import logging
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import pyarrow.parquet as pq
import ray
from ray.data import TaskPoolStrategy

from mesh_lib import tables
from mesh_lib.datasets.images import BadImage, encode_jpeg
from mesh_lib.datasets.people import Person, Reader
from mesh_lib.geometry import crop
from pipelines import runs, storage
from pipelines.cluster import cores
from pipelines.pictures import Pictures

log = logging.getLogger(__name__)

SHARD_ROWS = 1024
"""Some 100 MB. Between two shards a cutter waits a quarter of a second for its next people."""
LOOK_FOR = 100
"""Pictures of a dataset's first people that are looked for before work begins."""
WHOLE = np.array([[1.0, 0, 0], [0, 1.0, 0]])
READ_CPUS, CUT_CPUS = 0.25, 0.75
"""Unlike resources keep Ray from fusing the two stages; of each one fits on a CPU, else both would wait for ever."""


@dataclass(frozen=True, kw_only=True)
class IngestStage:
    """What an ingested sample looks like."""

    min_keypoints: int = 6
    """People with fewer labelled keypoints are left out, and counted; datasets of boxes have none, and keep all."""
    store: str = "crop"
    """crop: the person with a wide margin; whole: the whole picture; uri: only where the picture is."""
    margin: float = 2.0
    """Edge of the stored crop, in edges of the person's square box: room for scale and rotation augmentation."""
    max_side_px: int = 640
    """Larger crops are reduced to this side."""
    readers: int | None = None
    """Tasks that cut pictures at the same time, and at most as many that read annotations; by default one for each CPU
    of the cluster and one more, which, where it fits, computes while another waits for its next shard."""

    def __post_init__(self) -> None:
        if self.store not in ("crop", "whole", "uri"):
            raise ValueError(f"store is crop, whole or uri; it is {self.store!r}")
        if self.min_keypoints < 0 or self.margin < 1 or self.max_side_px < 32:
            raise ValueError("min_keypoints is at least 0, margin at least 1, max_side_px at least 32")
        if self.readers is not None:
            runs.require_positive(self, "readers")


def ingest(run: runs.Run, *, reader: Reader, dataset: str, split: str, stage: IngestStage) -> dict[str, Any]:
    """A dataset's people to samples in the run folder; returns what was kept and what was not, by reason.

    Shards that stand in the folder already, of the same people, are kept as they are. Raises ValueError for files that
    are not what the reader reads, for duplicated ids, and where no picture can be found.
    """
    reader = _anywhere(reader)
    units = reader.units(storage.Files())
    if not units:
        raise ValueError(f"nothing to read in {', '.join(reader.inputs)}")
    tasks = stage.readers or cores() + 1
    people = ray.data.from_items([{"unit": i} for i in range(len(units))], override_num_blocks=len(units)).map_batches(
        _People(reader, ray.put(units), dataset=dataset, split=split, stage=stage),
        batch_size=1,
        batch_format="numpy",
        num_cpus=READ_CPUS,
        compute=TaskPoolStrategy(size=min(tasks, len(units))),
    )
    people.context.target_max_block_size = 1  # each shard's people are a block as they are
    shards = people.map_batches(
        _Shard(run.folder, reader, stage),
        batch_size=1,
        batch_format="numpy",
        num_cpus=CUT_CPUS,
        compute=TaskPoolStrategy(size=tasks),
    )
    return _account(run, shards.iter_rows(), reader)


def _anywhere(reader: Reader) -> Reader:
    """The reader with absolute paths: tasks run in other folders than the command."""
    settings = {f.name: getattr(reader, f.name) for f in dataclasses.fields(cast(Any, reader))}
    paths = {name: storage.absolute(v) for name, v in settings.items() if isinstance(v, str) and v in reader.inputs}
    return dataclasses.replace(cast(Any, reader), **paths)


def _account(run: runs.Run, shards: Iterable[dict[str, Any]], reader: Reader) -> dict[str, Any]:
    planned = unreadable = 0
    skipped: Counter[str] = Counter()
    keys: list[np.ndarray] = []
    names: set[str] = set()
    for shard in shards:
        names.add(shard["name"])
        planned, unreadable = planned + shard["planned"], unreadable + shard["unreadable"]
        skipped.update(pickle.loads(shard["skipped"]))
        keys.append(np.frombuffer(shard["keys"], np.int64))
    rows, where = sum(map(len, keys)), ", ".join(reader.inputs)
    try:
        if not rows:
            raise ValueError(f"no person to keep in {where}: {dict(skipped) or 'it has none'}")
        if rows != planned:
            raise ValueError(f"{planned} people went in but {rows} rows came out: {run.folder}")
        for path, _ in storage.list_files(run.folder, ".parquet"):
            if path.rpartition("/")[2] not in names:  # begun with shards of another size
                storage.resolve(run.folder)[0].delete_file(path)
        _check_keys(run, np.concatenate(keys))
    except ValueError:
        for path, _ in storage.list_files(run.folder, ".parquet"):
            storage.resolve(run.folder)[0].delete_file(path)
        raise
    return {"rows": rows, "unreadable_pictures": unreadable, "skipped": dict(skipped)}


def _check_keys(run: runs.Run, keys: np.ndarray) -> None:
    """Raises ValueError where two samples have the same id, or the same key."""
    sorted_keys = np.sort(keys)
    again = sorted_keys[1:][sorted_keys[1:] == sorted_keys[:-1]]
    if not len(again):
        return
    table = storage.read_parquet(run.folder, columns=["sample_id", "sample_key"])
    found = np.isin(table.column("sample_key").to_numpy(), again[:1])
    tables.check_keys([table.column("sample_id")[int(i)].as_py() for i in np.flatnonzero(found)])


class _People:
    """Ray Data function: one unit of a dataset in; the people of its shards out, a shard's at a time."""

    def __init__(self, reader: Reader, units: ray.ObjectRef, *, dataset: str, split: str, stage: IngestStage) -> None:
        self.reader, self.units = reader, units
        self.dataset, self.split, self.stage = dataset, split, stage
        self.rows = SHARD_ROWS

    def __call__(self, batch: Any) -> Iterator[dict[str, list[Any]]]:
        number = int(batch["unit"][0])
        files, skipped = storage.Files(), Counter[str]()
        shard: list[tuple[str, Person]] = []
        count = 0
        for person in self.reader.people(ray.get(self.units)[number], files, skipped):
            if self._too_few(person, skipped):
                continue
            if len(shard) >= self.rows and not _same_video(shard[-1][1], person):
                if not count:
                    self._look(shard, files)
                yield self._hand_over(number, count, shard, Counter())
                shard, count = [], count + 1
            shard.append((f"{self.dataset}/{self.split}/{person.image_id}/{person.person_id}", person))
        if shard and not count:
            self._look(shard, files)
        yield self._hand_over(number, count, shard, skipped)

    def _too_few(self, person: Person, skipped: Counter[str]) -> bool:
        if self.reader.boxes_only:
            return False
        labelled = int(np.count_nonzero(~(person.keypoints_2d_px[:, 2] <= 0)))
        if labelled >= max(1, self.stage.min_keypoints):
            return False
        skipped["too_few_keypoints" if labelled else "no_keypoints"] += 1
        return True

    def _look(self, shard: list[tuple[str, Person]], files: storage.Files) -> None:
        """Raise ValueError where none of the first pictures is there: the wrong folder was passed."""
        wanted = list(dict.fromkeys(person.picture for _, person in shard if person.image is None))[:LOOK_FOR]
        if wanted and not any(files.exists(path) for path in wanted):
            raise ValueError(
                f"none of the pictures is under {wanted[0].rpartition('/')[0]}: looked for {wanted[0]} and others\n"
                "  fix: pass the folder that holds the pictures that the annotations name"
            )

    def _hand_over(
        self, unit: int, count: int, shard: list[tuple[str, Person]], skipped: Counter[str]
    ) -> dict[str, list[Any]]:
        # Pickled by us for us: nothing from a dataset is unpickled.
        return {
            "name": [f"part-{unit:05d}-{count:05d}.parquet"],
            "people": [pickle.dumps(shard, pickle.HIGHEST_PROTOCOL)],
            "skipped": [pickle.dumps(dict(skipped))],
        }


def _same_video(one: Person, other: Person) -> bool:
    """A video is decoded from its start on, so it is not cut: what is in a later shard would cost all before it."""
    return other.video_frame is not None and one.picture == other.picture


class _Shard:
    """Ray Data function: a shard's people in; its file written, its counts out."""

    def __init__(self, folder: str, reader: Reader, stage: IngestStage) -> None:
        self.folder, self.joint_set, self.stage = folder, reader.joint_set, stage
        self.turn = reader.turns_pictures

    def __call__(self, batch: Any) -> dict[str, Any]:
        cv2.setNumThreads(1)
        people = pickle.loads(batch["people"][0])
        name, pictures = str(batch["name"][0]), Pictures(turn=self.turn)
        path, keys = storage.join(self.folder, name), [tables.sample_key(sample_id) for sample_id, _ in people]
        standing = _standing(path) if people and storage.exists(path) else Standing([], 0)
        if standing.keys != keys:
            with storage.writing_parquet(path, tables.samples_schema(self.joint_set)) as write:
                for at in range(0, len(people), storage.ROW_GROUP):  # a row group's pictures in memory, not a shard's
                    rows = self._rows(people[at : at + storage.ROW_GROUP], pictures)
                    write(tables.samples_table(rows, self.joint_set))
            standing = _standing(path)
        return {
            "name": np.array([name], object),
            "planned": np.array([len(people)]),
            "unreadable": np.array([standing.unreadable]),
            "keys": np.array([np.array(standing.keys, np.int64).tobytes()], object),
            "skipped": np.array([bytes(batch["skipped"][0])], object),
        }

    def _rows(self, people: list[tuple[str, Person]], pictures: Pictures) -> list[dict[str, Any]]:
        """Rows in the order of the people; each picture is read once, however many people it shows."""
        rows: list[dict[str, Any]] = [{} for _ in people]
        for i in sorted(range(len(people)), key=lambda i: (people[i][1].picture, people[i][1].video_frame or 0)):
            rows[i] = self._row(*people[i], pictures)
        return rows

    def _row(self, sample_id: str, person: Person, pictures: Pictures) -> dict[str, Any]:
        row = describe(sample_id, person)
        try:
            bgr, data = pictures.read_bgr(person)
        except BadImage:
            return row  # annotate quarantines it as bad_image: a row is never lost on the way
        row["image_size"] = np.array([bgr.shape[1], bgr.shape[0]], np.int32)
        linked = self.stage.store == "uri" and row["image_uri"] is not None and data is not None
        row["image"], row["crop_to_image"] = (
            (None, WHOLE) if linked else store(bgr, data, row["bbox_xywh_px"], self.stage)
        )
        return row


class Standing(NamedTuple):
    """What is in a shard's file."""

    keys: list[int]
    unreadable: int
    """Rows whose picture could not be read."""


def _standing(path: str) -> Standing:
    system, inner = storage.resolve(path)
    table = pq.read_table(inner, filesystem=system, columns=["sample_key", "image_size"])
    return Standing(table.column("sample_key").to_pylist(), table.column("image_size").null_count)


def describe(sample_id: str, person: Person) -> dict[str, Any]:
    """A samples row of all that is known of a person without their picture."""
    dataset, split, *_ = sample_id.split("/")
    box: Any = person.bbox_xywh_px
    if box is None or box[2] * box[3] <= 0:
        finite = np.isfinite(person.keypoints_2d_px).all(axis=1, keepdims=True)
        visible = np.where(finite, person.keypoints_2d_px, 0.0)
        box = crop.box_of_keypoints(visible) if visible[:, 2].any() else np.zeros(4)
    row: dict[str, Any] = {
        "sample_id": sample_id,
        "dataset": dataset,
        "split": split,
        "image_id": person.image_id,
        "person_id": person.person_id,
        "sequence": person.sequence,
        "frame": person.frame,
        "image_uri": person.picture if person.image is None and person.video_frame is None else None,
        "bbox_xywh_px": box,
        "keypoints_2d_px": person.keypoints_2d_px,
        "keypoints_3d_m": person.keypoints_3d_m,
        "smpl_valid": person.smpl is not None,
        "supervision": person.supervision,
    }
    if person.smpl is not None:
        row |= {f"smpl_{name}": value for name, value in vars(person.smpl).items()}
    if person.mano is not None:
        row |= {f"mano_{name}": value for name, value in vars(person.mano).items()}
    if person.camera is not None:
        row["camera"] = dict(vars(person.camera))
    return row


def store(
    bgr: np.ndarray, data: bytes | None, box: Sequence[float] | np.ndarray, stage: IngestStage
) -> tuple[bytes, np.ndarray]:
    """Bytes to keep of a picture, and the 2×3 affine from their pixels to the whole picture's."""
    height, width = bgr.shape[:2]
    x, y, w, h = (float(v) for v in box)
    side = max(w, h) * stage.margin
    left, top = max(0, int(x + w / 2 - side / 2)), max(0, int(y + h / 2 - side / 2))
    right, bottom = min(width, int(x + w / 2 + side / 2) + 1), min(height, int(y + h / 2 + side / 2) + 1)
    if stage.store != "crop" or right - left < 2 or bottom - top < 2:
        return data or encode_jpeg(bgr, order="BGR"), WHOLE
    part = bgr[top:bottom, left:right]
    scale = max(1.0, max(part.shape[:2]) / stage.max_side_px)
    size = (max(1, round(part.shape[1] / scale)), max(1, round(part.shape[0] / scale)))
    scale_x, scale_y = part.shape[1] / size[0], part.shape[0] / size[1]
    reduced = cv2.resize(part, size, interpolation=cv2.INTER_AREA) if scale > 1 else part
    # cv2.resize aligns pixel edges, our pixel (0, 0) is a centre: half a pixel goes each way.
    affine = np.array([[scale_x, 0, left + (scale_x - 1) / 2], [0, scale_y, top + (scale_y - 1) / 2]])
    return encode_jpeg(reduced, order="BGR"), affine
