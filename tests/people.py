"""Samples and labels of made-up people: for tests of formats that need neither a network nor a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mesh_lib import tables
from mesh_lib.body.joints import BODY33, COCO17
from pipelines import storage
from tests.mesh_lib.body.conftest import made_up_arrays

FOCAL_PX = 4000.0


@dataclass(frozen=True)
class Someone:
    image_id: str
    uri: str | None = None
    person_id: str = "0"
    x: float = 200.0
    """Of their box's centre."""
    dataset: str = "made"
    image: bytes | None = None

    @property
    def sample_id(self) -> str:
        return f"{self.dataset}/train/{self.image_id}/{self.person_id}"

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "sample_id": self.sample_id, "dataset": self.dataset, "split": "train", "image_id": self.image_id,
            "person_id": self.person_id,
        }  # fmt: skip


def write_samples(folder: Path, people: Sequence[Someone], *, files: int = 2) -> str:
    """The folder, with samples of 100 px boxes at y = 150 in several files."""
    rows = [
        {
            **one.identity,
            "image_uri": one.uri,
            "image": one.image,
            "image_size": [640, 480],
            "crop_to_image": np.eye(2, 3),
            "bbox_xywh_px": [one.x - 50, 100, 100, 100],
            "keypoints_2d_px": np.concatenate([np.tile([one.x, 150.0], (17, 1)), np.ones((17, 1))], axis=1),
        }
        for one in people
    ]
    for i in range(min(files, len(people))):
        table = tables.samples_table(rows[i::files], COCO17)
        storage.write_parquet(table, f"{folder}/part-{i}.parquet")
    return str(folder)


def write_labels(run: Path, people: Sequence[Someone], *, vertices: int = 260, files: int = 2) -> str:
    """A run folder that holds a label of each, of a body with so many vertices."""
    rng = np.random.default_rng(1)
    rows = []
    for one in people:
        transl_m = np.array([0.0, 0.0, 40.0])
        joints_m = rng.normal(0, 0.3, (len(BODY33), 3)) + transl_m
        princpt = np.array([one.x, 150.0])
        rows.append(
            {
                **one.identity,
                "sample_key": tables.sample_key(one.sample_id),
                "status": tables.OK,
                "global_orient": rng.normal(0, 0.3, 3),
                "body_pose": rng.normal(0, 0.3, 69),
                "betas": rng.normal(0, 1, 10),
                "transl_m": transl_m,
                "focal_px": [FOCAL_PX, FOCAL_PX],
                "princpt_px": princpt,
                "joints_3d_m": joints_m,
                "joints_2d_px": joints_m[:, :2] / joints_m[:, 2:] * FOCAL_PX + princpt,
                "flags": [],
            }
        )
    for i in range(min(files, len(people))):
        table = tables.rows_to_table(rows[i::files], tables.PSEUDO_GT)
        storage.write_parquet(table.drop_columns(["status"]), f"{run}/pseudo_gt/status=ok/part-{i}.parquet")
    arrays: dict[str, Any] = made_up_arrays(vertices=vertices)
    del arrays["posedirs"]
    np.savez(run / "body.npz", **arrays)
    return str(run)
