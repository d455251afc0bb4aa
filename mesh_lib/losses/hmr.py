"""Losses of SPIN (Kolotouros et al., 2019, §3.2) with the weights of its release; each is a mean of squares.

2D in the crop's [-1, 1] and 3D in metres weigh 5, rotation matrices 1, shape 0.001, and exp(-10 s)² keeps bodies before
the camera; the sum times 60. SPIN weighs 2D keypoints by their confidence; here one counts or does not, as everywhere
in this project. Whole samples are left out where their 3D joints or parameters are not known. (Its loss on vertices has
weight 0 there, and is not here.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mesh_lib.body.joints import BODY33
from mesh_lib.nets.hmr import HmrAnswer, HmrConfig
from mesh_lib.supervision import Targets


@dataclass(frozen=True, kw_only=True)
class HmrLossConfig:
    """The published weights."""

    keypoint_weight: float = 5.0
    """Of 2D and of 3D keypoints."""
    pose_weight: float = 1.0
    shape_weight: float = 0.001
    camera_weight: float = 1.0
    scale: float = 60.0
    """Of the sum."""


def hmr_losses(answer: HmrAnswer, targets: Targets, *, model: HmrConfig, config: HmrLossConfig) -> dict[str, Tensor]:
    """Weighted terms by name, each a scalar; their sum is the loss."""
    half = model.input_width / 2
    hips = BODY33.indices(["left_hip", "right_hip"])
    off_2d = (answer.joints_crop_px - targets.keypoints_crop_px) / half
    off_3d = _from_hips(answer.joints_m, hips) - _from_hips(targets.joints_rel_m, hips)
    with_hips = targets.joints_rel_valid[:, hips].amin(dim=1)
    everyone = torch.ones_like(with_hips)
    known_3d = (targets.joints_rel_valid * with_hips[:, None])[..., None]
    mesh = targets.mesh_valid
    losses = {
        "keypoints_2d": config.keypoint_weight * _mean(off_2d, targets.keypoints_valid[..., None], everyone),
        "keypoints_3d": config.keypoint_weight * _mean(off_3d, known_3d, with_hips),
        "pose": config.pose_weight * _mean(answer.rotmats - targets.rotmats, mesh[:, None, None, None], mesh),
        "shape": config.shape_weight * _mean(answer.betas - targets.betas, mesh[:, None], mesh),
        "camera": config.camera_weight * (-20 * answer.camera[:, 0]).exp().mean(),
    }
    return {name: config.scale * value for name, value in losses.items()}


def _from_hips(joints: Float[Tensor, "batch joints 3"], hips: list[int]) -> Float[Tensor, "batch joints 3"]:
    """Relative to the middle of the hips, which is SPIN's pelvis."""
    return joints - joints[:, hips].mean(dim=1, keepdim=True)


def _mean(off: Tensor, confidence: Tensor, chosen: Float[Tensor, " batch"]) -> Tensor:
    """Mean of confidence·off² over all entries of the chosen samples; what has no confidence may be NaN."""
    confidence = confidence.expand_as(off)
    squares = torch.where(confidence > 0, off, 0.0).square() * confidence
    return squares.sum() / (chosen.sum() * off[0].numel()).clamp_min(1.0)
