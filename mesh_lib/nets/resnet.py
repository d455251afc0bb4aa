"""ResNet backbones (He et al., 2016) under torchvision's parameter names, so that its published weights load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

Depth = Literal[18, 34, 50, 101, 152]
BLOCKS: dict[Depth, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


STRIDE = 32
"""Pixels of the crop for one feature."""


@dataclass(frozen=True, kw_only=True)
class CropNetConfig:
    """What every network over a person's crop has: a backbone, and the crop's size."""

    backbone: Depth = 50
    """ResNet depth."""
    input_width: int = 192
    """Crop width in pixels, a multiple of 32."""
    input_height: int = 256
    """Crop height in pixels, a multiple of 32."""

    def __post_init__(self) -> None:
        if self.input_width % STRIDE or self.input_height % STRIDE or min(self.input_size) < STRIDE:
            raise ValueError(f"crop {self.input_width}x{self.input_height}: both sides must be multiples of {STRIDE}")

    @property
    def input_size(self) -> tuple[int, int]:
        """(width, height) of the crop."""
        return self.input_width, self.input_height


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y))
        return (y + (x if self.downsample is None else self.downsample(x))).relu_()


class Bottleneck(nn.Module):
    """1×1, 3×3 (which carries the stride, as in torchvision), 1×1, and a shortcut (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, width * 4, 1), nn.BatchNorm2d(width * 4)
        self.downsample = _shortcut(inputs, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()
        y = self.bn3(self.conv3(y))
        return (y + (x if self.downsample is None else self.downsample(x))).relu_()


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """Feature extractor without pooling and classifier: (B, 3, H, W) → (B, channels, H/32, W/32)."""

    def __init__(self, depth: Depth) -> None:
        super().__init__()
        block = BasicBlock if depth in (18, 34) else Bottleneck
        self.channels = 512 * block.expansion
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, count in enumerate(BLOCKS[depth]):
            width = 64 * 2**stage
            layers = []
            for i in range(count):
                layers.append(block(inputs, width, 2 if i == 0 and stage > 0 else 1))
                inputs = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels h32 w32"]:
        x = self.maxpool(self.bn1(self.conv1(x)).relu_())
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x
