from __future__ import annotations

import pytest
import torch

from mesh_lib.geometry import cameras


def test_the_depth_scale_is_the_published_one() -> None:
    assert cameras.depth_scale_m((192, 256)) == pytest.approx(56.3819, abs=1e-4)
    assert cameras.depth_scale_m((256, 256), box_m=0.4) == pytest.approx(7.8125), "of hands"


def test_weak_perspective_cameras_mean_what_their_makers_say() -> None:
    scale = torch.tensor([0.9])
    spin = cameras.weak_perspective_translation_m(scale, torch.zeros(1, 2), convention="spin")
    assert spin[0].tolist() == pytest.approx([0, 0, 49.603], abs=1e-3)
    origin, at = torch.zeros(1, 1, 3), {}
    for convention in ("spin", "eft"):
        transl = cameras.weak_perspective_translation_m(
            torch.tensor([0.8]), torch.tensor([[0.1, 0.0]]), convention=convention
        )
        at[convention] = (
            cameras.project_to_crop(origin + transl[:, None], input_size=(224, 224))[0, 0, 0] / 112 - 1
        ).item()
    assert at == {"spin": pytest.approx(0.08, abs=1e-6), "eft": pytest.approx(0.1, abs=1e-6)}


def test_the_label_camera_of_a_150_px_box_has_the_published_focal_length() -> None:
    camera = cameras.crop_to_image_camera(torch.tensor([[10.0, 20, 150, 200]]), input_size=(192, 256))
    assert camera.focal_px[0].tolist() == [3906.25, 3906.25]
    assert camera.princpt_px[0].tolist() == [85.0, 120.0]


@pytest.mark.parametrize("box", [[-70.0, -30, 150, 200], [500.0, 400, 150, 200], [3.0, 4, 15, 20]])
def test_whole_image_and_crop_cameras_see_the_same_points(box: list[float]) -> None:
    """For crops that leave the image too."""
    torch.manual_seed(0)
    points = torch.randn(1, 30, 3, dtype=torch.float64) + torch.tensor([0.1, 0.2, 40.0], dtype=torch.float64)
    xywh = torch.tensor([box], dtype=torch.float64)
    camera = cameras.crop_to_image_camera(xywh, input_size=(192, 256))
    in_image = cameras.project(points, focal_px=camera.focal_px, princpt_px=camera.princpt_px)
    in_crop = cameras.project_to_crop(points, input_size=(192, 256))
    back = in_crop * xywh[:, None, 2:] / torch.tensor([192.0, 256.0]) + xywh[:, None, :2]
    assert torch.allclose(in_image, back, atol=1e-9)


def test_a_camera_output_of_zero_stands_at_half_the_depth_scale() -> None:
    transl = cameras.crop_translation_m(torch.zeros(1, 3), input_size=(192, 256))
    assert transl[0].tolist() == pytest.approx([0, 0, 56.3819 / 2 + 1e-4], abs=1e-4)
