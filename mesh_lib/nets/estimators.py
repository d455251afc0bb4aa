"""Networks that estimate bodies from crops: built by their settings, and all of them answering with meshes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mesh_lib.body.files import Body
from mesh_lib.body.layer import BodyLayer
from mesh_lib.geometry.cameras import project, project_to_crop
from mesh_lib.nets.annotator import Annotator
from mesh_lib.nets.hmr import HmrConfig, HmrEstimator
from mesh_lib.nets.lixel import I2LMeshNet, LixelConfig
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.vposer import VPoser

EstimatorConfig = Pose2PoseConfig | HmrConfig | LixelConfig
Estimator = Annotator | HmrEstimator | I2LMeshNet


def build_estimator(config: EstimatorConfig, *, body: Body, vposer: VPoser | None = None) -> Estimator:
    """An untrained network. Raises ValueError for a Pose2Pose with the vposer head and no VPoser."""
    match config:
        case Pose2PoseConfig():
            return Annotator(config, body=body, vposer=vposer)
        case HmrConfig():
            return HmrEstimator(config, body=body)
        case LixelConfig():
            return I2LMeshNet(config, body=body)
        case _:
            assert_never(config)


@dataclass(frozen=True, kw_only=True)
class View:
    """How crops lie in their pictures, and the pictures before their cameras: what lixels need to become metres."""

    affine: Float[Tensor, "batch 2 3"]
    """Image pixels to crop pixels."""
    focal_px: Float[Tensor, "batch 2"]
    princpt_px: Float[Tensor, "batch 2"]
    root_depth_m: Float[Tensor, " batch"]
    """Of the pelvis, or the wrist; from the truth, or from the box (`box_root_depth_m`)."""


@dataclass(frozen=True, kw_only=True)
class Bodies:
    """What a network says of a batch of crops."""

    vertices_m: Float[Tensor, "batch vertices 3"]
    """In metres and the axes of the camera; where they stand is the network's own idea."""
    rotmats: Float[Tensor, "batch rotations 3 3"] | None
    """Joint rotations as the network says them (of hands relative to the mean pose); None from one that has none."""
    keypoints_crop_px: Float[Tensor, "batch 33 2"] | None
    """BODY33 joints in the crop; None from a network that does not say."""
    camera: View | None
    """The camera that the vertices stand before; None: the crop's virtual one."""
    input_size: tuple[int, int]

    def crop_px(self, points_m: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points 2"]:
        """Where points of the mesh (its joints, say) are seen in the crop, pixels."""
        if self.camera is None:
            return project_to_crop(points_m, input_size=self.input_size)
        pixels = project(points_m, focal_px=self.camera.focal_px, princpt_px=self.camera.princpt_px)
        return pixels @ self.camera.affine[:, :, :2].mT + self.camera.affine[:, None, :, 2]


class Mesher(nn.Module):
    """Crops → Bodies, by a trained network."""

    def __init__(self, network: Estimator, body: Body) -> None:
        """Raises ValueError for a network that can only be asked with the truth in hand."""
        super().__init__()
        if isinstance(network, I2LMeshNet) and network.config.cascade == "truth":
            raise ValueError(
                "this network's MeshNet is given the true joints (cascade truth): it is scored in training "
                "(--validate), and cannot be used on pictures alone"
            )
        self.network, self.layer = network, BodyLayer(body)

    @property
    def needs_camera(self) -> bool:
        """Whether its answers are metres only once the picture's camera and the root's depth are known."""
        return isinstance(self.network, I2LMeshNet) and self.network.config.stage == "lixel"

    def forward(self, image: Float[Tensor, "batch 3 height width"], view: View) -> Bodies:
        answer, size = self.network(image), self.network.config.input_size
        with torch.autocast(image.device.type, enabled=False):
            if not isinstance(self.network, I2LMeshNet):
                vertices_m = self.layer(rotmats=answer.rotmats, betas=answer.betas).vertices_m
                vertices_m = vertices_m + answer.transl_m[:, None]
                return Bodies(
                    vertices_m=vertices_m, rotmats=answer.rotmats, keypoints_crop_px=answer.joints_crop_px, camera=None,
                    input_size=size,
                )  # fmt: skip
            mesh_m = self.network.config.space.back_project(
                answer.mesh, root_depth_m=view.root_depth_m, affine=view.affine, focal_px=view.focal_px,
                princpt_px=view.princpt_px,
            )  # fmt: skip
            if self.network.config.stage == "lixel":
                return Bodies(
                    vertices_m=mesh_m, rotmats=None, keypoints_crop_px=None, camera=view, input_size=size
                )  # fmt: skip
            # Stage two knows no place: it stands where the mesh of lixels does, if there is a camera to say where.
            found = self.network.parameters_from(answer)
            root_m = (self.network.regressor @ mesh_m)[:, :1]
            vertices_m = found.vertices_rel_m + torch.where(root_m.isfinite(), root_m, 0.0)
            return Bodies(
                vertices_m=vertices_m, rotmats=found.rotmats, keypoints_crop_px=None, camera=view, input_size=size
            )  # fmt: skip


def box_root_depth_m(
    *, focal_px: Float[Tensor, "batch 2"], box_xywh_px: Float[Tensor, "batch 4"], side_m: float = 2.0
) -> Float[Tensor, " batch"]:
    """Depth at which a square of `side_m` covers the box: k of RootNet (Moon et al., 2019, eq. 2), uncorrected.

    Bodies are taken to fill 2 m × 2 m; RootNet's network learns a factor beside it, which is 1 here.
    """
    area_px = (box_xywh_px[:, 2] * box_xywh_px[:, 3]).clamp_min(1e-6)
    return (focal_px.prod(dim=1) * side_m**2 / area_px).sqrt()
