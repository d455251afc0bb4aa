"""ResNet carries torchvision's names, shapes and parameter counts, so that published weights load."""

from __future__ import annotations

import pytest
import torch

from mesh_lib.nets.resnet import Depth, ResNet

TRUNK = {18: 11_176_512, 34: 21_284_672, 50: 23_508_032, 101: 42_500_160, 152: 58_143_808}
"""Published parameter counts less the classifier's (512 or 2048 × 1000 + 1000)."""


@pytest.mark.parametrize("depth", TRUNK)
def test_parameter_counts_are_the_published_ones(depth: Depth) -> None:
    assert sum(p.numel() for p in ResNet(depth).parameters()) == TRUNK[depth]


def test_names_are_torchvisions() -> None:
    names = set(ResNet(50).state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.downsample.0.weight", "layer4.2.bn3.bias"} <= names
    assert not any(name.startswith("fc") for name in names)
    assert set(ResNet(18).state_dict()) > {"layer4.1.conv2.weight", "layer2.0.downsample.1.running_var"}


@pytest.mark.parametrize(("depth", "channels"), [(18, 512), (50, 2048)])
def test_features_have_a_32nd_of_the_size(depth: Depth, channels: int) -> None:
    with torch.no_grad():
        assert ResNet(depth).eval()(torch.zeros(1, 3, 256, 192)).shape == (1, channels, 8, 6)
