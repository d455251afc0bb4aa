"""Pose2Pose's published shapes and constants, and its two geometric steps against plain definitions."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from mesh_lib.body.joints import POSE2POSE25
from mesh_lib.nets.pose2pose import DEPTH_BINS, Pose2Pose, Pose2PoseConfig, sample_at_joints, soft_argmax


def test_the_published_shapes_at_256_by_192_with_resnet_50() -> None:
    net = Pose2Pose(Pose2PoseConfig()).eval()
    assert net.config.heatmap_size == (6, 8, 8)
    assert Pose2PoseConfig(input_width=256, input_height=256).heatmap_size == (8, 8, 8), "a hand's crop"
    assert net.position.weight.shape == (25 * 8, 2048, 1, 1)
    assert net.reduce[0].weight.shape == (512, 2048, 1, 1)
    assert net.root.in_features == net.pose.in_features == 25 * (512 + 3) == 12_875
    assert net.root.out_features == 6 and net.pose.out_features == 32
    assert (net.shape.in_features, net.shape.out_features) == (2048, 10)
    assert (net.camera.in_features, net.camera.out_features) == (2048, 3)
    with torch.no_grad():
        out = net(torch.rand(2, 3, 256, 192))
    assert out.joints_hm.shape == (2, 25, 3) and out.pose.shape == (2, 32) and out.root_6d.shape == (2, 6)


@pytest.mark.parametrize(("head", "parameters"), [("rot6d", 26_694_213), ("vposer", 25_483_869)])
def test_it_has_the_published_number_of_parameters(head: Literal["rot6d", "vposer"], parameters: int) -> None:
    """ResNet-50's trunk 23,508,032; 1×1 convolutions 2048 → 200 and 512, with batch norm; four linear layers."""
    assert sum(p.numel() for p in Pose2Pose(Pose2PoseConfig(pose_head=head)).parameters()) == parameters


def test_without_vposer_it_predicts_six_numbers_for_each_of_21_joints() -> None:
    net = Pose2Pose(Pose2PoseConfig(backbone=18, pose_head="rot6d", input_width=64, input_height=64)).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 3, 64, 64)).pose.shape == (1, 126)


def test_a_sharp_heatmap_gives_its_peak_in_x_y_z_order() -> None:
    logits = torch.full((1, len(POSE2POSE25), DEPTH_BINS, 8, 6), -100.0)
    wanted = np.random.default_rng(0).integers((0, 0, 0), (6, 8, DEPTH_BINS), (len(POSE2POSE25), 3))
    for joint, (x, y, z) in enumerate(wanted):
        logits[0, joint, z, y, x] = 100.0
    found = soft_argmax(logits.flatten(1, 2))
    torch.testing.assert_close(found[0], torch.from_numpy(wanted).float())


def test_a_flat_heatmap_gives_the_middle() -> None:
    found = soft_argmax(torch.zeros(1, 25 * DEPTH_BINS, 8, 6))
    torch.testing.assert_close(found[0], torch.tensor([[2.5, 3.5, 3.5]]).expand(25, 3))


def test_features_are_read_where_the_joint_is() -> None:
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(6.0), indexing="ij")
    features = torch.stack([x, y, torch.ones_like(x)])[None]
    joints = torch.tensor([[[0.0, 0.0], [5.0, 7.0], [2.25, 3.5], [-3.0, 2.0]]])
    found = sample_at_joints(features, joints)[0]
    torch.testing.assert_close(found[:3, :2], joints[0, :3])
    assert found[3].abs().max() == 0, "outside the map there is nothing"


def test_positions_do_not_learn_through_the_sampling_of_features() -> None:
    net = Pose2Pose(Pose2PoseConfig(backbone=18, input_width=64, input_height=64))
    net(torch.rand(2, 3, 64, 64)).betas.sum().backward()
    assert net.position.weight.grad is None


@pytest.mark.parametrize("size", [(190, 256), (192, 0), (0, 0)])
def test_a_crop_that_the_stride_does_not_divide_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        Pose2PoseConfig(input_width=size[0], input_height=size[1])
