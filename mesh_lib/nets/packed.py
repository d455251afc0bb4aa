"""Residual networks for inference on CPUs: weights laid out once as oneDNN reads them, sums and ReLUs in convolutions.

Torch lays weights out anew at every call, and passes over memory for each ReLU and each sum; at batch 1 that is half of
a ResNet-50's time. The operators are those that torch.compile emits for CPUs, so they take no gradients, and where a
build of torch lacks them (`can_pack`) networks go on as they are. Answers differ by rounding alone.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mesh_lib.nets.lean import folded
from mesh_lib.nets.resnet import ResNet

Net = TypeVar("Net", bound=nn.Module)


def can_pack(net: nn.Module) -> bool:
    """Whether the network lies on a CPU, in single precision, and torch has oneDNN's fused convolutions."""
    found = hasattr(torch.ops.mkldnn, "_convolution_pointwise") and torch.backends.mkldnn.is_available()
    return found and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in net.parameters())


class PackedConvolution(nn.Module):
    """A convolution that may end in a ReLU, or in a sum and a ReLU."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer, nn.Conv2d)
        self.layout = [list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups]
        self.weight = layer.weight.detach().contiguous().to_mkldnn()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.size: list[int] = []

    def forward(self, x: Tensor, *, relu: bool = True, plus: Tensor | None = None) -> Tensor:
        if (size := list(x.shape)) != self.size:  # the best layout is one for a size
            self.size, reorder = size, torch.ops.aten.mkldnn_reorder_conv2d_weight
            self.weight = reorder(self.weight, *self.layout, size)
        if plus is None:
            last = "relu" if relu else "none"
            return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.layout, last, [], "")
        add = torch.ops.mkldnn._convolution_pointwise.binary
        return add(x, plus, self.weight, self.bias, *self.layout, "add", 1.0, "relu", [], None)


class PackedBlock(nn.Module):
    """A BasicBlock or Bottleneck without batch norms."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        layers = [layer for name, layer in block.named_children() if name.startswith("conv")]
        self.layers = nn.ModuleList(map(PackedConvolution, layers))
        shortcut = getattr(block, "downsample", None)
        self.shortcut = PackedConvolution(shortcut[0]) if isinstance(shortcut, nn.Sequential) else None

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers[:-1]:
            y = layer(y)
        return self.layers[-1](y, plus=x if self.shortcut is None else self.shortcut(x, relu=False))


class PackedTrunk(nn.Module):
    """Stem and residual stages of a ResNet whose batch norms are folded (lean.folded), or one of the two."""

    def __init__(self, net: ResNet) -> None:
        super().__init__()
        children = dict(net.named_children())
        assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()), "batch norms are not folded"
        stem = children.get("conv1")
        self.stem = PackedConvolution(stem) if isinstance(stem, nn.Conv2d) else None
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages = (children[f"layer{i}"] for i in range(1, 5) if f"layer{i}" in children)
        self.blocks = nn.Sequential(*(PackedBlock(block) for stage in stages for block in stage.children()))

    def early(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 64 h4 w4"]:
        assert self.stem is not None
        return self.pool(self.stem(image.contiguous(memory_format=torch.channels_last)))

    def late(self, x: Float[Tensor, "batch 64 h4 w4"]) -> Float[Tensor, "batch channels h32 w32"]:
        return self.blocks(x.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels h32 w32"]:
        return self.late(self.early(x))


class SteadyLinear(nn.Module):
    """A linear layer that answers a row alike wherever in a batch it lies. Small products are summed in another order
    at a batch's end; in double precision that is lost in rounding, and costs next to nothing."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight.detach().double()
        self.bias = None if layer.bias is None else layer.bias.detach().double()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.double(), self.weight, self.bias).to(x.dtype)


def ready(regressor: Net) -> Net:
    """A copy for inference: batch norms folded into weights and, where that can be, its `backbone` packed and linear
    layers steady.

    It cannot learn, nor be saved.
    """
    quick = folded(regressor)
    backbone = getattr(quick, "backbone", None)
    if isinstance(backbone, ResNet) and can_pack(quick):
        setattr(quick, "backbone", PackedTrunk(backbone))  # noqa: B010
        for module in list(quick.modules()):
            for name, layer in module.named_children():
                if isinstance(layer, nn.Linear):
                    setattr(module, name, SteadyLinear(layer))
    return quick
