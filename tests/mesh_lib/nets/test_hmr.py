"""SPIN's published architecture, its names, and what its iterations do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mesh_lib.body.files import Body
from mesh_lib.body.joints import BODY33
from mesh_lib.nets.checkpoints import fit_state
from mesh_lib.nets.hmr import Hmr, HmrConfig, HmrEstimator, MeanParameters, rename_spin
from mesh_lib.nets.resnet import ResNet

SMALL = HmrConfig(backbone=18, input_width=64, input_height=64, width=32)


def test_the_published_shapes_at_224_with_resnet_50() -> None:
    net = Hmr(HmrConfig()).to("meta").eval()
    assert (net.fc1.in_features, net.fc1.out_features) == (2048 + 144 + 10 + 3, 1024) == (2205, 1024)
    assert net.decpose.out_features == 24 * 6 and net.config.iterations == 3 and net.drop.p == 0.5
    features = net.backbone(torch.empty(2, 3, 224, 224, device="meta"))
    assert features.shape == (2, 2048, 7, 7)
    out = net(torch.empty(2, 3, 224, 224, device="meta"))
    assert out.rotmats.shape == (2, 24, 3, 3) and out.betas.shape == (2, 10) and out.camera.shape == (2, 3)
    linear = (2205 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 157
    assert sum(p.numel() for p in net.parameters()) == 23_508_032 + linear == 26_977_501


def released() -> dict[str, torch.Tensor]:
    """Names and shapes of SPIN's checkpoint: the ResNet's at the top, and the regressor's."""
    sizes = {
        "fc1": (1024, 2205),
        "fc2": (1024, 1024),
        "decpose": (144, 1024),
        "decshape": (10, 1024),
        "deccam": (3, 1024),
    }
    state = dict(ResNet(50).state_dict())
    for name, shape in sizes.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.full(shape, 0.25), torch.full(shape[:1], 0.5)
    means = {"init_pose": 144, "init_shape": 10, "init_cam": 3}
    return state | {name: torch.full((1, size), 0.75) for name, size in means.items()}


def test_a_released_checkpoint_fills_ours_whole() -> None:
    ours, state = Hmr(HmrConfig()), released()
    fit = fit_state(ours, state | {"fc.weight": torch.zeros(1000, 2048)}, rename=rename_spin)
    assert not fit.absent and fit.unknown == ("fc.weight",)
    assert (ours.fc1.weight == 0.25).all() and (ours.init_cam == 0.75).all(), "its mean parameters come along"
    assert torch.equal(ours.backbone.conv1.weight, state["conv1.weight"])
    with pytest.raises(ValueError, match="another architecture"):
        fit_state(Hmr(SMALL), state, rename=rename_spin)


def test_without_corrections_it_answers_with_the_mean_body_upright(body: Body) -> None:
    net = HmrEstimator(SMALL, body=body).eval()
    for layer in (net.regressor.decpose, net.regressor.decshape, net.regressor.deccam):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        answer = net(torch.rand(2, 3, 64, 64))
    torch.testing.assert_close(answer.rotmats[:, 0], torch.diag(torch.tensor([1.0, -1, -1])).expand(2, 3, 3))
    torch.testing.assert_close(answer.rotmats[:, 1:], torch.eye(3).expand(2, 23, 3, 3))
    assert answer.betas.abs().max() == 0
    torch.testing.assert_close(answer.transl_m, torch.tensor([0.0, 0, 2 * 5000 / (64 * 0.9)]).expand(2, 3))
    head, foot = (answer.joints_crop_px[0, BODY33.index(name), 1] for name in ("nose", "left_ankle"))
    assert head < 32 < foot, "the head is up"


def test_a_scale_of_0_9_is_a_depth_of_49_603_m_at_224(body: Body) -> None:
    net = HmrEstimator(HmrConfig(backbone=18, width=8), body=body).eval()
    torch.nn.init.zeros_(net.regressor.deccam.weight)
    torch.nn.init.zeros_(net.regressor.deccam.bias)
    with torch.no_grad():
        assert net(torch.rand(1, 3, 224, 224)).transl_m[0, 2].item() == pytest.approx(49.603, abs=1e-3)


def test_each_iteration_corrects_the_last_ones_answer() -> None:
    torch.manual_seed(0)
    net = Hmr(SMALL).eval()
    for layer in (net.decpose, net.decshape, net.deccam):
        torch.nn.init.normal_(layer.weight, std=0.1)
    image = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        features = net.backbone((image - net.mean) / net.deviation).mean(dim=(2, 3))
        state = torch.cat([net.init_pose, net.init_shape, net.init_cam], dim=1).expand(3, -1)
        for _ in range(3):
            hidden = net.fc2(net.fc1(torch.cat([features, state], dim=1)))
            state = state + torch.cat([net.decpose(hidden), net.decshape(hidden), net.deccam(hidden)], dim=1)
        out = net(image)
    torch.testing.assert_close(out.betas, state[:, 144:154])
    torch.testing.assert_close(out.camera, state[:, 154:])


def test_first_corrections_are_small() -> None:
    """Xavier's bound times 0.01."""
    net = Hmr(HmrConfig(backbone=18))
    assert 0 < net.decpose.weight.abs().max() <= 0.01 * np.sqrt(6 / (1024 + 144))


def test_the_mean_is_read_from_spins_file_and_another_is_refused(tmp_path: Path) -> None:
    pose = np.arange(144, dtype=np.float64)
    np.savez(tmp_path / "mean.npz", pose=pose, shape=np.zeros(10), cam=np.array([0.9, 0, 0]))
    mean = MeanParameters.load(tmp_path / "mean.npz")
    assert torch.equal(Hmr(SMALL, start=mean).init_pose[0], torch.arange(144.0))
    np.savez(tmp_path / "short.npz", pose=pose[:72], shape=np.zeros(10), cam=np.zeros(3))
    (tmp_path / "text.npz").write_text("not found")
    for name, words in (("short", "expected"), ("text", "does not hold"), ("gone", "does not hold")):
        with pytest.raises(ValueError, match=words):
            MeanParameters.load(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("wrong", [{"input_width": 192}, {"iterations": 0}])
def test_a_network_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"square|iterations"):
        HmrConfig(**wrong)
