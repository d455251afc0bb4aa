"""Simple Baselines' 2D pose network (Xiao et al., 2018): a ResNet, three deconvolutions, one heatmap a joint.

Its backbone is what f starts from in the second recipe. Module names under `backbone` are torchvision's; the rest are
the release's, so that its checkpoints load (`rename_simple_baselines`). Heatmaps have a quarter of the crop's size:
64×48 for 256×192.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mesh_lib.body.joints import JOINT_SETS, JointSet
from mesh_lib.nets.checkpoints import rename_backbone
from mesh_lib.nets.resnet import CropNetConfig, ResNet

HEATMAP_STRIDE = 4
DECONV_CHANNELS = 256
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Pose2DConfig(CropNetConfig):
    """What the network is. The defaults are Simple Baselines' (but for the joints: COCO's 17 there)."""

    joint_set: str = "body33"
    """Name of the joints that have a heatmap: body33, or coco17 as published."""
    normalise: Literal["none", "imagenet"] = "none"
    """What is done to pictures first: nothing, as f has it, or ImageNet's mean and deviation, as Simple Baselines'
    released weights expect."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.joint_set not in JOINT_SETS:
            raise ValueError(f"joint_set {self.joint_set!r} is none of {', '.join(sorted(JOINT_SETS))}")

    @property
    def joints(self) -> JointSet:
        return JOINT_SETS[self.joint_set]


class Pose2D(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] → (B, J, H/4, W/4) heatmaps."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: Pose2DConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION)[:, None, None], persistent=False)
        self.backbone = ResNet(config.backbone)
        layers: list[nn.Module] = []
        channels = self.backbone.channels
        for _ in range(3):
            layers += [
                nn.ConvTranspose2d(channels, DECONV_CHANNELS, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(DECONV_CHANNELS),
                nn.ReLU(inplace=True),
            ]
            channels = DECONV_CHANNELS
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(channels, len(config.joints), 1)
        for module in (*self.deconv_layers, self.final_layer):
            if isinstance(module, (nn.ConvTranspose2d, nn.Conv2d)):
                nn.init.normal_(module.weight, std=0.001)
        assert self.final_layer.bias is not None
        nn.init.zeros_(self.final_layer.bias)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch joints h4 w4"]:
        if self.config.normalise == "imagenet":
            image = (image - self.mean) / self.deviation
        return self.final_layer(self.deconv_layers(self.backbone(image)))


def decode_heatmaps(
    heatmaps: Float[Tensor, "batch joints height width"],
) -> tuple[Float[Tensor, "batch joints 2"], Float[Tensor, "batch joints"]]:
    """Joint positions in crop pixels, and their scores (the maxima).

    The largest bin, moved by a quarter of a bin towards the larger of its neighbours (Simple Baselines, after Newell
    et al., 2016).
    """
    width = heatmaps.shape[3]
    score, flat = heatmaps.flatten(2).max(dim=2)
    x, y = flat % width, flat // width
    padded = nn.functional.pad(heatmaps, (1, 1, 1, 1), mode="replicate").flatten(2)

    def at(dx: int, dy: int) -> Tensor:
        index = (y + 1 + dy) * (width + 2) + (x + 1 + dx)
        return padded.gather(2, index[..., None])[..., 0]

    shift = torch.stack([at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)], dim=2).sign() / 4
    return (torch.stack([x, y], dim=2) + shift) * HEATMAP_STRIDE, score


def rename_simple_baselines(name: str) -> str | None:
    """The release's names to ours; also those of networks that keep it under `backbone.` and `head.`."""
    if (part := rename_backbone(name)) is not None:
        return f"backbone.{part}"
    name = name.removeprefix("head.")
    return name if name.startswith(("deconv_layers.", "final_layer.")) else None
