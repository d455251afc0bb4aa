"""What I2L-MeshNet is taught lies where the crop shows it, and what is not known teaches nothing."""

from __future__ import annotations

import pytest
import torch

from mesh_lib.body.files import Body
from mesh_lib.body.joints import BODY33
from mesh_lib.body.layer import BodyLayer, KeypointLayer
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.lixel_supervision import COMMON, NOWHERE, LixelTeacher
from mesh_lib.nets.lixel import LIXEL29, I2LMeshNet, LixelConfig
from mesh_lib.nets.lixel_heads import HeadConfig
from mesh_lib.supervision import make_targets
from tests.mesh_lib.test_supervision import AUGMENTATIONS, SIZE, make_truth

SHARED_LIXEL, SHARED_BODY = LIXEL29.indices(COMMON), BODY33.indices(COMMON)


@pytest.fixture(scope="module")
def keypoints(body: Body) -> KeypointLayer:
    return KeypointLayer(body, BODY33)


@pytest.fixture(scope="module")
def net(body: Body) -> I2LMeshNet:
    head = HeadConfig(channels=8)
    return I2LMeshNet(LixelConfig(backbone=18, input_width=SIZE[0], input_height=SIZE[1], head=head), body=body)


@pytest.fixture(scope="module")
def teacher(body: Body) -> LixelTeacher:
    return LixelTeacher(body)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_joints_in_lixels_are_where_the_augmented_crop_shows_them(
    net: I2LMeshNet, teacher: LixelTeacher, keypoints: KeypointLayer, name: str
) -> None:
    truth = make_truth(keypoints, AUGMENTATIONS[name])
    lesson, targets = teacher(truth, net), make_targets(truth, keypoints=keypoints)
    for joints in (lesson.lixels.joints_fit, lesson.lixels.joints_orig, lesson.joints):
        seen_px, depth_m = net.config.space.to_crop(joints)
        # Half a pixel, not less: a mirrored pose is that of a body that is not quite symmetric.
        assert (seen_px[:, SHARED_LIXEL] - targets.keypoints_crop_px[:, SHARED_BODY]).norm(dim=2).max() < 0.5
        off_m = depth_m[:, SHARED_LIXEL] - targets.joints_rel_m[:, SHARED_BODY, 2]
        assert off_m.abs().max() < 0.005
    assert lesson.lixels.fit_valid.all() and lesson.lixels.depth_valid.all()


def test_vertices_in_lixels_lead_back_to_the_mesh_before_the_camera(
    body: Body, net: I2LMeshNet, teacher: LixelTeacher, keypoints: KeypointLayer
) -> None:
    truth = make_truth(keypoints, AUGMENTATIONS["none"])
    lesson = teacher(truth, net)
    found_m = net.config.space.back_project(
        lesson.lixels.mesh_fit, root_depth_m=lesson.root_depth_m, affine=truth.affine, focal_px=truth.focal_px,
        princpt_px=truth.princpt_px,
    )  # fmt: skip
    betas = torch.where(truth.smpl_betas.abs().amax() > 3, 0.0, truth.smpl_betas)
    mesh_m = BodyLayer(body)(rotmats=rotvec_to_rotmat(truth.smpl_rotvec), betas=betas).vertices_m
    torch.testing.assert_close(found_m, mesh_m + truth.smpl_transl_m[:, None], rtol=0, atol=1e-3)


def test_samples_without_3d_teach_their_joints_flat(
    net: I2LMeshNet, teacher: LixelTeacher, keypoints: KeypointLayer
) -> None:
    truth = make_truth(
        keypoints, AUGMENTATIONS["none"], keypoints_3d_m=torch.zeros(1, 33, 4), smpl_valid=torch.tensor([False]),
        smpl_rotvec=torch.zeros(1, 24, 3),
    )  # fmt: skip
    lesson = teacher(truth, net)
    assert not lesson.lixels.depth_valid.any() and not lesson.lixels.fit_valid.any()
    assert lesson.lixels.joints_orig_valid[:, SHARED_LIXEL].all()
    assert lesson.lixels.joints_orig_valid.sum() == len(COMMON)
    assert lesson.root_depth_m.isnan().all(), "nobody knows how far away they are"
    unknown = [i for i in range(29) if i not in SHARED_LIXEL]
    assert (lesson.joints[:, unknown] == NOWHERE).all()
    assert all(torch.isfinite(part).all() for part in vars(lesson.lixels).values())


def test_a_label_far_from_the_joints_teaches_nothing_unless_asked(
    net: I2LMeshNet, teacher: LixelTeacher, keypoints: KeypointLayer
) -> None:
    """3 lixels are 12 pixels of the crop: a label 20 px aside is out, one 8 px aside is in (release)."""
    plain = make_truth(keypoints, AUGMENTATIONS["none"], keypoints_3d_m=torch.zeros(1, 33, 4))
    scale = plain.affine[0, 0, 0].item()
    for aside_px, taught in ((8.0, 1.0), (20.0, 0.0)):
        moved = plain.keypoints_2d_px + torch.tensor([aside_px / scale, 0, 0])
        truth = make_truth(keypoints, AUGMENTATIONS["none"], keypoints_3d_m=plain.keypoints_3d_m, keypoints_2d_px=moved)
        assert teacher(truth, net).lixels.fit_valid.item() == taught, aside_px
        assert teacher(truth, net, check_fits=False).lixels.fit_valid.item() == 1


def test_a_fit_far_from_3d_joints_teaches_nothing(
    net: I2LMeshNet, teacher: LixelTeacher, keypoints: KeypointLayer
) -> None:
    """Once their means are aligned: a mere shift of 20 cm does not count, a hand 60 cm off does (25 mm a joint)."""
    plain = make_truth(keypoints, AUGMENTATIONS["none"])
    shifted = plain.keypoints_3d_m + torch.tensor([0.2, 0, 0, 0])
    truth = make_truth(keypoints, AUGMENTATIONS["none"], keypoints_3d_m=shifted)
    assert teacher(truth, net).lixels.fit_valid.item() == 1
    bent = plain.keypoints_3d_m.clone()
    bent[:, BODY33.index("left_wrist"), 2] += 0.6
    truth = make_truth(keypoints, AUGMENTATIONS["none"], keypoints_3d_m=bent)
    assert teacher(truth, net).lixels.fit_valid.item() == 0
