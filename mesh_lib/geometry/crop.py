"""Boxes and crops: which rectangle of the picture the network sees, and the way back.

Boxes are (x, y, w, h) in pixels. A crop maps its box linearly onto the network's input: the box's left edge
to 0, its right edge to the input's width. Affine matrices are 2×3 and take (x, y, 1) of the image to the crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

BOX_MARGIN = 1.25
KEYPOINT_MARGIN = 1.2


def box_of_keypoints(keypoints_2d_px: Float[np.ndarray, "joints 3"], *, margin: float = KEYPOINT_MARGIN) -> np.ndarray:
    """Box around the visible keypoints (confidence > 0), grown by `margin` about its centre.

    Raises ValueError where no keypoint is visible.
    """
    seen = keypoints_2d_px[keypoints_2d_px[:, 2] > 0, :2]
    if not len(seen):
        raise ValueError("no keypoint is visible")
    low, high = seen.min(axis=0), seen.max(axis=0)
    size = np.maximum(high - low, 1.0) * margin
    return np.concatenate([(low + high) / 2 - size / 2, size])


def network_box(
    bbox_xywh_px: Float[np.ndarray, 4], *, image_size: tuple[int, int], aspect: float, margin: float = BOX_MARGIN
) -> Float[np.ndarray, 4]:
    """The box that Pose2Pose crops: clamped to the image, grown to `aspect` (w/h), then by `margin`.

    As in Pose2Pose's released preprocessing (box (10, 20, 60, 120) in a large image and a 192×256 input give
    (-16.28, 5.125, 111.56, 148.75)). It may leave the image; the crop is then black outside.
    Raises ValueError for a box that is empty, not finite, or outside the image.
    """
    x, y, w, h = (float(v) for v in bbox_xywh_px)
    if not all(map(math.isfinite, (x, y, w, h))):
        raise ValueError(f"box is not finite: {x, y, w, h}")
    x1, y1 = max(0.0, x), max(0.0, y)
    x2 = min(image_size[0] - 1.0, x1 + max(0.0, w - 1))
    y2 = min(image_size[1] - 1.0, y1 + max(0.0, h - 1))
    if w * h <= 0 or x2 <= x1 or y2 <= y1:
        raise ValueError(f"box is empty or outside the {image_size[0]}x{image_size[1]} image: {x, y, w, h}")
    w, h = x2 - x1, y2 - y1
    centre_x, centre_y = x1 + w / 2, y1 + h / 2
    w, h = max(w, h * aspect), max(h, w / aspect)
    w, h = w * margin, h * margin
    return np.array([centre_x - w / 2, centre_y - h / 2, w, h])


@dataclass(frozen=True)
class Augmentation:
    """One draw of the published augmentations (Pose2Pose): about the box's centre, after an optional flip."""

    scale: float = 1.0
    rotation_rad: float = 0.0
    flip: bool = False
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)


def draw_augmentations(
    rng: np.random.Generator, count: int, *, strength: float = 1.0, mirror: bool = True
) -> list[Augmentation]:
    """Scale 1 ± 0.25, rotation ± 60° in 60 % of draws, colour ± 20 % a channel, flip in half (Pose2Pose).

    `strength` scales all these ranges but the flip's; `mirror` False leaves the flip out.
    """
    colour = 1 + strength * rng.uniform(-0.2, 0.2, (count, 3))
    scale = 1 + strength * 0.25 * np.clip(rng.normal(size=count), -1, 1)
    rotation = strength * np.deg2rad(30 * np.clip(rng.normal(size=count), -2, 2)) * (rng.random(count) < 0.6)
    flip = (rng.random(count) < 0.5) & mirror
    drawn = zip(scale.tolist(), rotation.tolist(), flip.tolist(), map(tuple, colour.tolist()), strict=True)
    return [Augmentation(*values) for values in drawn]


def crop_affine(
    box_xywh_px: Float[np.ndarray, 4],
    *,
    input_size: tuple[int, int],
    image_width: int,
    augmentation: Augmentation | None = None,
) -> Float[np.ndarray, "2 3"]:
    """Image pixels → network input pixels (input_size is width, height).

    With an augmentation the picture is first mirrored (x → image_width - 1 - x), then the box, scaled about its
    centre, is turned by `rotation_rad` (y down: positive turns the picture clockwise).
    """
    a = augmentation or Augmentation()
    x, y, w, h = box_xywh_px
    centre_x, centre_y = x + w / 2, y + h / 2
    if a.flip:
        centre_x = image_width - 1 - centre_x
    scale_x, scale_y = input_size[0] / (w * a.scale), input_size[1] / (h * a.scale)
    cos, sin = math.cos(a.rotation_rad), math.sin(a.rotation_rad)
    xx, xy, yx, yy = scale_x * cos, -scale_x * sin, scale_y * sin, scale_y * cos
    to_x = input_size[0] / 2 - xx * centre_x - xy * centre_y
    to_y = input_size[1] / 2 - yx * centre_x - yy * centre_y
    if a.flip:  # the mirrored x is image_width - 1 - x
        to_x, to_y = to_x + xx * (image_width - 1), to_y + yx * (image_width - 1)
        xx, yx = -xx, -yx
    return np.array([[xx, xy, to_x], [yx, yy, to_y]])


def warp(image: UInt8[np.ndarray, "h w 3"], affine: np.ndarray, *, out: UInt8[np.ndarray, "height width 3"]) -> None:
    """Cut the crop out of the image into `out`: bilinear, black outside."""
    height, width = out.shape[:2]
    # OpenCV interpolates four channels with vector instructions, three without: the same values in half the time.
    four = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    drawn = cv2.warpAffine(four, affine, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    _into(out, cv2.cvtColor(drawn, cv2.COLOR_RGBA2RGB, dst=out))


def tint(image: UInt8[np.ndarray, "h w 3"], colour: tuple[float, float, float]) -> None:
    """Scale the channels of a contiguous image in place, clipped to 255."""
    if colour != (1.0, 1.0, 1.0):
        _into(image, cv2.transform(image, np.diag(colour).astype(np.float32), dst=image))


def _into(out: np.ndarray, written: np.ndarray) -> None:
    """OpenCV makes an array of its own where it cannot write into the one it was given."""
    if not np.shares_memory(written, out):
        out[:] = written


def apply_affine(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """2×3 affine on (…, 2) points."""
    return points @ affine[:, :2].T + affine[:, 2]


def compose_affine(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The 2×3 affine that applies `inner` first, then `outer`."""
    composed = outer[:, :2] @ inner
    composed[:, 2] += outer[:, 2]
    return composed
