"""Estimators g learn from labels, whatever network they are, and from what they are told to start from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.train_estimator import Hmr, Job, Lixel, Pose2Pose, main
from mesh_lib.nets.annotator import Annotator
from mesh_lib.nets.estimators import Mesher, View
from mesh_lib.nets.hmr import HmrConfig, HmrEstimator
from mesh_lib.nets.lixel import I2LMeshNet, LixelConfig
from mesh_lib.nets.lixel_heads import HeadConfig
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from pipelines import annotators, estimators, runs, storage
from pipelines.bodies import load_body_of
from pipelines.train_estimator import (
    HmrTraining,
    LixelTraining,
    Pose2PoseTraining,
    open_wild,
    starting_network,
    trained_part,
)
from pipelines.windows import StreamConfig

pytestmark = pytest.mark.ray
SHORT: dict[str, Any] = {
    "batch_size": 8, "epochs": 1, "samples_per_epoch": 16, "stream": StreamConfig(readers=1), "retries": 0,
    "threads": 1,
}  # fmt: skip
CROP: dict[str, Any] = {"backbone": 18, "input_width": 64, "input_height": 64}
POSE2POSE = Pose2PoseTraining(model=Pose2PoseConfig(**CROP, pose_head="rot6d"), **SHORT)
HMR = HmrTraining(model=HmrConfig(**CROP, width=64), **SHORT)
LIXEL = LixelTraining(model=LixelConfig(**CROP, depth_bins=16, head=HeadConfig(channels=16)), **SHORT)


def parts(world: Path, labels: str, out: Path) -> dict[str, Any]:
    return {
        "strong": (f"{world}/studio",), "weak": (f"{world}/street",), "labels": (labels,), "out": str(out),
        "body": f"{world}/body.npz",
    }  # fmt: skip


@pytest.fixture(scope="module")
def first_stage(tiny_world: Path, tiny_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an I2L-MeshNet's first stage."""
    out = tmp_path_factory.mktemp("g") / "lixel"
    main(Lixel(**parts(tiny_world, str(tiny_labels), out), validate=f"{tiny_world}/street3d", training=LIXEL))
    return out


def check(out: Path, kind: type, job: Job) -> None:
    network = estimators.load_estimator(str(out))
    assert isinstance(network, kind) and not network.training
    record = runs.load_run(out, job="train_estimator")
    assert record["result"]["unlabelled"] == {} and record["settings"]["labels"] == list(job.labels)
    start = annotators.read_weights(str(out / "_start.safetensors"))
    assert any(not torch.equal(value, start[name]) for name, value in network.state_dict().items()), "it has learned"
    mesher = Mesher(network, load_body_of(str(out)))
    view = View(
        affine=torch.eye(2, 3)[None], focal_px=torch.tensor([[60.0, 60.0]]), princpt_px=torch.tensor([[32.0, 32.0]]),
        root_depth_m=torch.tensor([3.0]),
    )  # fmt: skip
    bodies = mesher(torch.rand(1, 3, 64, 64), view)
    assert bodies.vertices_m.shape == (1, len(mesher.layer.v_template), 3) and bodies.vertices_m.isfinite().all()


def test_pose2pose_learns_from_labels_and_labels_in_its_turn(
    tiny_world: Path, tiny_labels: Path, tmp_path: Path
) -> None:
    job = Pose2Pose(**parts(tiny_world, str(tiny_labels), tmp_path / "g"), training=POSE2POSE)
    main(job)
    check(tmp_path / "g", Annotator, job)
    assert isinstance(annotators.load_annotator(str(tmp_path / "g")), Annotator), "annotate takes it too"
    before = (tmp_path / "g" / "run.json").read_bytes()
    main(job)
    assert (tmp_path / "g" / "run.json").read_bytes() == before, "the same command finds it done"
    with pytest.raises(ValueError, match="labels"):
        main(dataclasses.replace(job, labels=("none",)))


def test_hmr_learns_from_labels(tiny_world: Path, tiny_labels: Path, tmp_path: Path) -> None:
    job = Hmr(**parts(tiny_world, str(tiny_labels), tmp_path / "g"), training=HMR)
    main(job)
    check(tmp_path / "g", HmrEstimator, job)
    with pytest.raises(ValueError, match=r"is of HmrConfig: annotators are Pose2Pose's"):
        annotators.load_annotator(str(tmp_path / "g"))


def test_i2l_meshnet_learns_from_labels_then_its_parameters_alone(
    tiny_world: Path, tiny_labels: Path, first_stage: Path, tmp_path: Path
) -> None:
    job = Lixel(**parts(tiny_world, str(tiny_labels), first_stage), training=LIXEL)
    check(first_stage, I2LMeshNet, job)
    history = storage.read_json(str(first_stage / "metrics.json"))
    assert history[-1]["val_pa_mpjpe_mm"] > 0 and {"loss_mesh_fit", "loss_joint_orig"} <= set(history[-1])
    param = dataclasses.replace(LIXEL.model, stage="param")
    with pytest.raises(ValueError, match="stage two learns from the first stage's network"):
        trained_part(dataclasses.replace(LIXEL, model=param), load_body_of(str(first_stage)))
    second = dataclasses.replace(
        LIXEL, init="network", model=param, workers=2
    )  # what learns is run outside of DDP's call
    main(dataclasses.replace(job, out=str(tmp_path / "param"), weights=str(first_stage), training=second))
    before, after = (estimators.load_estimator(str(f)).state_dict() for f in (first_stage, tmp_path / "param"))
    moved = {name.partition(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"param_regressor"}
    assert "loss_pose_param" in storage.read_json(str(tmp_path / "param" / "metrics.json"))[-1]
    mesher = Mesher(estimators.load_estimator(str(tmp_path / "param")), load_body_of(str(first_stage)))
    assert not mesher.needs_camera


@pytest.mark.slow
def test_a_meshnet_that_sees_true_joints_trains_and_is_not_asked_without_them(
    tiny_world: Path, tiny_labels: Path, tmp_path: Path
) -> None:
    training = dataclasses.replace(LIXEL, model=dataclasses.replace(LIXEL.model, cascade="truth"))
    main(Lixel(**parts(tiny_world, str(tiny_labels), tmp_path / "g"), training=training))
    with pytest.raises(ValueError, match="cannot be used on pictures alone"):
        Mesher(estimators.load_estimator(str(tmp_path / "g")), load_body_of(str(tmp_path / "g")))


def test_g_starts_from_f_itself_or_from_its_backbone(tiny_annotator: Path, tiny_world: Path) -> None:
    f, body = annotators.load_annotator(str(tiny_annotator)), load_body_of(str(tiny_annotator))
    same = dataclasses.replace(POSE2POSE, init="network", model=f.config)
    tuned = starting_network(same, str(tiny_annotator), body=body, prior=f.vposer)
    for name, value in f.state_dict().items():
        assert torch.equal(tuned.state_dict()[name], value), name
    lixel = dataclasses.replace(LIXEL, init="pose3d")
    network = starting_network(lixel, str(tiny_annotator), body=body, prior=None)
    assert isinstance(network, I2LMeshNet)
    for part in (network.pose_backbone, network.mesh_backbone):
        assert torch.equal(part.layer4[1].conv2.weight, f.regressor.backbone.layer4[1].conv2.weight)  # pyright: ignore
    with pytest.raises(ValueError, match="init network needs --weights"):
        starting_network(same, None, body=body, prior=f.vposer)
    with pytest.raises(ValueError, match=r"another architecture|no whole network of this kind"):
        starting_network(dataclasses.replace(HMR, init="network"), str(tiny_annotator), body=body, prior=None)


def test_published_weights_start_their_networks(tiny_world: Path, tmp_path: Path) -> None:
    """Under the names of the releases: SPIN's, I2L-MeshNet's."""
    body = load_body_of(str(tiny_world))
    for training, strip in ((HMR, "regressor."), (LIXEL, "")):
        there = starting_network(training, None, body=body, prior=None)
        with torch.no_grad():
            for parameter in there.parameters():
                parameter.add_(1.0)
        names = {
            f"module.{name.removeprefix(strip).removeprefix('backbone.')}": value
            for name, value in there.state_dict().items()
        }
        torch.save({"network": names}, tmp_path / "published.pth")
        found = starting_network(
            dataclasses.replace(training, init="network"), str(tmp_path / "published.pth"), body=body, prior=None
        )
        for name, value in there.state_dict().items():
            assert torch.equal(found.state_dict()[name], value), name


def test_labels_are_one_set_for_each_folder_and_speak_of_the_same_body(
    tiny_world: Path, tiny_labels: Path, tmp_path: Path
) -> None:
    street = f"{tiny_world}/street"
    body = f"{tiny_world}/body.npz"
    with pytest.raises(ValueError, match=r"1 sets of labels for 2 folders[\s\S]*`?none"):
        open_wild([street, street], [str(tiny_labels)], unlabelled="drop", body=body)
    (flat,), dropped = open_wild([street], ["none"], unlabelled="drop", body=body)
    assert flat.labels is None and not dropped
    other = tmp_path / "other.npz"
    with np.load(body) as arrays:
        np.savez(other, **{**arrays, "v_template": arrays["v_template"] * 1.01})
    with pytest.raises(ValueError, match=r"the SMPL parameters in .*labels are of another body than --body"):
        open_wild([street], [str(tiny_labels)], unlabelled="drop", body=str(other))
    with pytest.raises(ValueError, match="no use for --prior"):
        main(Hmr(strong=(street,), out=str(tmp_path / "g"), prior="x", body=body, training=HMR))
