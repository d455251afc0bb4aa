"""Published networks become estimators that the other jobs take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jobs.import_estimator import Job, main
from mesh_lib.body.files import load_body
from mesh_lib.nets.hmr import Hmr, HmrConfig
from mesh_lib.nets.lixel import I2LMeshNet, LixelConfig
from mesh_lib.nets.lixel_heads import HeadConfig
from mesh_lib.nets.pose2pose import Pose2Pose, Pose2PoseConfig
from pipelines.bodies import cached_body
from pipelines.estimators import load_estimator
from tests.hands import right_hand

TINY: dict[str, Any] = {"backbone": 18, "input_width": 64, "input_height": 64}


def take(folder: Path, name: str, state: dict[str, Any], body: Path, **more: Any) -> Path:
    """Import a checkpoint of this state; its run folder."""
    torch.save(state, folder / f"{name}.pt")
    out = folder / name
    main(Job(weights=str(folder / f"{name}.pt"), out=str(out), body=str(body), input_side=64, **more))
    return out


def spin(network: Hmr) -> dict[str, Tensor]:
    """Its tensors as SPIN has them: the backbone's bare, and ImageNet's unused classifier."""
    state = {name.removeprefix("backbone."): value for name, value in network.state_dict().items()}
    return state | {"fc.weight": torch.zeros(1000, 512)}


def snapshot(network: I2LMeshNet) -> dict[str, Any]:
    """As the owners save it: in a data-parallel wrapper, with MeshNet's unused stem and the body's buffers."""
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    unused = {"module.mesh_backbone.conv1.weight": torch.zeros(64, 3, 7, 7), "module.human_model_layer.th_betas":
              torch.zeros(1, 10)}  # fmt: skip
    return {"epoch": 24, "network": state | unused, "optimizer": {"state": {}}}


def lixel(body: Path, **config: Any) -> I2LMeshNet:
    torch.manual_seed(1)
    head = HeadConfig(channels=8)
    return I2LMeshNet(LixelConfig(**TINY, depth_bins=16, head=head, **config), body=load_body(body)).eval()


def test_spin_answers_as_it_would_have(tmp_path: Path) -> None:
    theirs = Hmr(HmrConfig(**TINY, width=32)).eval()
    theirs.init_cam += 0.1
    out = take(tmp_path, "spin", {"model": spin(theirs)}, cached_body("low"))
    g, image = load_estimator(str(out)), torch.rand(2, 3, 64, 64)
    assert isinstance(g.config, HmrConfig) and (g.config.backbone, g.config.width) == (18, 32)
    with torch.no_grad():
        torch.testing.assert_close(g(image).rotmats, theirs(image).rotmats)
        torch.testing.assert_close(g(image).camera, theirs(image).camera)
    record = json.loads((out / "import.json").read_text())
    assert record["unknown"] == ["fc.weight"] and not record["absent"] and "decpose.weight" in record["matched"]
    assert json.loads((out / "run.json").read_text())["job"] == "import_estimator"


@pytest.mark.parametrize("stage", ["lixel", "param"])
def test_an_i2l_meshnet_of_hands_answers_as_it_would_have(tmp_path: Path, stage: Any) -> None:
    right_hand(tmp_path)
    theirs = lixel(tmp_path / "MANO_RIGHT.npz")
    out = take(tmp_path, "hands", snapshot(theirs), tmp_path / "MANO_RIGHT.npz", stage=stage)
    g, image = load_estimator(str(out)), torch.rand(2, 3, 64, 64)
    assert isinstance(g, I2LMeshNet)
    assert (g.config.box_m, g.config.depth_bins, g.config.head.channels, g.config.stage) == (0.3, 16, 8, stage)
    with torch.no_grad():
        answer = g(image)
        # The box's depth is a setting, not a weight: theirs was made with that of bodies.
        torch.testing.assert_close(answer.mesh, theirs(image).mesh)
        torch.testing.assert_close(g.parameters_from(answer).betas, theirs.parameters_from(theirs(image)).betas)
    record = json.loads((out / "import.json").read_text())
    assert set(record["unknown"]) == {"mesh_backbone.conv1.weight", "human_model_layer.th_betas"}


def test_an_i2l_meshnet_of_bodies_has_their_box_and_may_lack_stage_two(tmp_path: Path) -> None:
    body = cached_body("low")
    state = {n: v for n, v in lixel(body).state_dict().items() if not n.startswith("param_regressor.")}
    g = load_estimator(str(take(tmp_path, "first", state, body)))
    assert isinstance(g.config, LixelConfig) and g.config.box_m == 2.0
    with pytest.raises(ValueError, match=r"no whole network \(it lacks param_regressor"):
        take(tmp_path, "second", state, body, stage="param")


def test_what_is_not_whole_or_not_of_these_networks_is_named(tmp_path: Path) -> None:
    right_hand(tmp_path)
    hand, low = tmp_path / "MANO_RIGHT.npz", cached_body("low")
    state = lixel(hand).state_dict()
    with pytest.raises(ValueError, match=r"778 vertices, and --body has \d+[\s\S]*MANO 778"):
        take(tmp_path, "other", dict(state), low)
    with pytest.raises(ValueError, match=r"no whole network .*pose_net"):
        take(tmp_path, "part", {n: v for n, v in state.items() if not n.startswith("pose_net.")}, hand)
    with pytest.raises(ValueError, match=r"neither SPIN .* nor I2L-MeshNet[\s\S]*import_annotator"):
        take(tmp_path, "f", Pose2Pose(Pose2PoseConfig(**TINY, pose_head="rot6d")).state_dict(), low)
    theirs = spin(Hmr(HmrConfig(**TINY, width=32)))
    with pytest.raises(ValueError, match=r"no whole network .*decshape"):
        take(tmp_path, "shapeless", {n: v for n, v in theirs.items() if "decshape" not in n}, low)
    with pytest.raises(ValueError, match="leave --stage out"):
        take(tmp_path, "stage", theirs, low, stage="param")
