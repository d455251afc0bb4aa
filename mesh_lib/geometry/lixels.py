"""Lixel space: crop pixels and depth below the root, both counted in heatmap bins, and the way back to metres.

I2L-MeshNet (Moon and Lee, 2020) localises points in (x, y, z) bins of 1D heatmaps: x and y are crop pixels over the
stride (256 px → 64 bins), z runs over a box of 2 m (bodies; 0.3 m for hands) whose middle is the root joint. As
released, a position p is met when the expectation over bin *indices* is p: nothing is shifted by half a bin.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

BODY_BOX_M = 2.0
HAND_BOX_M = 0.3


@dataclass(frozen=True, kw_only=True)
class LixelSpace:
    """How lixels lie in the crop."""

    input_size: tuple[int, int]
    """(width, height) of the crop in pixels."""
    bins: tuple[int, int, int]
    """(width, height, depth) of the heatmaps."""
    box_m: float
    """Depth range of the heatmaps: half of it before the root joint, half behind."""

    def from_crop(
        self, points_crop_px: Float[Tensor, "*batch points 2"], depth_rel_m: Float[Tensor, "*batch points"]
    ) -> Float[Tensor, "*batch points 3"]:
        """Crop pixels and depth relative to the root, in metres, to lixels."""
        width, height, depth = self.bins
        scale = points_crop_px.new_tensor([width / self.input_size[0], height / self.input_size[1]])
        z = (depth_rel_m / (self.box_m / 2) + 1) / 2 * depth
        return torch.cat([points_crop_px * scale, z[..., None]], dim=-1)

    def to_crop(
        self, lixels: Float[Tensor, "*batch points 3"]
    ) -> tuple[Float[Tensor, "*batch points 2"], Float[Tensor, "*batch points"]]:
        """The inverse of from_crop."""
        width, height, depth = self.bins
        scale = lixels.new_tensor([self.input_size[0] / width, self.input_size[1] / height])
        return lixels[..., :2] * scale, (lixels[..., 2] / depth * 2 - 1) * (self.box_m / 2)

    def inside(self, lixels: Float[Tensor, "*batch points 3"]) -> Float[Tensor, "*batch points"]:
        """1 where a point lies in the heatmaps, which is where it may teach (released masks); 0 for NaN."""
        return ((lixels >= 0) & (lixels < lixels.new_tensor(self.bins))).all(dim=-1).float()

    def back_project(
        self,
        lixels: Float[Tensor, "batch points 3"],
        *,
        root_depth_m: Float[Tensor, " batch"],
        affine: Float[Tensor, "batch 2 3"],
        focal_px: Float[Tensor, "batch 2"],
        princpt_px: Float[Tensor, "batch 2"],
    ) -> Float[Tensor, "batch points 3"]:
        """Lixels to metres in the camera's frame (I2L-MeshNet, eq. 7): undo the crop, add the root's depth, unproject.

        `affine` takes image pixels to crop pixels; `root_depth_m` comes from RootNet, or from the truth.
        """
        crop_px, depth_rel_m = self.to_crop(lixels)
        moved = (crop_px - affine[:, None, :, 2]).mT
        image_px = torch.linalg.solve(affine[:, :, :2], moved).mT
        depth_m = (depth_rel_m + root_depth_m[:, None])[..., None]
        return torch.cat([(image_px - princpt_px[:, None]) / focal_px[:, None] * depth_m, depth_m], dim=-1)
