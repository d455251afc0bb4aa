"""Synthesize: the open world's four domains as sample shards, with the truth kept aside, in parallel actors."""

from __future__ import annotations

import dataclasses
import io
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy

from mesh_lib import tables
from mesh_lib.body.files import Body, load_body
from mesh_lib.body.joints import BODY33
from mesh_lib.world.backgrounds import find_photos
from mesh_lib.world.poses import Poses
from mesh_lib.world.scenes import DOMAINS, Domain, OpenWorld, Sample
from mesh_lib.world.sheets import domain_sheet, png, pose_sheet
from pipelines import runs, storage
from pipelines.bodies import load_body_of, put_body
from pipelines.mocap import gather_clips

log = logging.getLogger(__name__)

SHARD_ROWS = 250
TRUTH = "truth"
MOCAP_FILE = "_mocap.npz"

SUPERVISION = {"studio": "mocap", "street": "itw_2d", "street3d": "itw_3d", "street_test": "none"}

TRUTH_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("sample_key", pa.int64(), nullable=False),
        ("activity", pa.string()),
        *(
            pa.field(name, tables.array(shape), metadata={"shape": ",".join(map(str, shape))})
            for name, shape in {
                "global_orient": (3,),
                "body_pose": (69,),
                "betas": (10,),
                "transl_m": (3,),
                "focal_px": (2,),
                "princpt_px": (2,),
                "keypoints_3d_m": (len(BODY33), 4),
            }.items()
        ),
    ],
    metadata={"table": "truth", "schema_version": tables.SCHEMA_VERSION, "joint_set": BODY33.name,
              "joint_names": ",".join(BODY33.names)},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class World:
    """How many people of each domain, and what they are made of."""

    studio: int = 2000
    """Plain rooms, fixed cameras, tight clothes; training may see the 3D truth."""
    street: int = 2000
    """Any place, light, clothes, camera, occluder; training sees 2D keypoints only."""
    street3d: int = 200
    """A few street scenes with 3D truth."""
    street_test: int = 200
    """Unseen places, clothes and people, for evaluation."""
    size: int = 256
    """Side of the pictures in pixels."""
    seed: int = 0
    """The same seed makes the same world, with any number of actors."""
    backgrounds: Path | None = None
    """Folder of your own photos, in place of the drawn places of the street domains."""
    bvh: Path | None = None
    """Folder of .bvh clips: half of the people then take their poses from motion capture."""
    amass: Path | None = None
    """Folder of AMASS clips, for the same."""
    actors: int = 2
    """Processes that draw at the same time."""

    def __post_init__(self) -> None:
        if min(self.studio, self.street, self.street3d, self.street_test) < 0 or not sum(self.counts().values()):
            raise ValueError("the domains' sizes are whole numbers from 0 on, and not all 0")
        if self.size < 64 or self.actors < 1 or self.seed < 0:
            raise ValueError("size is at least 64 pixels, actors at least 1, the seed at least 0")

    def counts(self) -> dict[Domain, int]:
        return {domain: getattr(self, domain) for domain in DOMAINS}


def synthesize(run: runs.Run, *, world: World, body: str | Path) -> dict[str, Any]:
    """Draw the world into <run>/<domain> and <run>/truth/<domain>; returns the rows of each domain.

    Raises ValueError for folders without photos or clips, and for unreadable ones.
    """
    put_body(body, run.folder)
    if world.backgrounds:
        backgrounds = Path(storage.absolute(world.backgrounds))
        find_photos(backgrounds)
        world = dataclasses.replace(world, backgrounds=backgrounds)
    mocap = gather_clips(bvh_dir=world.bvh, amass_dir=world.amass)
    if mocap:
        storage.write_bytes(run.path(MOCAP_FILE), _pack(mocap))
    blocks = [
        {"domain": domain, "first": first, "count": min(SHARD_ROWS, count - first)}
        for domain, count in world.counts().items()
        for first in range(0, count, SHARD_ROWS)
    ]
    done = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
        DrawShard,
        fn_constructor_args=(run.folder, world, bool(mocap)),
        batch_size=1,
        batch_format="numpy",
        compute=ActorPoolStrategy(size=min(world.actors, len(blocks))),
    )
    rows: Counter[str] = Counter()
    for written in done.iter_rows():
        rows[written["domain"]] += int(written["rows"])
    wanted = {domain: count for domain, count in world.counts().items() if count}
    if dict(rows) != wanted:
        raise ValueError(f"asked for {wanted} but {dict(rows)} rows came out: {run.folder}")
    return {"rows": dict(rows)}


def _pack(clips: Sequence[Poses]) -> bytes:
    stream = io.BytesIO()
    np.savez(
        stream,
        body_pose=np.concatenate([clip.body_pose_rotvec for clip in clips]),
        orient=np.concatenate([clip.global_orient_rotvec for clip in clips]),
        frames=[len(clip) for clip in clips],
    )
    return stream.getvalue()


def _unpack(data: bytes) -> list[Poses]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        ends = np.cumsum(file["frames"])[:-1]
        bodies, orients = np.split(file["body_pose"], ends), np.split(file["orient"], ends)
    return [Poses(b, o, np.full(len(o), "mocap")) for b, o in zip(bodies, orients, strict=True)]


def open_world(world: World, *, body: Body, mocap: Sequence[Poses]) -> OpenWorld:
    """The assets that the settings name."""
    photos = find_photos(world.backgrounds) if world.backgrounds else []
    return OpenWorld(body, seed=world.seed, size=world.size, photos=photos, mocap=mocap)


class DrawShard:
    """Ray Data actor: loads the world once; a planned shard in, its two files written, its count out."""

    def __init__(self, folder: str, world: World, has_mocap: bool) -> None:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        self.folder, self.settings = folder, world
        mocap = _unpack(storage.read_bytes(storage.join(folder, MOCAP_FILE))) if has_mocap else []
        body = load_body_of(folder)
        self.body_sha256 = body.sha256
        self.world = open_world(world, body=body, mocap=mocap)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        domain, first, count = str(batch["domain"][0]), int(batch["first"][0]), int(batch["count"][0])
        rows, truths = [], []
        for index in range(first, first + count):
            sample = self.world.render(domain, index)  # type: ignore[arg-type]
            sample_id = f"open_world/{domain}/{self.settings.seed}-{index:07d}/0"
            rows.append(sample_row(sample, domain=domain, index=index, sample_id=sample_id))
            truths.append(truth_row(sample, sample_id))
        name = f"part-{first // SHARD_ROWS:05d}.parquet"
        truth = tables.rows_to_table(truths, TRUTH_SCHEMA)
        storage.write_parquet(truth, storage.join(self.folder, TRUTH, domain, name))
        samples = tables.samples_table(rows, BODY33, body_sha256=self.body_sha256)
        storage.write_parquet(samples, storage.join(self.folder, domain, name))
        return {"domain": np.array([domain]), "rows": np.array([count])}


def sample_row(sample: Sample, *, domain: str, index: int, sample_id: str) -> dict[str, Any]:
    """What training and annotation may see of a sample: 3D only where the domain has it."""
    row: dict[str, Any] = {
        "sample_id": sample_id,
        "dataset": "open_world",
        "split": domain,
        "image_id": sample_id.split("/")[2],
        "person_id": "0",
        "frame": index,
        "image": sample.jpeg(),
        "image_size": np.array(sample.image.shape[1::-1], np.int32),
        "crop_to_image": np.array([[1.0, 0, 0], [0, 1.0, 0]]),
        "bbox_xywh_px": sample.bbox_xywh_px,
        "keypoints_2d_px": sample.keypoints_2d_px,
        "smpl_valid": False,
        "supervision": SUPERVISION[domain],
    }
    if SUPERVISION[domain] not in ("mocap", "itw_3d"):
        hidden = sample.keypoints_2d_px[:, 2:] == 0  # as in COCO: what nobody can see, nobody has labelled
        return row | {"keypoints_2d_px": np.where(hidden, np.float32(0), sample.keypoints_2d_px)}
    return row | {
        "keypoints_3d_m": sample.keypoints_3d_m,
        "smpl_global_orient": sample.global_orient,
        "smpl_body_pose": sample.body_pose,
        "smpl_betas": sample.betas,
        "smpl_transl_m": sample.transl_m,
        "smpl_valid": True,
        "camera": {
            "focal_px": sample.focal_px,
            "princpt_px": sample.princpt_px,
            "rotation": np.eye(3, dtype=np.float32),
            "translation_m": np.zeros(3, np.float32),
        },
    }


def truth_row(sample: Sample, sample_id: str) -> dict[str, Any]:
    """The whole truth, for scoring only."""
    return {
        "sample_id": sample_id,
        "sample_key": tables.sample_key(sample_id),
        "activity": sample.activity,
        "global_orient": sample.global_orient,
        "body_pose": sample.body_pose,
        "betas": sample.betas,
        "transl_m": sample.transl_m,
        "focal_px": sample.focal_px,
        "princpt_px": sample.princpt_px,
        "keypoints_3d_m": sample.keypoints_3d_m,
    }


SHEET_BYTES = 600_000


def write_sheets(folder: str | Path, *, world: World, body: str | Path) -> None:
    """Contact sheets of the domains, of their keypoints, and of the poses."""
    clips = gather_clips(bvh_dir=world.bvh, amass_dir=world.amass)
    drawn = open_world(world, body=load_body(body), mocap=clips)
    for name, image in (
        ("open_world", domain_sheet(drawn, cell_px=128)),
        ("open_world_truth", domain_sheet(drawn, cell_px=128, truth=True)),
        ("poses", pose_sheet(drawn, cell_px=128)),
    ):
        storage.write_bytes(storage.join(str(folder), f"{name}.png"), png(image, most_bytes=SHEET_BYTES))
