"""The 2D pose network: published layers, Gaussians as published, and positions that come back."""

from __future__ import annotations

import pytest
import torch

from mesh_lib.body.joints import BODY33
from mesh_lib.losses.pose2d import gaussian_heatmaps, pose2d_loss
from mesh_lib.nets.checkpoints import fit_state
from mesh_lib.nets.pose2d import Pose2D, Pose2DConfig, decode_heatmaps, rename_simple_baselines


def test_the_published_network_loads_whole() -> None:
    """Names and shapes of pose_resnet_50_256x192 (34.0 million parameters, 17 joints)."""
    ours = Pose2D(Pose2DConfig(joint_set="coco17"))
    assert sum(p.numel() for p in ours.parameters()) == 33_999_697
    theirs = {name.removeprefix("backbone."): torch.full_like(value, 0.25) for name, value in ours.state_dict().items()}
    assert {"conv1.weight", "deconv_layers.0.weight", "deconv_layers.7.running_var", "final_layer.bias"} <= set(theirs)
    fit = fit_state(ours, theirs, rename=rename_simple_baselines)
    assert not fit.absent and not fit.unknown and all(bool((p == 0.25).all()) for p in ours.parameters())


def test_heatmaps_have_a_quarter_of_the_size() -> None:
    with torch.no_grad():
        assert Pose2D(Pose2DConfig(backbone=18)).eval()(torch.zeros(2, 3, 256, 192)).shape == (2, len(BODY33), 64, 48)


def test_a_gaussian_is_round_and_ends_at_three_sigma() -> None:
    (heatmap,) = gaussian_heatmaps(torch.tensor([[[81.0, 121.0]]]), heatmap_size=(48, 64))[0]
    assert heatmap[30, 20] == 1 and heatmap[30, 22].item() == pytest.approx(0.60653, abs=1e-5)
    assert heatmap[30, 26] > 0 and heatmap[30, 27] == 0 and heatmap[36, 26] > 0 and heatmap[37, 20] == 0
    torch.testing.assert_close(heatmap[24:37, 14:27], heatmap[24:37, 14:27].T)


def test_positions_come_back_within_half_a_bin() -> None:
    torch.manual_seed(0)
    joints = torch.rand(4, 33, 2) * torch.tensor([180.0, 244.0]) + 4
    heatmaps = gaussian_heatmaps(joints, heatmap_size=(48, 64))
    found, score = decode_heatmaps(heatmaps)
    assert (found - joints).abs().max() <= 2 and (score == 1).all()
    tilted = heatmaps + 0.01 * torch.arange(48)  # the right neighbour is the larger one
    assert torch.equal(decode_heatmaps(tilted)[0][..., 0], found[..., 0] + 1)


def test_what_nobody_knows_costs_nothing() -> None:
    joints = torch.tensor([[[40.0, 40.0], [90.0, 90.0], [-400.0, 50.0]]])
    valid = torch.tensor([[1.0, 0.0, 1.0]])
    exact = gaussian_heatmaps(joints, heatmap_size=(48, 64))
    assert pose2d_loss(exact, joints, valid) == 0
    noisy = exact + torch.tensor([0.0, 1.0, 1.0])[None, :, None, None]
    assert pose2d_loss(noisy, joints, valid) == 0
    assert pose2d_loss(exact + 1, joints, valid).item() == pytest.approx(0.5 / 3)


def test_it_overfits_a_few_people() -> None:
    torch.manual_seed(0)
    net = Pose2D(Pose2DConfig(backbone=18, input_width=64, input_height=64))
    image, joints = torch.rand(2, 3, 64, 64), torch.rand(2, 33, 2) * 60
    valid = torch.ones(2, 33)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        pose2d_loss(net(image), joints, valid).backward()
        optimizer.step()
    found, _ = decode_heatmaps(net(image))
    assert (found - joints).norm(dim=-1).median() < 4  # of 64 px; a guess has 30


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        Pose2DConfig(input_width=100)
    with pytest.raises(ValueError, match="none of"):
        Pose2DConfig(joint_set="wings")


def test_released_weights_get_the_pictures_that_they_expect() -> None:
    plain = Pose2D(Pose2DConfig(backbone=18, input_width=64, input_height=64)).eval()
    expecting = Pose2D(Pose2DConfig(backbone=18, input_width=64, input_height=64, normalise="imagenet")).eval()
    expecting.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 64, 64)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        by_hand = plain((image - mean[:, None, None]) / deviation[:, None, None])
        torch.testing.assert_close(expecting(image), by_hand)
        assert not torch.allclose(plain(image), by_hand)
