"""The iterative regressor of HMR (Kanazawa et al., 2018) as SPIN has it (Kolotouros et al., 2019, §3.1).

A 224×224 crop, ResNet-50, pooled features of 2048. From the mean body on, three times: features beside the current
6D pose (144), shape (10) and camera (3), 2205 numbers, go through two layers of 1024 (with dropout, and, as published,
nothing else between them) to a correction of all three. With one iteration it is the paper's "SMPL param." of
I2L-MeshNet's Table 1, but for widths. Layer names are the release's, with the backbone's under `backbone`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mesh_lib.body.files import Body
from mesh_lib.body.joints import BODY33, SMPL24
from mesh_lib.body.layer import KeypointLayer
from mesh_lib.geometry.cameras import project_to_crop, weak_perspective_translation_m
from mesh_lib.geometry.rotations import rot6d_to_rotmat
from mesh_lib.nets.checkpoints import rename_backbone
from mesh_lib.nets.packed import ready
from mesh_lib.nets.pose2d import IMAGENET_DEVIATION, IMAGENET_MEAN
from mesh_lib.nets.resnet import CropNetConfig, ResNet

POSE, BETAS, CAMERA = len(SMPL24) * 6, 10, 3
SCALE_EPSILON = 1e-9
"""Added to 224·s where SPIN divides by it."""


@dataclass(frozen=True, kw_only=True)
class HmrConfig(CropNetConfig):
    """What the network is. The defaults are the published ones."""

    input_width: int = 224
    input_height: int = 224
    iterations: int = 3
    """Corrections of the mean body."""
    width: int = 1024
    """Of the two hidden layers."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input_width != self.input_height:
            raise ValueError(f"crop {self.input_width}x{self.input_height}: HMR's camera is one of square crops")
        if self.iterations < 1:
            raise ValueError(f"{self.iterations} iterations: at least one is needed")


@dataclass(frozen=True)
class MeanParameters:
    """Where the iterations start."""

    pose_6d: Float[Tensor, " 144"]
    betas: Float[Tensor, " 10"]
    camera: Float[Tensor, " 3"]
    """(s, t_x, t_y)."""

    @staticmethod
    def upright() -> MeanParameters:
        """The rest pose, upright before the camera (SMPL's y is up, the camera's down), and SPIN's camera.

        For training without the licensed mean. A checkpoint of SPIN brings its own.
        """
        pose = torch.eye(3)[:, :2].repeat(len(SMPL24), 1, 1)
        pose[0, 1, 1] = -1.0
        return MeanParameters(pose.flatten(), torch.zeros(BETAS), torch.tensor([0.9, 0.0, 0.0]))

    @staticmethod
    def load(path: str | Path) -> MeanParameters:
        """Of SPIN's smpl_mean_params.npz (`pose`, `shape`, `cam`). Raises ValueError for another file."""
        sizes = {"pose": POSE, "shape": BETAS, "cam": CAMERA}
        try:
            with np.load(path, allow_pickle=False) as file:
                values = [torch.as_tensor(file[name].astype(np.float32).ravel()) for name in sizes]
        except Exception as error:  # numpy and zipfile raise nearly anything on damaged input
            raise ValueError(f"{path} does not hold SPIN's mean parameters (pose, shape, cam): {error}") from None
        found = dict(zip(sizes, map(len, values), strict=True))
        if found != sizes:
            raise ValueError(f"{path}: mean parameters of {found} numbers, expected {sizes}")
        return MeanParameters(*values)


@dataclass(frozen=True)
class HmrOutput:
    """The regressor's last correction."""

    rotmats: Float[Tensor, "batch 24 3 3"]
    """Joint rotations, each relative to its parent; joint 0 relative to the camera."""
    betas: Float[Tensor, "batch 10"]
    camera: Float[Tensor, "batch 3"]
    """Weak perspective (s, t_x, t_y): u = s (x + t) in [-1, 1] of the crop (docs/cameras.md)."""


@dataclass(frozen=True)
class HmrAnswer:
    """HmrOutput, and the body's joints under it."""

    rotmats: Float[Tensor, "batch 24 3 3"]
    betas: Float[Tensor, "batch 10"]
    camera: Float[Tensor, "batch 3"]
    transl_m: Float[Tensor, "batch 3"]
    """Translation of the body in the crop's virtual camera (focal 5000)."""
    joints_m: Float[Tensor, "batch 33 3"]
    """BODY33 joints of the mesh, camera frame, with the translation."""
    joints_crop_px: Float[Tensor, "batch 33 2"]


class Hmr(nn.Module):
    """The regressor: crops → HmrOutput."""

    mean: Tensor
    deviation: Tensor
    init_pose: Tensor
    init_shape: Tensor
    init_cam: Tensor

    def __init__(self, config: HmrConfig, *, start: MeanParameters | None = None) -> None:
        """`start` may be None: MeanParameters.upright()."""
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION)[:, None, None], persistent=False)
        self.start_from(start or MeanParameters.upright())
        self.backbone = ResNet(config.backbone)
        self.fc1 = nn.Linear(self.backbone.channels + POSE + BETAS + CAMERA, config.width)
        self.fc2 = nn.Linear(config.width, config.width)
        self.decpose = nn.Linear(config.width, POSE)
        self.decshape = nn.Linear(config.width, BETAS)
        self.deccam = nn.Linear(config.width, CAMERA)
        self.drop = nn.Dropout(config.dropout)
        for layer in (self.decpose, self.decshape, self.deccam):
            nn.init.xavier_uniform_(layer.weight, gain=0.01)  # first corrections are small
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def start_from(self, start: MeanParameters) -> None:
        """Where the iterations begin."""
        for name, value in (("pose", start.pose_6d), ("shape", start.betas), ("cam", start.camera)):
            self.register_buffer(f"init_{name}", value[None].clone())

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> HmrOutput:
        """RGB in [0, 1]; ImageNet's mean and deviation are taken off here."""
        pooled = self.backbone((image - self.mean) / self.deviation).mean(dim=(2, 3))
        pose, betas, camera = (
            start.expand(len(image), -1) for start in (self.init_pose, self.init_shape, self.init_cam)
        )
        for _ in range(self.config.iterations):
            hidden = self.drop(self.fc1(torch.cat([pooled, pose, betas, camera], dim=1)))
            hidden = self.drop(self.fc2(hidden))
            pose, betas = pose + self.decpose(hidden), betas + self.decshape(hidden)
            camera = camera + self.deccam(hidden)
        rotmats = rot6d_to_rotmat(pose.float().unflatten(1, (-1, 6)))
        return HmrOutput(rotmats=rotmats, betas=betas.float(), camera=camera.float())


class HmrEstimator(nn.Module):
    """The regressor and the body: crops → HmrAnswer."""

    def __init__(self, config: HmrConfig, *, body: Body, start: MeanParameters | None = None) -> None:
        super().__init__()
        self.config = config
        self.regressor = Hmr(config, start=start)
        self.keypoints = KeypointLayer(body, BODY33)

    def for_inference(self) -> HmrEstimator:
        """A copy that gives the same answers but for rounding, sooner; it cannot learn, nor be saved."""
        quick = copy.deepcopy(self).eval().requires_grad_(False)
        quick.regressor = ready(self.regressor)
        return quick

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> HmrAnswer:
        out = self.regressor(image)
        with torch.autocast(image.device.type, enabled=False):
            width = float(self.config.input_width)
            transl_m = weak_perspective_translation_m(
                out.camera[:, 0] + SCALE_EPSILON / width, out.camera[:, 1:], convention="spin", input_px=width
            )
            joints_m = self.keypoints(rotmats=out.rotmats, betas=out.betas) + transl_m[:, None]
        return HmrAnswer(
            rotmats=out.rotmats,
            betas=out.betas,
            camera=out.camera,
            transl_m=transl_m,
            joints_m=joints_m,
            joints_crop_px=project_to_crop(joints_m, input_size=self.config.input_size),
        )


_HEADS = ("fc1", "fc2", "decpose", "decshape", "deccam", "init_pose", "init_shape", "init_cam")


def rename_spin(name: str) -> str | None:
    """SPIN's names to our Hmr's; None for what has no place there (an `fc` of ImageNet's)."""
    if (part := rename_backbone(name)) is not None:
        return f"backbone.{part}"
    return name if name.partition(".")[0] in _HEADS else None
