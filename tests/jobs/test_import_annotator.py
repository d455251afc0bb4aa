"""Published networks become annotators that the other jobs take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jobs.import_annotator import Job, main
from mesh_lib.nets.pose2pose import Pose2Pose, Pose2PoseConfig
from pipelines import annotators
from pipelines.bodies import cached_body

PUBLISHED = {
    "position": "position_net.conv.0", "reduce": "rotation_net.conv", "root": "rotation_net.root_pose_out.0",
    "pose": "rotation_net.pose_out.0", "shape": "rotation_net.shape_out.0", "camera": "rotation_net.cam_out.0",
}  # fmt: skip
SMALL = Pose2PoseConfig(backbone=34, input_width=96, input_height=128, pose_head="rot6d")


def published(network: Pose2Pose) -> dict[str, Tensor]:
    """Its tensors under the released names, as data-parallel training saves them."""
    named = {}
    for name, value in network.state_dict().items():
        part, _, leaf = name.partition(".")
        named[f"module.{PUBLISHED.get(part, part)}.{leaf}"] = value
    return named


def test_a_published_network_labels_as_it_would_have(tmp_path: Path) -> None:
    theirs = Pose2Pose(SMALL).eval()
    torch.save(
        {"epoch": 6, "network": published(theirs) | {"module.smpl.th_betas": torch.zeros(1)}}, tmp_path / "s.tar"
    )
    (tmp_path / "s.tar").rename(tmp_path / "snapshot_6.pth.tar")
    body = cached_body("low")
    main(Job(weights=str(tmp_path / "snapshot_6.pth.tar"), out=str(tmp_path / "f"), body=str(body),
             input_width=96, input_height=128))  # fmt: skip
    f = annotators.load_annotator(str(tmp_path / "f"))
    assert f.config == SMALL and f.vposer is None
    image = torch.rand(2, 3, 128, 96)
    with torch.no_grad():
        torch.testing.assert_close(f.regressor(image).pose, theirs(image).pose)
        assert f(image).z.shape == (2, 0)
    record = json.loads((tmp_path / "f" / "import.json").read_text())
    assert record["unknown"] == ["smpl.th_betas"] and not record["absent"] and "pose.weight" in record["matched"]


def test_what_is_not_whole_or_not_of_the_family_is_named(tmp_path: Path) -> None:
    state = published(Pose2Pose(SMALL))

    def take(broken: dict[str, Tensor], name: str) -> None:
        torch.save(broken, tmp_path / f"{name}.pth")
        main(Job(weights=str(tmp_path / f"{name}.pth"), out=str(tmp_path / name), body=str(cached_body("low"))))

    with pytest.raises(ValueError, match=r"no whole Pose2Pose[\s\S]*shape.weight"):
        take({n: v for n, v in state.items() if "shape_out" not in n}, "shapeless")
    with pytest.raises(ValueError, match="no pose head"):
        take({n: v for n, v in state.items() if "pose_out" not in n}, "headless")
    with pytest.raises(ValueError, match="no known ResNet"):
        take({n: v for n, v in state.items() if "layer3.1" not in n}, "gap")
    codes = Pose2Pose(Pose2PoseConfig(backbone=34, input_width=96, input_height=128))
    with pytest.raises(ValueError, match="pass --prior"):
        take(published(codes), "codes")
