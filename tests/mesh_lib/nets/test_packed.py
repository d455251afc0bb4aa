"""Packed backbones answer as those they are made of."""

from __future__ import annotations

import pytest
import torch

from mesh_lib.body.files import Body
from mesh_lib.nets.annotator import Annotator
from mesh_lib.nets.lean import folded
from mesh_lib.nets.packed import PackedTrunk, can_pack
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.resnet import Depth, ResNet


@pytest.mark.parametrize("depth", [18, 50], ids=["basic blocks", "bottlenecks"])
def test_a_packed_backbone_answers_the_same_at_every_size(depth: Depth) -> None:
    """One after the other, since weights are laid out anew for each."""
    torch.manual_seed(0)
    net = ResNet(depth)
    with torch.no_grad():
        net(torch.rand(4, 3, 64, 64))  # running statistics that are not trivial
        net.eval()
        assert can_pack(net)
        packed = PackedTrunk(folded(net))
        for size in ((1, 3, 64, 96), (3, 3, 64, 96), (16, 3, 32, 32), (1, 3, 64, 96)):
            image = torch.rand(size)
            expected, found = net(image), packed(image)
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("rows", [1, 8, 13])
def test_where_in_a_batch_a_row_lies_does_not_move_its_last_bits(body: Body, rows: int) -> None:
    """Kills and block sizes move rows about."""
    torch.manual_seed(0)
    net = Annotator(
        Pose2PoseConfig(backbone=18, input_width=64, input_height=64, pose_head="rot6d"), body=body, vposer=None
    )
    quick = net.eval().for_inference()
    image, order = torch.rand(rows, 3, 64, 64), torch.randperm(rows)
    with torch.inference_mode():
        there, here, slow = quick(image[order]), quick(image), net(image)
    for name in ("rotmats", "betas", "joints_m", "joints_crop_px"):
        assert torch.equal(getattr(there, name), getattr(here, name)[order]), name
        torch.testing.assert_close(getattr(here, name), getattr(slow, name), rtol=1e-3, atol=1e-3)


def test_what_is_not_in_single_precision_on_a_cpu_is_not_packed() -> None:
    assert not can_pack(ResNet(18).double()) and not can_pack(ResNet(18).to("meta"))


def test_batch_norms_must_be_folded_first() -> None:
    with pytest.raises(AssertionError, match="folded"):
        PackedTrunk(ResNet(18).eval())
