"""Gaussians by their definition, and the convolution that never builds them against the one that does."""

from __future__ import annotations

import math

import pytest
import torch

from mesh_lib.nets.gaussians import Pose2Feat, convolve_gaussians, gaussian_volume, profiles

BINS, JOINTS, CHANNELS = (12, 10, 8), 5, 6


def joints(batch: int = 2) -> torch.Tensor:
    """Some in the middle of the heatmap, some at and beyond its borders, where the padding shows."""
    torch.manual_seed(0)
    inside = torch.rand(batch, JOINTS, 3) * torch.tensor(BINS)
    inside[:, 0] = torch.tensor([0.0, 9.0, 7.0])
    inside[:, 1] = torch.tensor([-1.5, 12.0, 3.0])
    return inside


def test_one_at_the_joint_and_less_by_the_published_deviation() -> None:
    volume = gaussian_volume(torch.tensor([[[10.0, 20.0, 30.0]]]), bins=(64, 64, 64), sigma=2.5)
    assert volume.shape == (1, 1, 64, 64, 64) and volume[0, 0, 30, 20, 10] == 1.0
    for at in ((30, 20, 15), (30, 25, 10), (35, 20, 10)):  # two deviations along x, y, z
        torch.testing.assert_close(volume[0, 0][at].item(), math.exp(-2.0))
    torch.testing.assert_close(volume.sum().item(), (2.5 * math.sqrt(2 * math.pi)) ** 3, rtol=1e-4, atol=0)


def test_the_volume_is_the_product_of_its_profiles() -> None:
    x, y, z = profiles(joints(), bins=BINS, sigma=2.5)
    product = z[..., None, None] * y[:, :, None, :, None] * x[:, :, None, None]
    torch.testing.assert_close(product, gaussian_volume(joints(), bins=BINS, sigma=2.5))


def both(dtype: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Values and gradients (weights, joints) of the fast and of the plain convolution."""
    weight = torch.randn(CHANNELS, JOINTS * BINS[2], 3, 3, dtype=dtype)
    push = torch.randn(2, CHANNELS, BINS[1], BINS[0], dtype=dtype)
    found = []
    for fast in (True, False):
        w, at = weight.clone().requires_grad_(), joints().to(dtype).requires_grad_()
        if fast:
            y = convolve_gaussians(w, *profiles(at, bins=BINS, sigma=2.5))
        else:
            y = torch.nn.functional.conv2d(gaussian_volume(at, bins=BINS, sigma=2.5).flatten(1, 2), w, padding=1)
        (y * push).sum().backward()
        assert w.grad is not None and at.grad is not None
        found.append([y.detach(), w.grad, at.grad])
    return found[0], found[1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-11)])
def test_depth_first_is_the_same_convolution_gradients_too(dtype: torch.dtype, tolerance: float) -> None:
    for fast, plain in zip(*both(dtype), strict=True):
        torch.testing.assert_close(fast, plain, rtol=tolerance, atol=tolerance)


def test_the_published_layer_and_both_forms_of_it() -> None:
    plain = Pose2Feat(channels=64, joints=29, bins=(64, 64, 64), sigma=2.5, form="plain")
    fast = Pose2Feat(channels=64, joints=29, bins=(64, 64, 64), sigma=2.5)
    assert fast.conv[0].weight.shape == (64, 64 + 29 * 64, 3, 3)
    assert sum(p.numel() for p in fast.parameters()) == 1920 * 64 * 9 + 64 + 2 * 64 == 1_106_112
    fast.load_state_dict(plain.state_dict())
    features, at = torch.randn(1, 64, 64, 64), torch.rand(1, 29, 3) * 64
    push = torch.randn(1, 64, 64, 64)
    answers = []
    for net in (plain, fast):
        y = net(features, at)
        (y * push).sum().backward()
        gradients = {name: p.grad for name, p in net.named_parameters()}
        del gradients["conv.0.bias"]  # batch norm leaves it none but rounding
        answers.append([y.detach(), *gradients.values(), *net.buffers()])
    for a, b in zip(*answers, strict=True):
        assert a is not None and b is not None
        scale = a.abs().max().item()
        torch.testing.assert_close(b / scale, a / scale, rtol=1e-4, atol=1e-4)
