from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from mesh_lib.geometry import crop


def test_the_published_box_rule() -> None:
    """As Pose2Pose does it: sanitise to (10, 20, 59, 119), grow the width to 89.25, times 1.25 about the centre."""
    box = crop.network_box(np.array([10.0, 20, 60, 120]), image_size=(1000, 1000), aspect=192 / 256)
    assert box == pytest.approx([-16.28125, 5.125, 111.5625, 148.75])


@pytest.mark.parametrize("box", [[0, 0, 0, 5], [2000, 5, 10, 10], [np.nan, 0, 5, 5], [0, 0, -4, -4]])
def test_a_box_without_area_in_the_image_is_refused(box: list[float]) -> None:
    with pytest.raises(ValueError, match="box"):
        crop.network_box(np.array(box, float), image_size=(640, 480), aspect=0.75)


def test_the_boxs_corners_land_on_the_inputs_corners() -> None:
    affine = crop.crop_affine(np.array([10.0, 20, 30, 40]), input_size=(192, 256), image_width=100)
    assert crop.apply_affine(affine, np.array([[10.0, 20], [40, 60]])) == pytest.approx(np.array([[0, 0], [192, 256]]))


def test_a_flip_mirrors_the_picture_about_its_middle() -> None:
    box, size = np.array([20.0, 20, 60, 80]), (96, 128)
    plain = crop.crop_affine(box, input_size=size, image_width=100)
    flip = crop.crop_affine(box, input_size=size, image_width=100, augmentation=crop.Augmentation(flip=True))
    point, mirrored = np.array([30.0, 40]), np.array([99 - 30.0, 40])
    assert crop.apply_affine(flip, point)[0] == pytest.approx(size[0] - crop.apply_affine(plain, point)[0])
    assert crop.apply_affine(flip, mirrored)[1] == pytest.approx(crop.apply_affine(plain, point)[1])


def test_a_warped_dot_is_where_the_affine_says() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    cv2.circle(image, (120, 80), 3, (255, 255, 255), -1)
    augmentation = crop.Augmentation(scale=1.1, rotation_rad=0.5, flip=True)
    box = np.array([60.0, 20, 120, 160])
    affine = crop.crop_affine(box, input_size=(192, 256), image_width=300, augmentation=augmentation)
    out = np.zeros((256, 192, 3), np.uint8)
    crop.warp(image, affine, out=out)
    warped = out.sum(axis=2).astype(float)
    ys, xs = np.mgrid[:256, :192]
    centre = np.array([(xs * warped).sum(), (ys * warped).sum()]) / warped.sum()
    assert centre == pytest.approx(crop.apply_affine(affine, np.array([120.0, 80])), abs=0.3)


def test_affines_compose() -> None:
    rng = np.random.default_rng(0)
    a, b, p = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), rng.normal(size=(5, 2))
    assert crop.apply_affine(crop.compose_affine(a, b), p) == pytest.approx(
        crop.apply_affine(a, crop.apply_affine(b, p))
    )


def test_augmentations_stay_in_the_published_ranges_and_use_them() -> None:
    rng = np.random.default_rng(0)
    draws = crop.draw_augmentations(rng, 4000)
    scales = np.array([d.scale for d in draws])
    turns = np.rad2deg([d.rotation_rad for d in draws])
    assert scales.min() == pytest.approx(0.75)
    assert scales.max() == pytest.approx(1.25)
    assert abs(turns).max() == pytest.approx(60)
    assert np.mean(turns != 0) == pytest.approx(0.6, abs=0.03)
    assert np.mean([d.flip for d in draws]) == pytest.approx(0.5, abs=0.03)
    assert np.array([d.colour for d in draws]).min() >= 0.8


def test_without_mirroring_all_else_is_drawn_as_before() -> None:
    plain, free = (crop.draw_augmentations(np.random.default_rng(0), 50, mirror=m) for m in (False, True))
    assert not any(d.flip for d in plain) and any(d.flip for d in free)
    assert plain == [dataclasses.replace(d, flip=False) for d in free]


def test_the_box_of_keypoints_ignores_what_is_not_seen() -> None:
    keypoints = np.array([[10.0, 10, 1], [20, 30, 1], [500, 500, 0]])
    assert crop.box_of_keypoints(keypoints) == pytest.approx([9, 8, 12, 24])
    with pytest.raises(ValueError, match="no keypoint"):
        crop.box_of_keypoints(keypoints * [1, 1, 0])
