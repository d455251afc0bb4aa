"""I2L-MeshNet (Moon and Lee, 2020): PoseNet localises joints, MeshNet every vertex, by 1D heatmaps along each axis.

For a 256×256 crop and ResNet-50: the stem gives 64×64×64, which goes both into PoseNet (features 2048×8×8, joints) and,
beside the joints' 3D Gaussians, into MeshNet (a second ResNet from its first residual stage on, vertices). Joints are
SMPL's 24 and five of the face (29), or MANO's 16 and five fingertips (21), or what a body of ours has. Stage two
regresses SMPL or MANO parameters from the joints of the mesh. Layer names are the release's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mesh_lib.body.files import Body
from mesh_lib.body.hands import from_mean, is_hand, mean_pose
from mesh_lib.body.joints import MANO16, MANO_TIPS, RIGHT_HAND21, SMPL24, JointSet
from mesh_lib.body.layer import BodyLayer
from mesh_lib.geometry.lixels import BODY_BOX_M, LixelSpace
from mesh_lib.geometry.rotations import rot6d_to_rotmat
from mesh_lib.nets.gaussians import Form, Pose2Feat
from mesh_lib.nets.lean import folded, rerun
from mesh_lib.nets.lixel_heads import HeadConfig, build_head, full_precision
from mesh_lib.nets.packed import PackedTrunk, can_pack
from mesh_lib.nets.resnet import CropNetConfig, Depth, ResNet

STEM_STRIDE, STEM_CHANNELS = 4, 64
LIXEL29 = JointSet("lixel29", (*SMPL24.names, "nose", "left_eye", "right_eye", "left_ear", "right_ear"))
"""What PoseNet predicts of a body."""


@dataclass(frozen=True, kw_only=True)
class LixelConfig(CropNetConfig):
    """What the network is. The defaults are the published ones, for bodies; a hand's box is 0.3 m."""

    input_width: int = 256
    input_height: int = 256
    depth_bins: int = 64
    """Bins along depth; along x and y there is one for 4 pixels."""
    box_m: float = BODY_BOX_M
    """Depth range of the heatmaps in metres: 2 for bodies, 0.3 for hands."""
    sigma: float = 2.5
    """Of the joints' Gaussians, in bins (eq. 3)."""
    cascade: Literal["posenet", "none", "truth"] = "posenet"
    """Whose joints MeshNet sees: PoseNet's, nobody's (it takes the picture then), or the true ones (Table 3)."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """What MeshNet predicts, and how."""
    stage: Literal["lixel", "param"] = "lixel"
    """What learns: all but the parameter regressor, or it alone (five more epochs, as released)."""
    form: Form = "fast"
    """How the Gaussians are convolved: without building their volume, or as published. The numbers are the same."""

    @property
    def bins(self) -> tuple[int, int, int]:
        """(width, height, depth) of the heatmaps."""
        return self.input_width // STEM_STRIDE, self.input_height // STEM_STRIDE, self.depth_bins

    @property
    def space(self) -> LixelSpace:
        return LixelSpace(input_size=self.input_size, bins=self.bins, box_m=self.box_m)


@dataclass(frozen=True)
class LixelOutput:
    """Positions in lixels: (x, y, z) bins, z relative to the root joint (LixelConfig.space leads back to metres)."""

    joints: Float[Tensor, "batch positions 3"]
    """PoseNet's, or the truth as given; of none without a cascade."""
    mesh: Float[Tensor, "batch vertices 3"]
    mesh_joints: Float[Tensor, "batch joints 3"]
    """The joint regressor applied to the mesh."""


@dataclass(frozen=True)
class LixelParameters:
    """Stage two's answer, in the camera's axes."""

    rotmats: Float[Tensor, "batch rotations 3 3"]
    """Joint rotations, each relative to its parent: SMPL's 24, or MANO's 16, which are MANO's parameters, that is,
    relative to its mean pose too (flat_hand_mean is False, as released)."""
    betas: Float[Tensor, "batch 10"]
    vertices_rel_m: Float[Tensor, "batch vertices 3"]
    """Relative to the root joint of the same mesh."""
    joints_rel_m: Float[Tensor, "batch joints 3"]


def lixel_joints(body: Body) -> JointSet:
    """The joints that a body is localised by. Raises ValueError for one that is neither body nor hand."""
    match len(body.parents):
        case 24:
            return LIXEL29
        case 16:
            return RIGHT_HAND21
        case joints:
            raise ValueError(f"{body.name} has {joints} joints: I2L-MeshNet knows SMPL's 24 and MANO's 16")


def lixel_regressor(body: Body) -> np.ndarray:
    """(J, V) rows that make lixel_joints of vertices: the body's own regressor, and one vertex for each other joint."""
    own, single = (SMPL24.names, body.keypoint_vertices) if len(body.parents) == 24 else (MANO16.names, MANO_TIPS)
    dense = body.J_regressor if isinstance(body.J_regressor, np.ndarray) else body.J_regressor.toarray()
    joints = lixel_joints(body)
    rows = np.zeros((len(joints), len(body.v_template)))
    for i, name in enumerate(joints.names):
        if name in own:
            rows[i] = dense[own.index(name)]
        elif single.get(name, len(body.v_template)) < len(body.v_template):
            rows[i, single[name]] = 1.0
        else:
            raise ValueError(f"body {body.name} has no joint or keypoint vertex {name!r}")
    return rows


class Trunk(ResNet):
    """A ResNet whose stem and residual stages are run apart (§3.2), and which may lack either."""

    def __init__(self, depth: Depth, *, stem: bool = True, stages: bool = True, recompute: bool = True) -> None:
        super().__init__(depth)
        self.recompute = recompute
        if not stem:
            del self.conv1, self.bn1, self.maxpool
        for stage in range(1, 5):
            if not stages:
                delattr(self, f"layer{stage}")

    def early(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 64 h4 w4"]:
        return rerun(self, image, by=self._stem) if self.recompute else self._stem(image)

    def _stem(self, image: Tensor) -> Tensor:
        return self.maxpool(self.bn1(self.conv1(image)).relu_())

    def late(self, x: Float[Tensor, "batch 64 h4 w4"]) -> Float[Tensor, "batch channels h32 w32"]:
        for stage in range(1, 5):
            for block in self.get_submodule(f"layer{stage}").children():
                x = rerun(block, x) if self.recompute else block(x)
        return x

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels h32 w32"]:
        return self.late(self.early(x))


class ParamRegressor(nn.Module):
    """Stage two: joints in lixels → 1024 → 512 → 6D rotations and 10 shape coefficients."""

    def __init__(self, *, joints: int, rotations: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((joints * 3, 1024), (1024, 512)):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
        self.fc = nn.Sequential(*layers)
        self.fc_pose = nn.Sequential(nn.Linear(512, rotations * 6))
        self.fc_shape = nn.Sequential(nn.Linear(512, 10))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(
        self, joints: Float[Tensor, "batch joints 3"]
    ) -> tuple[Float[Tensor, "batch rotations 3 3"], Float[Tensor, "batch 10"]]:
        features = self.fc(joints.flatten(1))
        return rot6d_to_rotmat(self.fc_pose(features).float().unflatten(1, (-1, 6))), self.fc_shape(features).float()


class I2LMeshNet(nn.Module):
    """Crops → LixelOutput; LixelOutput → LixelParameters. Vertices, faces and joints are the body's."""

    regressor: Tensor
    hand_mean: Tensor | None

    def __init__(self, config: LixelConfig, *, body: Body) -> None:
        super().__init__()
        self.config = config
        joints, recompute = len(lixel_joints(body)), config.head.recompute
        cascaded = config.cascade != "none"
        if cascaded:
            stages = config.cascade == "posenet"
            self.pose_backbone = Trunk(config.backbone, stages=stages, recompute=recompute)
            self.pose2feat = Pose2Feat(
                channels=STEM_CHANNELS, joints=joints, bins=config.bins, sigma=config.sigma, form=config.form
            )
        self.mesh_backbone = Trunk(config.backbone, stem=not cascaded, recompute=recompute)
        channels = self.mesh_backbone.channels
        if config.cascade == "posenet":
            published = replace(HeadConfig(), channels=config.head.channels, recompute=recompute)
            self.pose_net = build_head(published, inputs=channels, points=joints, bins=config.bins)
        self.mesh_net = build_head(config.head, inputs=channels, points=len(body.v_template), bins=config.bins)
        self.param_regressor = ParamRegressor(joints=joints, rotations=len(body.parents))
        self.body_layer = BodyLayer(body)
        self.register_buffer("regressor", torch.as_tensor(lixel_regressor(body), dtype=torch.float32), persistent=False)
        mean = torch.as_tensor(mean_pose(body), dtype=torch.float32) if is_hand(body) else None
        self.register_buffer("hand_mean", mean, persistent=False)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("param_regressor.") == (config.stage == "param"))
        if config.form == "fast":  # heads stay as they are: their matrix products read weights as they lie
            for name in ("pose_backbone", "pose2feat", "mesh_backbone"):
                if hasattr(self, name):
                    getattr(self, name).to(memory_format=torch.channels_last)
        self.train()

    def train(self, mode: bool = True) -> I2LMeshNet:
        """What does not learn in this stage stays in evaluation mode, running statistics included."""
        super().train(mode)
        for name, module in self.named_children():
            if (name == "param_regressor") != (self.config.stage == "param"):
                module.eval()
        return self

    def forward(
        self, image: Float[Tensor, "batch 3 height width"], joints: Float[Tensor, "batch positions 3"] | None = None
    ) -> LixelOutput:
        """RGB in [0, 1], no mean or deviation subtracted (as released). `joints` are the true ones in lixels, for a
        network whose MeshNet sees those (cascade "truth"). Gradients do not pass from MeshNet into joints."""
        if (joints is None) == (self.config.cascade == "truth"):
            raise ValueError(f"a network with cascade {self.config.cascade!r} is given joints if that is 'truth' only")
        if self.config.cascade == "none":
            joints = image.new_zeros(len(image), 0, 3)
            features = self.mesh_backbone(image)
        else:
            early = self.pose_backbone.early(image)
            if joints is None:
                joints = self.pose_net(self.pose_backbone.late(early))
            assert isinstance(joints, Tensor)
            features = self.mesh_backbone.late(self.pose2feat(early, joints.detach()))
        mesh = self.mesh_net(features)
        with full_precision(mesh):
            return LixelOutput(joints=joints, mesh=mesh, mesh_joints=self.regressor @ mesh)

    def parameters_from(self, output: LixelOutput) -> LixelParameters:
        """Stage two (§5.3's "SMPL regress"): learns from the joints of the mesh, not through them."""
        rotmats, betas = self.param_regressor(output.mesh_joints.detach())
        posed = rotmats if self.hand_mean is None else from_mean(rotmats, self.hand_mean)
        vertices = self.body_layer(rotmats=posed, betas=betas).vertices_m
        joints = self.regressor @ vertices
        root = joints[:, :1]  # the pelvis, or the wrist
        return LixelParameters(rotmats, betas, vertices_rel_m=vertices - root, joints_rel_m=joints - root)

    def for_inference(self) -> I2LMeshNet:
        """A copy with batch norms folded into weights and, on CPUs, backbones packed: the same answers, sooner.

        It cannot learn, nor be saved.
        """
        quick = folded(self)
        if can_pack(quick):
            for name in ("pose_backbone", "mesh_backbone"):
                if hasattr(quick, name):
                    setattr(quick, name, PackedTrunk(getattr(quick, name)))
        return quick


_PARTS = ("pose_backbone", "pose_net", "pose2feat", "mesh_backbone", "mesh_net", "param_regressor")


def rename_lixel(name: str) -> str | None:
    """The release's names to ours, which differ in nothing but what ours has no place for: MeshNet's unused stem
    (`mesh_backbone.conv1`, `.bn1`), and the buffers of the body models (`human_model_layer.*`)."""
    part, _, rest = name.partition(".")
    if part not in _PARTS or (part == "mesh_backbone" and rest.startswith(("conv1.", "bn1."))):
        return None
    return name
