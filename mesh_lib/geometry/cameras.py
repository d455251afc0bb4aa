"""Cameras: the crop's virtual camera of Pose2Pose and its exact counterpart in the whole picture.

docs/cameras.md derives every formula here. Camera frame: x right, y down, z away; metres; pixel (0, 0) is the
centre of the top-left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

CROP_FOCAL_PX = 5000.0
"""Virtual focal length on the network's input (Pose2Pose, SPIN)."""
CAMERA_BOX_M = 2.5
"""Edge of the 3D box that a person's crop is taken to cover (Pose2Pose: 2.5 m for bodies, 0.4 m for hands)."""
DEPTH_EPSILON_M = 1e-4
"""Pose2Pose divides by z + 1e-4; we move the body by it instead, which is the same number."""


def depth_scale_m(input_size: tuple[int, int], *, box_m: float = CAMERA_BOX_M) -> float:
    """k of Pose2Pose: sqrt(f² S² / (H W)), the depth at which the 3D box fills the input; body 256×192: 56.38 m."""
    width, height = input_size
    return CROP_FOCAL_PX * box_m / (width * height) ** 0.5


def crop_translation_m(raw: Float[Tensor, "*batch 3"], *, input_size: tuple[int, int]) -> Float[Tensor, "*batch 3"]:
    """The network's camera output to the body's translation in the crop's camera: (t_x, t_y, k·σ(γ)) (Pose2Pose)."""
    depth = depth_scale_m(input_size) * raw[..., 2:].sigmoid() + DEPTH_EPSILON_M
    return torch.cat([raw[..., :2], depth], dim=-1)


def crop_camera_raw(transl_m: Float[Tensor, "*batch 3"], *, input_size: tuple[int, int]) -> Float[Tensor, "*batch 3"]:
    """The inverse of crop_translation_m; depths of up to k have one."""
    depth = (transl_m[..., 2:] - DEPTH_EPSILON_M) / depth_scale_m(input_size)
    return torch.cat([transl_m[..., :2], depth.logit()], dim=-1)


def weak_perspective_translation_m(
    scale: Float[Tensor, "*batch"],
    shift: Float[Tensor, "*batch 2"],
    *,
    convention: Literal["spin", "eft"],
    input_px: float = 224.0,
) -> Float[Tensor, "*batch 3"]:
    """A weak-perspective camera as the translation for a pinhole of CROP_FOCAL_PX on the same square crop.

    SPIN and HMR project u = s·(x + t), EFT u = s·x + t, both in [-1, 1] of the crop; t_z = 2f / (W·s)
    (docs/cameras.md).
    """
    metres = shift if convention == "spin" else shift / scale[..., None]
    depth = 2 * CROP_FOCAL_PX / (input_px * scale)
    return torch.cat([metres, depth[..., None]], dim=-1)


def project(
    points_m: Float[Tensor, "*batch points 3"],
    *,
    focal_px: Float[Tensor, "*batch 2"],
    princpt_px: Float[Tensor, "*batch 2"],
) -> Float[Tensor, "*batch points 2"]:
    """Pinhole projection of camera-frame points."""
    return points_m[..., :2] / points_m[..., 2:] * focal_px[..., None, :] + princpt_px[..., None, :]


def project_to_crop(
    points_m: Float[Tensor, "*batch points 3"], *, input_size: tuple[int, int]
) -> Float[Tensor, "*batch points 2"]:
    """Projection by the crop's virtual camera: focal 5000, principal point at the input's centre."""
    centre = points_m.new_tensor([input_size[0] / 2, input_size[1] / 2])
    return points_m[..., :2] / points_m[..., 2:] * CROP_FOCAL_PX + centre


@dataclass(frozen=True, kw_only=True)
class ImageCamera:
    """Perspective camera of a whole picture, one a person."""

    focal_px: Float[Tensor, "*batch 2"]
    princpt_px: Float[Tensor, "*batch 2"]


def crop_to_image_camera(box_xywh_px: Float[Tensor, "*batch 4"], *, input_size: tuple[int, int]) -> ImageCamera:
    """The crop's virtual camera, written in the whole picture's pixels; exact, the translation stays the same.

    f_x = f0·w/W_in, f_y = f0·h/H_in, c = the box's centre (NeuralAnnot's label files use the same rule: a box
    150 px wide and a 192 px input give f_x = 3906.25).
    """
    size = box_xywh_px.new_tensor(input_size)
    scale = box_xywh_px[..., 2:] / size
    return ImageCamera(
        focal_px=CROP_FOCAL_PX * scale,
        princpt_px=box_xywh_px[..., :2] + size / 2 * scale,
    )
