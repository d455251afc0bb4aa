"""Each network for g learns 64 people of the open world by heart: data, targets, losses and scores fit together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from jobs import evaluate
from jobs.synthesize import Job, main
from jobs.train_estimator import Hmr, Lixel, Pose2Pose
from jobs.train_estimator import main as train
from mesh_lib.losses.lixel import LixelLossConfig
from mesh_lib.losses.pose2pose import Pose2PoseLossConfig
from mesh_lib.nets.hmr import HmrConfig
from mesh_lib.nets.lixel import LixelConfig
from mesh_lib.nets.lixel_heads import HeadConfig
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from pipelines import storage
from pipelines.synthesize import World
from pipelines.train_estimator import HmrTraining, LixelTraining, Pose2PoseTraining
from pipelines.windows import StreamConfig

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PEOPLE = 64
ROUNDS: dict[str, Any] = {
    "stream": StreamConfig(readers=1, augment=False), "batch_size": 16, "weak_share": 0.0, "schedule": "linear",
    "learning_rate": 5e-4, "epochs": 10, "samples_per_epoch": PEOPLE * 60, "precision": "float32",
}  # fmt: skip
LONGER: dict[str, Any] = ROUNDS | {"learning_rate": 3e-3, "epochs": 15}
NETWORKS: dict[str, Any] = {
    "pose2pose": (Pose2Pose, Pose2PoseTraining(
        model=Pose2PoseConfig(backbone=18, input_width=64, input_height=64, pose_head="rot6d"),
        loss=Pose2PoseLossConfig(pose_space="rotmat", normalise_by="valid"), **ROUNDS,
    )),
    "hmr": (Hmr, HmrTraining(
        model=HmrConfig(backbone=18, input_width=64, input_height=64, dropout=0.0), **ROUNDS,
    )),
    "lixel": (Lixel, LixelTraining(
        model=LixelConfig(
            backbone=18, input_width=64, input_height=64, depth_bins=16, sigma=1.0,
            head=HeadConfig(channels=128, recompute=False),
        ),
        loss=LixelLossConfig(normalise_by="valid", check_fits=False), **LONGER,
    )),
}  # fmt: skip


@pytest.fixture(scope="module")
def people(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("heart") / "world"
    main(Job(out=str(out), world=World(studio=0, street=0, street3d=PEOPLE, street_test=0, size=160), body="low"))
    return out


NOT_YET = pytest.mark.xfail(strict=True, raises=AssertionError, reason="22 mm after these steps, and still falling")


@pytest.mark.parametrize("network", ["pose2pose", "hmr", pytest.param("lixel", marks=NOT_YET)])
def test_each_network_learns_64_people_by_heart(people: Path, tmp_path: Path, network: str) -> None:
    """To less than 15 mm of PA-MPJPE, by the jobs."""
    job, training = NETWORKS[network]
    train(job(
        strong=(f"{people}/street3d",), out=str(tmp_path / "g"), body=f"{people}/body.npz", training=training,
    ))  # fmt: skip
    assert score(people, tmp_path / "g", tmp_path / "e") < 15


def score(people: Path, network: Path, out: Path) -> float:
    stage = evaluate.EvaluateStage(resamples=10)
    evaluate.main(
        evaluate.Network(
            network=str(network), samples=(f"{people}/street3d",), protocol="open_world", out=str(out), stage=stage
        )
    )
    return storage.read_json(str(out / "scores.json"))["columns"]["pa_mpjpe_mm"]["mean"]


def test_a_compiled_training_is_the_same_training(people: Path, tmp_path: Path) -> None:
    """torch.compile changes how long steps take, not what they learn."""
    job, training = NETWORKS["pose2pose"]
    losses = []
    for compiled in (False, True):
        short = dataclasses.replace(training, compile=compiled, epochs=1, samples_per_epoch=128)
        out = str(tmp_path / f"g-{compiled}")
        train(job(strong=(f"{people}/street3d",), out=out, body=f"{people}/body.npz", training=short))
        losses.append(storage.read_json(f"{out}/metrics.json")[-1]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
