"""Flip test-time averaging: the picture and its mirror image, labelled both and averaged; how far they disagree.

A network that is sure of a pose gives the mirrored one for the mirrored picture. Where it does not, it guesses: the
disagreement is an uncertainty that costs a second forward pass and no other network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mesh_lib.body.joints import SMPL24, VPOSER21
from mesh_lib.geometry.cameras import CROP_FOCAL_PX, crop_camera_raw
from mesh_lib.geometry.rotations import mean_rotation, rotmat_to_rotvec
from mesh_lib.metrics.joints import mpjpe_mm
from mesh_lib.nets.annotator import Annotation, Annotator


@dataclass(frozen=True)
class FlipTested:
    """The average of both answers, and their distance before averaging."""

    answer: Annotation
    disagreement_deg: Float[Tensor, " batch"]
    """Mean angle between the two answers' joint rotations, degrees."""
    disagreement_mm: Float[Tensor, " batch"]
    """Mean distance of the two answers' BODY33 joints, their pelves laid upon each other, millimetres."""


def flip_average(annotator: Annotator, image: Float[Tensor, "batch 3 height width"]) -> FlipTested:
    """Label crops and their mirror images. Rotations are averaged by the chordal mean, the rest as numbers.

    The averaged pose has no latent code of its own: `z` is VPoser's encoding of it.
    """
    plain, mirrored = annotator(image), annotator(image.flip(-1))
    with torch.autocast(image.device.type, enabled=False):  # which is for the network alone
        return _average(annotator, plain, unflip(annotator, mirrored))


def _average(annotator: Annotator, plain: Annotation, mirrored: Annotation) -> FlipTested:
    rotmats = mean_rotation(torch.stack([plain.rotmats, mirrored.rotmats]))
    transl_m = (plain.transl_m + mirrored.transl_m) / 2
    z = plain.z
    if annotator.vposer and z.shape[1]:
        body = rotmat_to_rotvec(rotmats[:, SMPL24.indices(VPOSER21.names)])
        z = annotator.vposer.encode(body).mean
    answer = annotator.posed(
        rotmats=rotmats,
        betas=(plain.betas + mirrored.betas) / 2,
        camera_raw=crop_camera_raw(transl_m, input_size=annotator.config.input_size),
        z=z,
        joints_hm=plain.joints_hm,
    )
    turn = rotmat_to_rotvec(plain.rotmats.transpose(-1, -2) @ mirrored.rotmats)
    distance = mpjpe_mm(
        predicted_m=plain.joints_m - plain.joints_m[:, :1], target_m=mirrored.joints_m - mirrored.joints_m[:, :1]
    )
    return FlipTested(answer, torch.rad2deg(turn.norm(dim=-1)).mean(dim=-1), distance)


def unflip(annotator: Annotator, answer: Annotation) -> Annotation:
    """The answer for a mirrored crop as one for the crop: sides exchanged, x turned round.

    A mirrored array takes pixel i to W - 1 - i, a mirrored camera x to W - x: the pixel between is made up for at the
    body's depth.
    """
    mirror = answer.rotmats.new_tensor([-1.0, 1.0, 1.0]).diag()
    rotmats = mirror @ answer.rotmats[:, list(SMPL24.mirror)] @ mirror
    depth = answer.transl_m[:, 2]
    transl_m = torch.stack([-answer.transl_m[:, 0] - depth / CROP_FOCAL_PX, answer.transl_m[:, 1], depth], dim=-1)
    return annotator.posed(
        rotmats=rotmats,
        betas=answer.betas,
        camera_raw=crop_camera_raw(transl_m, input_size=annotator.config.input_size),
        z=answer.z,
        joints_hm=answer.joints_hm,
    )
