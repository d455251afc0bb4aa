"""From samples of right hands to what I2L-MeshNet is taught: MANO in place of SMPL, the wrist in place of the pelvis.

Hands are never mirrored: a mirrored right hand is a left one, which MANO_RIGHT cannot be posed as, and of which the
network says nothing when it is asked; the release leaves the flip out too (data/FreiHAND: exclude_flip). Scale,
rotation and colour are those of bodies. Left hands of a dataset (InterHand2.6M has both) teach nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mesh_lib.body.files import Body
from mesh_lib.body.hands import check_right_hand, mean_pose
from mesh_lib.body.joints import RIGHT_HAND21
from mesh_lib.body.layer import BodyLayer
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.lixel_supervision import Known, LixelLesson, make_lesson
from mesh_lib.nets.lixel import I2LMeshNet, lixel_regressor
from mesh_lib.supervision import Shot, turn_points, warp_points

WRIST = RIGHT_HAND21.index("right_wrist")


@dataclass(frozen=True, kw_only=True)
class HandTruth(Shot):
    """What a batch of samples knows of right hands, unaugmented; joints in the order of RIGHT_HAND21.

    Absent values are zero with a validity of zero. `flip` is False.
    """

    keypoints_2d_px: Float[Tensor, "batch 21 3"]
    keypoints_3d_m: Float[Tensor, "batch 21 4"]
    mano_rotvec: Float[Tensor, "batch 16 3"]
    """Relative to the mean pose; joint 0 relative to the camera."""
    mano_betas: Float[Tensor, "batch 10"]
    mano_transl_m: Float[Tensor, "batch 3"]
    mano_transl_valid: Bool[Tensor, " batch"]
    """False where a dataset was read without MANO's file, which its translations need."""
    mano_valid: Bool[Tensor, " batch"]


@dataclass(frozen=True)
class Hands:
    """Posed right hands in the camera's frame."""

    vertices_m: Float[Tensor, "batch 778 3"]
    joints_m: Float[Tensor, "batch 21 3"]
    """The regressor of I2L-MeshNet applied to the mesh."""
    placed: Bool[Tensor, " batch"]
    """False where nobody knows where the hand is: it stands at MANO's own place then."""


class HandModel(nn.Module):
    """MANO's parameters to meshes. Raises ValueError for a hand that is no right one (check_right_hand)."""

    regressor: Tensor
    mean: Tensor

    def __init__(self, body: Body) -> None:
        super().__init__()
        check_right_hand(body)
        self.layer = BodyLayer(body)
        self.register_buffer("regressor", torch.as_tensor(lixel_regressor(body), dtype=torch.float32), persistent=False)
        self.register_buffer("mean", torch.as_tensor(mean_pose(body), dtype=torch.float32), persistent=False)

    def rotmats(self, rotvec: Float[Tensor, "batch 16 3"]) -> Float[Tensor, "batch 16 3 3"]:
        """What poses the mesh, of MANO's parameters."""
        return rotvec_to_rotmat(rotvec + self.mean)

    @torch.no_grad()
    def forward(self, truth: HandTruth) -> Hands:
        """A mesh without a translation is moved so that its wrist lies on the labelled one, where there is that."""
        vertices_m = self.layer(rotmats=self.rotmats(truth.mano_rotvec), betas=truth.mano_betas).vertices_m
        joints_m = self.regressor @ vertices_m
        wrist = truth.keypoints_3d_m[:, WRIST]
        labelled = (wrist[:, 3] > 0)[:, None]
        found_m = torch.where(labelled, wrist[:, :3] - joints_m[:, WRIST], 0.0)
        moved_m = torch.where(truth.mano_transl_valid[:, None], truth.mano_transl_m, found_m)[:, None]
        placed = truth.mano_valid & (truth.mano_transl_valid | labelled[:, 0])
        return Hands(vertices_m + moved_m, joints_m + moved_m, placed)


class HandTeacher(nn.Module):
    """Makes lessons of batches of right hands, as LixelTeacher does of bodies."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.model = HandModel(body)

    @torch.no_grad()
    def forward(self, truth: HandTruth, network: I2LMeshNet, *, check_fits: bool = True) -> LixelLesson:
        """`check_fits`: MANO that is far from the dataset's own joints teaches nothing."""
        hands, mesh_valid = self.model(truth), truth.mano_valid & ~truth.weak
        valid_3d = self._valid_3d(truth)
        joints_rel_m = truth.keypoints_3d_m[..., :3] - truth.keypoints_3d_m[:, WRIST, None, :3]
        wrist = truth.keypoints_3d_m[:, WRIST]
        known = Known(
            posed=_turned(self.model.rotmats(truth.mano_rotvec), truth),
            rotmats=_turned(rotvec_to_rotmat(truth.mano_rotvec), truth),
            betas=truth.mano_betas,
            mesh_valid=(mesh_valid & hands.placed).float(),
            mesh_placed=(mesh_valid & hands.placed & (truth.focal_px > 0).all(dim=1)).float(),
            root_m=hands.joints_m[:, WRIST, None],
            keypoints_crop_px=warp_points(truth.keypoints_2d_px[..., :2], truth),
            keypoints_valid=(truth.keypoints_2d_px[..., 2] > 0).float(),
            joints_rel_m=turn_points(joints_rel_m, truth),
            joints_rel_valid=valid_3d.float(),
            root_depth_m=torch.where(wrist[:, 3] > 0, wrist[:, 2], torch.nan),
        )
        return make_lesson(known, truth, network, check_fits=check_fits)

    @torch.no_grad()
    def true_joints_m(self, truth: HandTruth) -> tuple[Float[Tensor, "batch 21 3"], Bool[Tensor, " batch"]]:
        """All joints as the picture was turned, from the wrist: the dataset's own, else MANO's; and who has them."""
        whole, mesh_m = self._valid_3d(truth).all(dim=1), self.model(truth).joints_m
        joints_m = torch.where(whole[:, None, None], truth.keypoints_3d_m[..., :3], mesh_m)
        joints_rel_m = turn_points(joints_m - joints_m[:, WRIST, None], truth)
        return joints_rel_m, whole | (truth.mano_valid & ~truth.weak)

    @staticmethod
    def _valid_3d(truth: HandTruth) -> Tensor:
        valid = truth.keypoints_3d_m[..., 3] > 0
        return valid & valid[:, WRIST, None] & ~truth.weak[:, None]


def _turned(rotmats: Tensor, shot: Shot) -> Tensor:
    """The wrist turned about the optical axis, as the picture was."""
    wrist = turn_points(rotmats[:, 0].mT, shot).mT
    return torch.cat([wrist[:, None], rotmats[:, 1:]], dim=1)
