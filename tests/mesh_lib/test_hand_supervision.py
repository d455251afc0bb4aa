"""What I2L-MeshNet is taught of right hands lies where the crop shows it, MANO's mean pose included."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mesh_lib.body.files import Body
from mesh_lib.body.hands import check_right_hand, from_mean, is_hand, mean_pose
from mesh_lib.body.joints import MANO16, RIGHT_HAND21, SMPL24
from mesh_lib.body.layer import BodyLayer
from mesh_lib.geometry import crop
from mesh_lib.geometry.lixels import HAND_BOX_M
from mesh_lib.geometry.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from mesh_lib.hand_supervision import HandModel, HandTeacher
from mesh_lib.lixel_supervision import NOWHERE, LixelLesson
from mesh_lib.losses.lixel import LixelLossConfig, Surface, lixel_losses, parameter_losses
from mesh_lib.metrics.regressors import body_regressor, with_fingertips
from mesh_lib.nets.lixel import I2LMeshNet, LixelConfig, LixelOutput, LixelParameters
from mesh_lib.nets.lixel_heads import HeadConfig
from tests.hands import SIDE, hand_arrays, hand_truth, right_hand

TURNED = crop.Augmentation(scale=1.2, rotation_rad=0.7)


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> Body:
    return right_hand(tmp_path_factory.mktemp("hand"))


@pytest.fixture(scope="module")
def net(hand: Body) -> I2LMeshNet:
    config = LixelConfig(
        backbone=18, input_width=SIDE, input_height=SIDE, box_m=HAND_BOX_M, head=HeadConfig(channels=8)
    )
    return I2LMeshNet(config, body=hand)


@pytest.fixture(scope="module")
def teacher(hand: Body) -> HandTeacher:
    return HandTeacher(hand)


def seen(hand: Body, augmentation: crop.Augmentation) -> dict[str, Any]:
    """How crops of the middle of the picture are augmented."""
    affine = crop.crop_affine(
        np.array([30.0, 30, 160, 160]), input_size=(SIDE, SIDE), image_width=SIDE, augmentation=augmentation
    )
    return {
        "affine": torch.from_numpy(affine.astype(np.float32)).expand(2, 2, 3),
        "rotation_rad": torch.full((2,), augmentation.rotation_rad),
    }


def off_px(lesson: LixelLesson, name: str, net: I2LMeshNet, expected_px: torch.Tensor) -> float:
    found_px, _ = net.config.space.to_crop(getattr(lesson.lixels, name))
    return (found_px - expected_px).norm(dim=2).max().item()


@pytest.mark.parametrize("augmentation", [crop.Augmentation(), TURNED], ids=["none", "turned"])
def test_joints_in_lixels_are_where_the_augmented_crop_shows_them(
    hand: Body, net: I2LMeshNet, teacher: HandTeacher, augmentation: crop.Augmentation
) -> None:
    truth = hand_truth(hand, 2, **seen(hand, augmentation))
    expected_px = torch.from_numpy(
        crop.apply_affine(truth.affine[0].numpy(), truth.keypoints_2d_px[..., :2].numpy()).astype(np.float32)
    )
    lesson = teacher(truth, net)
    assert off_px(lesson, "joints_fit", net, expected_px) < 0.05
    assert off_px(lesson, "joints_orig", net, expected_px) < 0.05
    depth_m = truth.keypoints_3d_m[..., 2] - truth.keypoints_3d_m[:, :1, 2]
    for name in ("joints_fit", "joints_orig"):
        _, found_m = net.config.space.to_crop(getattr(lesson.lixels, name))
        torch.testing.assert_close(found_m, depth_m, rtol=0, atol=1e-5)
    assert lesson.lixels.fit_valid.all() and lesson.lixels.depth_valid.all()
    torch.testing.assert_close(lesson.root_depth_m, truth.keypoints_3d_m[:, 0, 2])


def test_vertices_in_lixels_lead_back_to_manos_mesh(hand: Body, net: I2LMeshNet, teacher: HandTeacher) -> None:
    truth = hand_truth(hand, 2, **seen(hand, TURNED))
    lesson = teacher(truth, net)
    found_m = net.config.space.back_project(
        lesson.lixels.mesh_fit, root_depth_m=lesson.root_depth_m, affine=truth.affine, focal_px=truth.focal_px,
        princpt_px=truth.princpt_px,
    )  # fmt: skip
    torch.testing.assert_close(found_m, HandModel(hand)(truth).vertices_m, rtol=0, atol=1e-4)


def test_an_answer_that_is_the_lesson_costs_nothing(hand: Body, net: I2LMeshNet, teacher: HandTeacher) -> None:
    """In both stages: the parameters are MANO's, relative to the mean pose, of the turned crop."""
    lesson = teacher(hand_truth(hand, 2, **seen(hand, TURNED)), net)
    output = LixelOutput(
        joints=lesson.lixels.joints_fit, mesh=lesson.lixels.mesh_fit, mesh_joints=lesson.lixels.joints_fit
    )
    losses = lixel_losses(output, lesson.lixels, surface=Surface.of(hand.faces), config=LixelLossConfig())
    assert all(value < 1e-3 for name, value in losses.items() if name != "mesh_normal"), losses
    rotmats, betas = lesson.parameters.rotmats, lesson.parameters.betas
    posed = net.body_layer(rotmats=from_mean(rotmats, torch.from_numpy(mean_pose(hand)).float()), betas=betas)
    joints = net.regressor @ posed.vertices_m
    answer = LixelParameters(rotmats, betas, posed.vertices_m - joints[:, :1], joints - joints[:, :1])
    costs = parameter_losses(answer, lesson.parameters, config=LixelLossConfig())
    assert all(value < 1e-5 for value in costs.values()), costs


def test_stage_two_poses_its_mesh_from_the_mean_pose(hand: Body, net: I2LMeshNet) -> None:
    """A pose of zeros is MANO's mean."""
    with torch.no_grad():
        net.param_regressor.fc_pose[0].weight.zero_()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        flat = torch.eye(3)[:, :2].flatten().repeat(16)
        net.param_regressor.fc_pose[0].bias.copy_(flat)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        points = torch.rand(1, 778, 3)
        found = net.eval().parameters_from(LixelOutput(points[:, :21], points, points[:, :21]))
        mean = rotvec_to_rotmat(torch.from_numpy(mean_pose(hand)).float())[None]
        mesh_m = BodyLayer(hand)(rotmats=mean, betas=found.betas).vertices_m
    torch.testing.assert_close(found.rotmats, torch.eye(3).expand(1, 16, 3, 3), rtol=0, atol=1e-6)
    wrist = (net.regressor @ mesh_m)[:, :1]
    torch.testing.assert_close(found.vertices_rel_m, mesh_m - wrist, rtol=0, atol=1e-6)


def test_the_mean_pose_is_added_to_rotation_vectors() -> None:
    rng = torch.Generator().manual_seed(0)
    rotvec, mean = (torch.randn(16, 3, generator=rng) * 0.4 for _ in range(2))
    mean[0] = 0
    found = from_mean(rotvec_to_rotmat(rotvec), mean)
    torch.testing.assert_close(rotmat_to_rotvec(found), rotvec + mean, rtol=0, atol=1e-5)


def test_without_a_translation_the_mesh_lies_on_the_labelled_wrist(
    hand: Body, net: I2LMeshNet, teacher: HandTeacher
) -> None:
    whole = hand_truth(hand, 2)
    no = torch.zeros(2) > 0
    lost = dataclasses.replace(whole, mano_transl_m=torch.zeros(2, 3), mano_transl_valid=no)
    torch.testing.assert_close(HandModel(hand)(lost).vertices_m, HandModel(hand)(whole).vertices_m, rtol=0, atol=1e-6)
    blind = dataclasses.replace(lost, keypoints_3d_m=torch.zeros(2, 21, 4))
    assert not HandModel(hand)(blind).placed.any() and not teacher(blind, net).lixels.fit_valid.any()


def test_what_is_not_known_teaches_nothing(hand: Body, net: I2LMeshNet, teacher: HandTeacher) -> None:
    yes, no = torch.ones(2) > 0, torch.zeros(2) > 0
    whole = hand_truth(hand, 2)
    bare = teacher(dataclasses.replace(whole, mano_valid=no), net).lixels
    assert not bare.fit_valid.any() and bare.joints_orig_valid.all() and bare.depth_valid.all()
    weak = teacher(dataclasses.replace(whole, weak=yes), net).lixels
    assert not weak.fit_valid.any() and not weak.depth_valid.any() and weak.joints_orig_valid.all()
    dark = teacher(dataclasses.replace(whole, focal_px=torch.zeros(2, 2)), net).lixels
    assert not dark.fit_valid.any(), "without a camera nothing is projected"
    hidden = whole.keypoints_2d_px.clone()
    hidden[:, 3, 2] = 0
    part = teacher(dataclasses.replace(whole, keypoints_2d_px=hidden, mano_valid=no), net)
    assert not part.lixels.joints_orig_valid[:, 3].any() and part.lixels.joints_orig_valid[:, 4:].all()
    assert (part.joints[:, 3] == NOWHERE).all()


def test_manos_that_are_far_from_the_datasets_joints_teach_nothing(
    hand: Body, net: I2LMeshNet, teacher: HandTeacher
) -> None:
    truth = hand_truth(hand, 2)
    truth.keypoints_3d_m[0, 1:, :2] *= -1  # another hand altogether
    assert teacher(truth, net).lixels.fit_valid.tolist() == [0, 1]
    assert teacher(truth, net, check_fits=False).lixels.fit_valid.tolist() == [1, 1]


def test_errors_are_taken_against_the_datasets_joints_else_manos(hand: Body, teacher: HandTeacher) -> None:
    truth = hand_truth(hand, 2)
    truth.keypoints_3d_m[:, 5, :3] += 0.01
    own_m, known = teacher.true_joints_m(truth)
    torch.testing.assert_close(own_m, truth.keypoints_3d_m[..., :3] - truth.keypoints_3d_m[:, :1, :3])
    assert known.all()
    truth.keypoints_3d_m[0, 9, 3] = 0
    mixed_m, known = teacher.true_joints_m(truth)
    joints_m = HandModel(hand)(truth).joints_m
    torch.testing.assert_close(mixed_m[0], joints_m[0] - joints_m[0, :1])
    torch.testing.assert_close(mixed_m[1], own_m[1])
    nothing = dataclasses.replace(truth, keypoints_3d_m=torch.zeros(2, 21, 4), mano_valid=torch.zeros(2) > 0)
    assert known.all() and not teacher.true_joints_m(nothing)[1].any()


def test_a_left_hand_and_one_without_its_mean_pose_are_refused(hand: Body, tmp_path: Path) -> None:
    assert is_hand(hand) and check_right_hand(hand) is None
    with pytest.raises(ValueError, match="is a left one"):
        HandTeacher(right_hand(tmp_path, **hand_arrays(side=-1)))
    with pytest.raises(ValueError, match=r"has no hands_mean[\s\S]*MANO_RIGHT.pkl"):
        HandTeacher(right_hand(tmp_path, hands_mean=None))


def test_a_hands_own_regressor_gives_the_21_joints(hand: Body) -> None:
    regressor = with_fingertips(body_regressor(hand))
    assert regressor.joint_set is RIGHT_HAND21 and body_regressor(hand).joint_set is MANO16 is not SMPL24
    vertices_m = torch.from_numpy(hand.v_template)
    at = dict(zip(RIGHT_HAND21.names, regressor.joints_m(vertices_m), strict=True))
    for finger in ("index", "middle", "ring", "pinky"):
        reach = [0.09 - at[f"right_{finger}{i}"][0].item() for i in (1, 2, 3, 4)]
        np.testing.assert_allclose(reach, [0.09, 0.118, 0.146, 0.178], atol=1e-9)
