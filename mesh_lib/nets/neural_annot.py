"""NeuralAnnot's body regressor (Moon et al., 2022, §3.2): pooled ResNet features, one linear layer.

What it answers with is what Pose2Pose answers with, but for joint positions, which it does not predict.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mesh_lib.nets.pose2pose import Pose2PoseConfig, Pose2PoseOutput, linear_head
from mesh_lib.nets.resnet import ResNet


class NeuralAnnot(nn.Module):
    def __init__(self, config: Pose2PoseConfig) -> None:
        super().__init__()
        self.parts = (6, config.pose_values, 10, 3)
        self.backbone = ResNet(config.backbone)
        self.parameters_head = linear_head(self.backbone.channels, sum(self.parts))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Pose2PoseOutput:
        """RGB in [0, 1]."""
        pooled = self.backbone(image).mean(dim=(2, 3))
        root_6d, pose, betas, camera_raw = self.parameters_head(pooled).float().split(self.parts, dim=1)
        return Pose2PoseOutput(
            joints_hm=image.new_zeros(len(image), 0, 3), root_6d=root_6d, pose=pose, betas=betas, camera_raw=camera_raw
        )
