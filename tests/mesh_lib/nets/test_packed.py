"""Packed backbones answer as those they are made of."""

from __future__ import annotations

import pytest
import torch

from mesh_lib.nets.lean import folded
from mesh_lib.nets.packed import PackedTrunk, can_pack
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


def test_what_is_not_in_single_precision_on_a_cpu_is_not_packed() -> None:
    assert not can_pack(ResNet(18).double()) and not can_pack(ResNet(18).to("meta"))


def test_batch_norms_must_be_folded_first() -> None:
    with pytest.raises(AssertionError, match="folded"):
        PackedTrunk(ResNet(18).eval())
