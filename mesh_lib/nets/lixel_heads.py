"""From features to coordinates: the lixel head of I2L-MeshNet (Moon and Lee, 2020), and those it is compared with.

Shapes for a 256×256 crop and ResNet-50: features 2048×8×8 (F_P or F_M), three deconvolutions to 256×64×64, and for each
point and axis a 1D heatmap of 64 bins. Every head answers in lixels of the full resolution (64 bins an axis), at
whatever resolution it works. Layer names of LixelHead are the release's.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mesh_lib.nets.lean import rerun

Target = Literal["lixel", "pixel_lixel", "voxel", "pixel_depth", "lixel_fc", "coordinates"]
FC_WIDTHS = {"coordinates": 4096, "lixel_fc": 1024}
"""The paper tells the networks' sizes alone (Table 1, in millions): these make 116.6 of its 117, and 81.3 of its 82."""
FEW_POSITIONS = 64
"""Up to so many positions a deconvolution is quicker as one matrix product: the weights dwarf the features."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What a head predicts, and how. The defaults are the published ones; the rest are the paper's ablations."""

    target: Target = "lixel"
    """Tables 1, 2 and 10: a 1D heatmap an axis (lixel); a 2D one and one for depth (pixel_lixel); one 3D heatmap
    (voxel); a 2D one and a map of depths (pixel_depth, 2.5D of Iqbal et al., 2018); 1D heatmaps by fully connected
    layers (lixel_fc); coordinates by fully connected layers (coordinates). Table 1's SMPL parameters: nets/hmr.py."""
    upsamplings: int = 3
    """Deconvolutions: the heatmaps have 8, 16, 32 or 64 bins an axis with 0, 1, 2 or 3 (Tables 2 and 10)."""
    marginalise: Literal["late", "early"] = "late"
    """When 2D becomes 1D: after the deconvolutions, or before them, which are 1D then, one stack an axis (Table 8)."""
    pooling: Literal["mean", "max", "weighted"] = "mean"
    """How 2D becomes 1D; "weighted" is a convolution whose kernel is a whole row or column (Table 9)."""
    channels: int = 256
    """Of the deconvolutions and of the depth branch."""
    fc_width: int | None = None
    """Hidden width of the fully connected targets; None is FC_WIDTHS'."""
    recompute: bool = True
    """In training, keep the inputs of stages and compute what is within them twice: the same numbers in less memory."""

    def __post_init__(self) -> None:
        if not 0 <= self.upsamplings <= 3:
            raise ValueError(f"{self.upsamplings} upsamplings: heatmaps have 8, 16, 32 or 64 bins with 0 to 3")
        if self.target != "lixel" and (self.marginalise, self.pooling) != ("late", "mean"):
            raise ValueError(f"a {self.target} head does not marginalise: early, max and weighted are choices of lixel")


Size = tuple[int, int, int]


def build_head(config: HeadConfig, *, inputs: int, points: int, bins: Size) -> nn.Module:
    """A module from (B, inputs, h, w) to (B, points, 3) lixels; `bins` is (width, height, depth) at full resolution."""
    match config.target:
        case "lixel":
            return LixelHead(config, inputs=inputs, points=points, bins=bins)
        case "pixel_lixel" | "pixel_depth":
            return PixelHead(config, inputs=inputs, points=points, bins=bins)
        case "voxel":
            return VoxelHead(config, inputs=inputs, points=points, bins=bins)
        case "lixel_fc" | "coordinates":
            return ConnectedHead(config, inputs=inputs, points=points, bins=bins)
        case _:
            assert_never(config.target)


def soft_argmax(logits: Float[Tensor, "*batch points bins"]) -> Float[Tensor, "*batch points"]:
    """Expected bin under the softmax over the last axis (Sun et al., 2018)."""
    return _expectation(logits.softmax(dim=-1))


class Lixels(nn.Sequential):
    """A 1×1 convolution to a 1D heatmap a point, and its expected bin."""

    def __init__(self, inputs: int, points: int) -> None:
        super().__init__(_normal(nn.Conv1d(inputs, points, 1)))

    def forward(self, features: Float[Tensor, "batch channels bins"]) -> Float[Tensor, "batch points"]:
        return soft_argmax(self[0](features).float())


class Deconvolution(nn.ConvTranspose2d):
    """4×4, stride 2, no bias. Over few positions it is a matrix product whose columns are added up in place."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1, bias=False)
        nn.init.normal_(self.weight, std=0.001)

    def forward(self, x: Float[Tensor, "batch inputs h w"]) -> Float[Tensor, "batch outputs h2 w2"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        height, width = x.shape[2:]
        if height * width > FEW_POSITIONS:
            return super().forward(x)
        columns = self.weight.flatten(1).mT @ x.flatten(2)
        y = nn.functional.fold(columns, (2 * height, 2 * width), 4, padding=1, stride=2)
        return y if self.bias is None else y + self.bias[:, None, None]


def _normal(layer: nn.Conv1d | nn.Conv2d | nn.Linear | nn.ConvTranspose1d) -> nn.Module:
    """Weights N(0, 0.001), as the paper starts all but the backbone."""
    nn.init.normal_(layer.weight, std=0.001)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def upsampler(inputs: int, channels: int, count: int, *, dims: Literal[1, 2] = 2) -> nn.Sequential:
    """`count` times deconvolution, batch norm and ReLU; 1D ones after early marginalisation."""
    layers: list[nn.Module] = []
    for _ in range(count):
        if dims == 2:
            layers += [Deconvolution(inputs, channels), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        else:
            layers += [
                _normal(nn.ConvTranspose1d(inputs, channels, 4, stride=2, padding=1, bias=False)),
                nn.BatchNorm1d(channels),
                nn.ReLU(inplace=True),
            ]
        inputs = channels
    return nn.Sequential(*layers)


class _Head(nn.Module):
    """What heads share: sizes, and the depth branch (eqs. 2 and 6)."""

    scale: Tensor

    def __init__(self, config: HeadConfig, *, inputs: int, points: int, bins: Size) -> None:
        super().__init__()
        self.config, self.points = config, points
        factor = 2 ** (3 - config.upsamplings)
        self.width, self.height, self.depth = (size // factor for size in bins)
        self.features = config.channels if config.upsamplings else inputs
        self.register_buffer("scale", torch.tensor([float(factor)] * 3), persistent=False)

    def _run(self, segment: nn.Module, features: Tensor) -> Tensor:
        return rerun(segment, features) if self.config.recompute else segment(features)

    def _add_depth(self, inputs: int) -> None:
        wide = self.config.channels * self.depth
        self.conv_z_1 = nn.Sequential(_normal(nn.Conv1d(inputs, wide, 1)), nn.BatchNorm1d(wide), nn.ReLU(inplace=True))
        self.conv_z_2 = Lixels(self.config.channels, self.points)

    def _depth(self, features: Tensor) -> Tensor:
        pooled = features.mean(dim=(2, 3))[:, :, None]
        return self._run(self.conv_z_2, self.conv_z_1(pooled).view(len(features), -1, self.depth))


class LixelHead(_Head):
    """A 1D heatmap for each axis of each point; eqs. 1 and 2 (PoseNet), 5 and 6 (MeshNet)."""

    def __init__(self, config: HeadConfig, *, inputs: int, points: int, bins: Size) -> None:
        super().__init__(config, inputs=inputs, points=points, bins=bins)
        if config.marginalise == "late":
            self.deconv = upsampler(inputs, config.channels, config.upsamplings)
        else:
            self.deconv_x = upsampler(inputs, config.channels, config.upsamplings, dims=1)
            self.deconv_y = upsampler(inputs, config.channels, config.upsamplings, dims=1)
        if config.pooling == "weighted":
            pooled = self.features if config.marginalise == "late" else inputs
            shrink = 1 if config.marginalise == "late" else 2**config.upsamplings
            self.weigh_x = _normal(nn.Conv2d(pooled, pooled, (self.height // shrink, 1)))
            self.weigh_y = _normal(nn.Conv2d(pooled, pooled, (1, self.width // shrink)))
        self.conv_x = Lixels(self.features, points)
        self.conv_y = Lixels(self.features, points)
        self._add_depth(inputs)

    def forward(self, features: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch points 3"]:
        if self.config.marginalise == "late":
            along_x, along_y = self._marginalise(self._run(self.deconv, features))
        else:
            along_x, along_y = self._marginalise(features)
            along_x, along_y = self.deconv_x(along_x), self.deconv_y(along_y)
        x, y = self._run(self.conv_x, along_x), self._run(self.conv_y, along_y)
        return torch.stack([x, y, self._depth(features)], dim=2) * self.scale

    def _marginalise(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) → (B, C, W) over rows and (B, C, H) over columns."""
        match self.config.pooling:
            case "mean":
                return features.mean(dim=2), features.mean(dim=3)
            case "max":
                return features.amax(dim=2), features.amax(dim=3)
            case "weighted":
                return self.weigh_x(features)[:, :, 0], self.weigh_y(features)[..., 0]


class PixelHead(_Head):
    """A 2D heatmap for x and y; a 1D one for depth (Table 2), or a map that holds the depth at (x, y) (Table 10)."""

    def __init__(self, config: HeadConfig, *, inputs: int, points: int, bins: Size) -> None:
        super().__init__(config, inputs=inputs, points=points, bins=bins)
        self.deconv = upsampler(inputs, config.channels, config.upsamplings)
        self.conv_xy = _normal(nn.Conv2d(self.features, points, 1))
        if config.target == "pixel_lixel":
            self._add_depth(inputs)
        else:
            self.conv_depth = _normal(nn.Conv2d(self.features, points, 1))

    def forward(self, features: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch points 3"]:
        upsampled = self.deconv(features)
        logits = self.conv_xy(upsampled).float()
        heatmap = logits.flatten(2).softmax(dim=2).view_as(logits)
        x, y = _expectation(heatmap.sum(dim=2)), _expectation(heatmap.sum(dim=3))
        if self.config.target == "pixel_lixel":
            z = self._depth(features)
        else:  # depths relative to the root, in halves of the box, so that an untrained map tells the root's
            z = ((heatmap * self.conv_depth(upsampled)).sum(dim=(2, 3)) + 1) / 2 * self.depth
        return torch.stack([x, y, z], dim=2) * self.scale


class VoxelHead(_Head):
    """One 3D heatmap a point (Table 2), of a 1×1 convolution to points·depth channels."""

    def __init__(self, config: HeadConfig, *, inputs: int, points: int, bins: Size) -> None:
        super().__init__(config, inputs=inputs, points=points, bins=bins)
        self.deconv = upsampler(inputs, config.channels, config.upsamplings)
        self.conv_xyz = _normal(nn.Conv2d(self.features, points * self.depth, 1))

    def forward(self, features: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch points 3"]:
        logits = self.conv_xyz(self.deconv(features)).float().unflatten(1, (self.points, self.depth))
        heatmap = logits.flatten(2).softmax(dim=2).view_as(logits)
        x, y, z = (_expectation(heatmap.sum(dim=others)) for others in ((2, 3), (2, 4), (3, 4)))
        return torch.stack([x, y, z], dim=2) * self.scale


class ConnectedHead(_Head):
    """Two fully connected layers on pooled features (Table 1): to features of 1D heatmaps, or to coordinates."""

    def __init__(self, config: HeadConfig, *, inputs: int, points: int, bins: Size) -> None:
        super().__init__(config, inputs=inputs, points=points, bins=bins)
        self.sizes = (self.width, self.height, self.depth)
        outputs = config.channels * sum(self.sizes) if config.target == "lixel_fc" else points * 3
        hidden = config.fc_width or FC_WIDTHS[config.target]
        self.fc = nn.Sequential(
            _normal(nn.Linear(inputs, hidden)), nn.ReLU(inplace=True), _normal(nn.Linear(hidden, outputs))
        )
        if config.target == "lixel_fc":
            self.lixels = nn.ModuleList([Lixels(config.channels, points) for _ in range(3)])

    def forward(self, features: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch points 3"]:
        answer = self.fc(features.mean(dim=(2, 3))).float()
        if self.config.target == "coordinates":  # from the middle of the heatmaps outwards
            size = answer.new_tensor(self.sizes)
            return (answer.unflatten(1, (self.points, 3)) + 1) / 2 * size * self.scale
        parts = answer.unflatten(1, (self.config.channels, -1)).relu().split(self.sizes, dim=2)
        axes = [self._run(lixels, part) for lixels, part in zip(self.lixels, parts, strict=True)]
        return torch.stack(axes, dim=2) * self.scale


def full_precision(values: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Autocast off, on a device that has it."""
    if values.device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(values.device.type, enabled=False)


def _expectation(marginal: Tensor) -> Tensor:
    """Expected bin of probabilities over the last axis, in full precision: half of it tells bins to a quarter."""
    with full_precision(marginal):
        return marginal @ torch.arange(marginal.shape[-1], dtype=marginal.dtype, device=marginal.device)
