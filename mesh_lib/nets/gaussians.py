"""3D Gaussian heatmaps of joints, and the convolution over them (I2L-MeshNet, eqs. 3 and 4).

The published network folds the depth of J volumes of 64³ bins into J·64 channels and runs a 3×3 convolution over
them: 7.6 million exponentials and 4.4 billion multiplications a person, for J Gaussians that three profiles of 64
numbers describe. A Gaussian is separable, exp(-(x² + y² + z²) / 2σ²) = g(x) g(y) g(z), so the sum over depth needs the
weights and g(z) alone; what is left per joint is a 3×3 kernel on a product of two profiles, whose sums over the
kernel's columns and rows come apart too. The volume is never built: 24 million multiplications.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Form = Literal["fast", "plain"]


def profiles(
    joints: Float[Tensor, "batch joints 3"], *, bins: tuple[int, int, int], sigma: float
) -> tuple[Float[Tensor, "batch joints w"], Float[Tensor, "batch joints h"], Float[Tensor, "batch joints d"]]:
    """g(x), g(y) and g(z) of each joint over (width, height, depth) bins; joints and sigma in bins."""
    axes = []
    for axis, size in enumerate(bins):
        at = torch.arange(size, dtype=joints.dtype, device=joints.device)
        axes.append(torch.exp(-(((at - joints[..., axis, None]) / sigma) ** 2) / 2))
    return axes[0], axes[1], axes[2]


def gaussian_volume(
    joints: Float[Tensor, "batch joints 3"], *, bins: tuple[int, int, int], sigma: float
) -> Float[Tensor, "batch joints d h w"]:
    """exp(-((x - p_x)² + (y - p_y)² + (z - p_z)²) / 2σ²) in every bin (eq. 3), as published: the plain form."""
    width, height, depth = (torch.arange(size, dtype=joints.dtype, device=joints.device) for size in bins)
    x, y, z = (joints[..., axis, None, None, None] for axis in range(3))
    squares = (width - x) ** 2 + (height[:, None] - y) ** 2 + (depth[:, None, None] - z) ** 2
    return torch.exp(-squares / (2 * sigma**2))


def convolve_gaussians(
    weight: Float[Tensor, "out joints_x_d 3 3"],
    x: Float[Tensor, "batch joints w"],
    y: Float[Tensor, "batch joints h"],
    z: Float[Tensor, "batch joints d"],
) -> Float[Tensor, "batch out h w"]:
    """The 3×3 convolution (padding 1, no bias) over gaussian_volume with depth folded into channels, without it."""
    batch, joints, depth = z.shape
    out, rows, columns = len(weight), y.shape[2], x.shape[2]
    # Depth first: (J, B, D) @ (J, D, 3·out·3), rows of the kernel before outputs, so that no later step reorders.
    by_joint = weight.view(out, joints, depth, 3, 3).permute(1, 2, 3, 0, 4).reshape(joints, depth, -1)
    kernels = torch.bmm(z.transpose(0, 1), by_joint).transpose(0, 1).reshape(batch, joints, 3 * out, 3)
    # Then the kernel's columns, (3·out, 3) @ (3, W), and its rows, one product a person: (H, J·3) @ (J·3, out·W).
    along_x = (kernels @ _windows(x)).view(batch, joints * 3, out * columns)
    along_y = _windows(y).reshape(batch, joints * 3, rows)
    return torch.bmm(along_y.mT, along_x).view(batch, rows, out, columns).transpose(1, 2)


def _windows(profile: Tensor) -> Tensor:
    """(B, J, N) → (B, J, 3, N): the values before, at and after each bin, zero outside."""
    return nn.functional.pad(profile, (1, 1)).unfold(2, profile.shape[2], 1)


class Pose2Feat(nn.Module):
    """f_M of eq. 4: the stem's features beside the joints' volumes, 3×3 convolution, batch norm, ReLU."""

    def __init__(
        self, *, channels: int, joints: int, bins: tuple[int, int, int], sigma: float, form: Form = "fast"
    ) -> None:
        super().__init__()
        self.channels, self.bins, self.sigma, self.form = channels, bins, sigma, form
        convolution = nn.Conv2d(channels + joints * bins[2], channels, 3, padding=1)
        nn.init.normal_(convolution.weight, std=0.001)
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        self.conv = nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))

    def forward(
        self, features: Float[Tensor, "batch channels height width"], joints: Float[Tensor, "batch joints 3"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Joints in bins."""
        if self.form == "plain":
            volume = gaussian_volume(joints, bins=self.bins, sigma=self.sigma).to(features.dtype)
            return self.conv(torch.cat([features, volume.flatten(1, 2)], dim=1))
        convolution = self.conv[0]
        assert isinstance(convolution, nn.Conv2d)
        of_features, of_joints = convolution.weight.split([self.channels, joints.shape[1] * self.bins[2]], dim=1)
        ours = nn.functional.conv2d(features, of_features, convolution.bias, padding=1)
        theirs = convolve_gaussians(of_joints, *profiles(joints, bins=self.bins, sigma=self.sigma))
        return self.conv[2](self.conv[1](ours + theirs))
