"""Pose2Pose, body branch (Moon et al., 2022): position net, joint-wise features, rotation net.

Shapes for a 256×192 input and ResNet-50: features 2048×8×6, heatmaps 8×8×6 (D, H, W) for each of 25 joints,
rotation features 25·(512+3) = 12,875. As annotation network f, the pose head may predict the latent code of
VPoser (Three Recipes, §2.2, third recipe) in place of 6D rotations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mesh_lib.body.joints import POSE2POSE25, VPOSER21
from mesh_lib.nets.resnet import STRIDE, CropNetConfig, ResNet
from mesh_lib.nets.vposer import LATENT

DEPTH_BINS = 8
JOINT_FEATURES = 512


@dataclass(frozen=True, kw_only=True)
class Pose2PoseConfig(CropNetConfig):
    """What the network is. The defaults are the published ones."""

    regressor: Literal["pose2pose", "neural_annot"] = "pose2pose"
    """Pose2Pose, or NeuralAnnot's: one linear layer on the pooled features."""
    pose_head: Literal["vposer", "rot6d"] = "vposer"
    """Latent code of VPoser (third recipe), or 6D rotations of the 21 body joints."""

    @property
    def pose_values(self) -> int:
        """Numbers that the pose head predicts."""
        return LATENT if self.pose_head == "vposer" else len(VPOSER21) * 6

    @property
    def heatmap_size(self) -> tuple[int, int, int]:
        """(width, height, depth) of the heatmaps: the unit of `joints_hm`."""
        return self.input_width // STRIDE, self.input_height // STRIDE, DEPTH_BINS


@dataclass(frozen=True)
class Pose2PoseOutput:
    """Raw answers of a regressor."""

    joints_hm: Float[Tensor, "batch positions 3"]
    """Positions (x, y, z) of 25 joints in heatmap bins; of none, from a regressor without a position net."""
    root_6d: Float[Tensor, "batch 6"]
    pose: Float[Tensor, "batch pose"]
    """32 latent values (vposer), or 21·6 numbers (rot6d)."""
    betas: Float[Tensor, "batch 10"]
    camera_raw: Float[Tensor, "batch 3"]
    """(t_x, t_y, γ), see geometry.cameras.crop_translation_m."""


def _pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 1)
    nn.init.normal_(layer.weight, std=0.001)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def linear_head(inputs: int, outputs: int) -> nn.Linear:
    """Weights N(0, 0.01): answers near zero at first, so a pose near the prior's mean."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


class Pose2Pose(nn.Module):
    def __init__(self, config: Pose2PoseConfig) -> None:
        super().__init__()
        self.config = config
        joints = len(POSE2POSE25)
        self.backbone = ResNet(config.backbone)
        channels = self.backbone.channels
        self.position = _pointwise(channels, joints * DEPTH_BINS)
        self.reduce = nn.Sequential(
            _pointwise(channels, JOINT_FEATURES), nn.BatchNorm2d(JOINT_FEATURES), nn.ReLU(inplace=True)
        )
        features = joints * (JOINT_FEATURES + 3)
        self.root = linear_head(features, 6)
        self.pose = linear_head(features, config.pose_values)
        self.shape = linear_head(channels, 10)
        self.camera = linear_head(channels, 3)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Pose2PoseOutput:
        """RGB in [0, 1], no mean or deviation subtracted (as released)."""
        features = self.backbone(image)
        joints_hm = soft_argmax(self.position(features).float())
        sampled = sample_at_joints(self.reduce(features), joints_hm[..., :2].detach())
        joined = torch.cat([sampled, joints_hm.to(sampled.dtype)], dim=2).flatten(1)
        pooled = features.mean(dim=(2, 3))
        return Pose2PoseOutput(
            joints_hm=joints_hm,
            root_6d=self.root(joined).float(),
            pose=self.pose(joined).float(),
            betas=self.shape(pooled).float(),
            camera_raw=self.camera(pooled).float(),
        )


def soft_argmax(logits: Float[Tensor, "batch joints_x_depth height width"]) -> Float[Tensor, "batch joints 3"]:
    """Expected (x, y, z) bin of each joint's 3D heatmap, softmax over all bins (Sun et al., 2018)."""
    volume = logits.unflatten(1, (-1, DEPTH_BINS))
    probability = volume.flatten(2).softmax(dim=2).view_as(volume)
    axes = []
    for axis, others in ((4, (2, 3)), (3, (2, 4)), (2, (3, 4))):
        marginal = probability.sum(dim=others)
        bins = torch.arange(volume.shape[axis], dtype=marginal.dtype, device=marginal.device)
        axes.append((marginal * bins).sum(dim=2))
    return torch.stack(axes, dim=2)


def sample_at_joints(
    features: Float[Tensor, "batch channels height width"], joints_hm: Float[Tensor, "batch joints 2"]
) -> Float[Tensor, "batch joints channels"]:
    """Bilinear features at joint positions in bins, zero outside (Pose2Pose's joint-wise feature)."""
    height, width = features.shape[2:]
    size = joints_hm.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    grid = (joints_hm / size * 2 - 1).to(features.dtype)
    sampled = nn.functional.grid_sample(features, grid[:, :, None], align_corners=True)
    return sampled[..., 0].transpose(1, 2)
