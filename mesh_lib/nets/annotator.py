"""The annotation network f: a regressor, the frozen VPoser decoder and the body, from picture to posed joints."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mesh_lib.body.files import Body
from mesh_lib.body.joints import BODY33, VPOSER21
from mesh_lib.body.layer import KeypointLayer
from mesh_lib.geometry.cameras import crop_translation_m, project_to_crop
from mesh_lib.geometry.rotations import rot6d_to_rotmat
from mesh_lib.nets.neural_annot import NeuralAnnot
from mesh_lib.nets.packed import ready
from mesh_lib.nets.pose2pose import Pose2Pose, Pose2PoseConfig
from mesh_lib.nets.vposer import VPoser


@dataclass(frozen=True)
class Annotation:
    """SMPL parameters of a batch of crops, and the body's joints under them."""

    rotmats: Float[Tensor, "batch 24 3 3"]
    """Joint rotations, each relative to its parent; joint 0 relative to the camera."""
    betas: Float[Tensor, "batch 10"]
    transl_m: Float[Tensor, "batch 3"]
    """Translation of the body in the crop's virtual camera."""
    z: Float[Tensor, "batch latent"]
    """VPoser's code (vposer head), or no values (rot6d head)."""
    camera_raw: Float[Tensor, "batch 3"]
    joints_hm: Float[Tensor, "batch positions 3"]
    """The position net's answer for its 25 joints, in heatmap bins; no values where the regressor has none."""
    joints_m: Float[Tensor, "batch 33 3"]
    """BODY33 joints of the mesh, camera frame, with the translation."""
    joints_crop_px: Float[Tensor, "batch 33 2"]
    """Their projection into the crop."""


class Annotator(nn.Module):
    """f: crops → Annotation. The VPoser decoder is frozen and always in evaluation mode."""

    def __init__(self, config: Pose2PoseConfig, *, body: Body, vposer: VPoser | None) -> None:
        """vposer may be None for the rot6d head, which does not decode."""
        super().__init__()
        if vposer is None and config.pose_head == "vposer":
            raise ValueError("the vposer head needs a VPoser to decode its poses")
        self.config = config
        self.regressor = Pose2Pose(config) if config.regressor == "pose2pose" else NeuralAnnot(config)
        self.vposer = vposer.eval().requires_grad_(False) if vposer else None
        self.keypoints = KeypointLayer(body, BODY33)

    def train(self, mode: bool = True) -> Annotator:
        super().train(mode)
        if self.vposer:
            self.vposer.eval()
        return self

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Annotation:
        out = self.regressor(image)
        with torch.autocast(image.device.type, enabled=False):
            if self.vposer and self.config.pose_head == "vposer":
                z, body = out.pose, self.vposer.decode(out.pose)
            else:
                z, body = out.pose[:, :0], rot6d_to_rotmat(out.pose.unflatten(1, (len(VPOSER21), 6)))
            hands = torch.eye(3, device=image.device).expand(len(image), 2, 3, 3)
            rotmats = torch.cat([rot6d_to_rotmat(out.root_6d)[:, None], body, hands], dim=1)
            return self.posed(rotmats=rotmats, betas=out.betas, camera_raw=out.camera_raw, z=z, joints_hm=out.joints_hm)

    def for_inference(self) -> Annotator:
        """A copy with the regressor's batch norms folded into weights and, on CPUs, its backbone packed: the same
        answers but for rounding, in little more than half the time. It cannot learn, nor be saved."""
        quick = copy.deepcopy(self).eval().requires_grad_(False)
        quick.regressor = ready(self.regressor)
        return quick

    def posed(
        self,
        *,
        rotmats: Float[Tensor, "batch 24 3 3"],
        betas: Float[Tensor, "batch 10"],
        camera_raw: Float[Tensor, "batch 3"],
        z: Float[Tensor, "batch latent"],
        joints_hm: Float[Tensor, "batch positions 3"],
    ) -> Annotation:
        """The body under these parameters, and where its joints are seen."""
        transl_m = crop_translation_m(camera_raw, input_size=self.config.input_size)
        joints_m = self.keypoints(rotmats=rotmats, betas=betas) + transl_m[:, None]
        return Annotation(
            rotmats=rotmats,
            betas=betas,
            transl_m=transl_m,
            z=z,
            camera_raw=camera_raw,
            joints_hm=joints_hm,
            joints_m=joints_m,
            joints_crop_px=project_to_crop(joints_m, input_size=self.config.input_size),
        )
