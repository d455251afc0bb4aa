"""Lixels: published numbers, round trips, and the way back to metres."""

from __future__ import annotations

import torch

from mesh_lib.geometry.cameras import project
from mesh_lib.geometry.lixels import LixelSpace

SPACE = LixelSpace(input_size=(256, 256), bins=(64, 64, 64), box_m=2.0)


def test_a_pixel_is_a_quarter_of_a_lixel_and_the_root_is_in_the_middle() -> None:
    found = SPACE.from_crop(torch.tensor([[128.0, 4.0], [0.0, 255.0]]), torch.tensor([0.0, -1.0]))
    torch.testing.assert_close(found, torch.tensor([[32.0, 1.0, 32.0], [0.0, 63.75, 0.0]]))


def test_to_the_crop_and_back() -> None:
    space = LixelSpace(input_size=(192, 256), bins=(48, 64, 32), box_m=0.3)
    lixels = torch.rand(2, 5, 3) * 40
    torch.testing.assert_close(space.from_crop(*space.to_crop(lixels)), lixels)


def test_inside_is_from_the_first_bin_to_before_the_last_ones_end() -> None:
    points = torch.tensor([[0.0, 0, 0], [63.9, 63.9, 63.9], [64, 1, 1], [1, -0.1, 1], [1, 1, torch.nan]])
    assert SPACE.inside(points).tolist() == [1, 1, 0, 0, 0]


def test_back_projection_finds_the_point_that_was_projected_cropped_and_counted() -> None:
    torch.manual_seed(0)
    points_m = torch.randn(3, 7, 3, dtype=torch.float64) * 0.4 + torch.tensor([0.2, -0.1, 4.0])
    camera = {
        "focal_px": torch.tensor([[1100.0, 1150.0]] * 3, dtype=torch.float64),
        "princpt_px": torch.tensor([[500.0, 480.0]] * 3, dtype=torch.float64),
    }
    affine = torch.tensor([[0.4, 0.1, -50.0], [-0.1, 0.4, 20.0]], dtype=torch.float64).expand(3, 2, 3)
    crop_px = project(points_m, **camera) @ affine[:, :, :2].mT + affine[:, None, :, 2]
    root_depth_m = points_m[:, 0, 2]
    lixels = SPACE.from_crop(crop_px, points_m[..., 2] - root_depth_m[:, None])
    torch.testing.assert_close(SPACE.back_project(lixels, root_depth_m=root_depth_m, affine=affine, **camera), points_m)
