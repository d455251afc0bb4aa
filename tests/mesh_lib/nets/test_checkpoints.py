"""Published checkpoints give their tensors, run nothing, and say what fitted."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mesh_lib.nets.checkpoints import fit_state, read_state, rename_backbone, rename_pose2pose
from mesh_lib.nets.pose2pose import Pose2Pose, Pose2PoseConfig
from mesh_lib.nets.resnet import ResNet


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_come_out_and_nothing_runs(zipped: bool, tmp_path: Path) -> None:
    """A Lightning-like file: settings objects, an optimizer's state, and code that would make a folder."""
    content = {
        "state_dict": {"module.a": torch.arange(3.0), "module.b": nn.Parameter(torch.ones(2, 2, dtype=torch.float16))},
        "hyper_parameters": argparse.Namespace(lr=0.1), "callbacks": {argparse.Namespace: [Bomb(tmp_path / "made")]},
        "epoch": 13,
    }  # fmt: skip
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    state = read_state(tmp_path / "x.ckpt")
    assert set(state) == {"a", "b"} and state["a"].tolist() == [0, 1, 2] and state["b"].dtype == torch.float16
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("wrap", [None, "state_dict", "network", "model"])
def test_the_state_is_found_where_authors_put_it(wrap: str | None, tmp_path: Path) -> None:
    state = {"conv1.weight": torch.zeros(2)}
    torch.save(state if wrap is None else {wrap: state, "epoch": 1}, tmp_path / "x.pth.tar")
    assert set(read_state(tmp_path / "x.pth.tar")) == {"conv1.weight"}
    save_file(state, tmp_path / "x.safetensors")
    assert set(read_state(tmp_path / "x.safetensors")) == {"conv1.weight"}


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint at"):
        read_state(tmp_path / "gone.pth")
    (tmp_path / "text.pth").write_text("<html>quota exceeded</html>")
    with pytest.raises(ValueError, match="damaged"):
        read_state(tmp_path / "text.pth")
    torch.save({"a": torch.zeros(100)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:300])
    with pytest.raises(ValueError, match="damaged"):
        read_state(tmp_path / "cut.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="no named tensors"):
        read_state(tmp_path / "list.pth")


@pytest.mark.parametrize("prefix", ["", "backbone.", "backbone.resnet.", "regressor.backbone."])
def test_a_published_backbone_finds_its_place(prefix: str) -> None:
    theirs, ours = ResNet(18), ResNet(18)
    state = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    fit = fit_state(ours, state | {"fc.weight": torch.zeros(3), "deconv_layers.0.weight": torch.zeros(3)},
                    rename=rename_backbone)  # fmt: skip
    assert fit.unknown == ("fc.weight", "deconv_layers.0.weight") and not fit.absent
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))
    assert "2 left over" in str(fit)


def test_a_released_pose2pose_fills_ours_whole() -> None:
    """Its names and shapes (ResNet-50, 25 joints, 6D rotations), as the authors' modules make them."""
    linear = {
        "root_pose_out": (6, 25 * 515),
        "pose_out": (126, 25 * 515),
        "shape_out": (10, 2048),
        "cam_out": (3, 2048),
    }
    state = {f"backbone.{name}": torch.full_like(value, 0.5) for name, value in ResNet(50).state_dict().items()}
    for name, shape in linear.items():
        state[f"rotation_net.{name}.0.weight"], state[f"rotation_net.{name}.0.bias"] = (
            torch.ones(shape),
            torch.ones(shape[0]),
        )
    for name, shape in (("position_net.conv.0", (200, 2048, 1, 1)), ("rotation_net.conv.0", (512, 2048, 1, 1))):
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.ones(shape), torch.ones(shape[0])
    for part in ("weight", "bias", "running_mean", "running_var"):
        state[f"rotation_net.conv.1.{part}"] = torch.ones(512)
    ours = Pose2Pose(Pose2PoseConfig(pose_head="rot6d"))
    fit = fit_state(ours, state, rename=rename_pose2pose)
    assert not fit.absent and not fit.unknown
    assert all(
        bool((value == (0.5 if name.startswith("backbone") else 1)).all()) for name, value in ours.named_parameters()
    )


def test_another_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"another architecture:[\s\S]*layer1"):
        fit_state(ResNet(50), ResNet(18).state_dict(), rename=rename_backbone)
    with pytest.raises(ValueError, match="another network"):
        fit_state(ResNet(18), {"word_embedding.weight": torch.zeros(3)}, rename=rename_backbone)
