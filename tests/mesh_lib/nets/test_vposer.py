"""VPoser: the published layers, true rotations out, and a training that learns without collapse."""

from __future__ import annotations

import numpy as np
import torch

from mesh_lib.body.files import Body
from mesh_lib.body.layer import BodyLayer
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.losses.vposer import VPoserLossWeights, geodesic, vposer_losses
from mesh_lib.nets.vposer import Latent, VPoser
from mesh_lib.world.poses import sample_poses


def test_the_layers_are_the_second_releases() -> None:
    state = VPoser().state_dict()
    assert state["encoder_net.2.weight"].shape == (512, 63)
    assert state["encoder_net.8.mu.weight"].shape == (32, 512)
    assert state["decoder_net.0.weight"].shape == (512, 32)
    assert state["decoder_net.5.weight"].shape == (126, 512)


def test_every_code_decodes_to_rotations() -> None:
    with torch.no_grad():
        rotmats = VPoser().eval().decode(torch.randn(40, 32) * 3)
    torch.testing.assert_close(rotmats @ rotmats.mT, torch.eye(3).expand(40, 21, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotmats), torch.ones(40, 21))


def test_kl_to_the_standard_normal() -> None:
    assert Latent(mean=torch.zeros(1, 32), scale=torch.ones(1, 32)).kl().abs().max() == 0
    mean, scale = torch.randn(3, 32), torch.rand(3, 32) + 0.2
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, scale), torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    )
    torch.testing.assert_close(Latent(mean=mean, scale=scale).kl(), expected)


def test_geodesic_is_the_angle_and_its_gradient_stays_finite() -> None:
    angles = torch.tensor([0.0, 0.3, 2.0, torch.pi])
    turned = rotvec_to_rotmat(torch.stack([angles, angles * 0, angles * 0], dim=1)).requires_grad_()
    found = geodesic(turned, torch.eye(3).expand(4, 3, 3))
    torch.testing.assert_close(found, angles, atol=1e-3, rtol=0)
    found.sum().backward()
    assert turned.grad is not None and turned.grad.isfinite().all()


def test_a_short_training_halves_the_error_and_uses_the_code(body: Body) -> None:
    torch.manual_seed(0)
    layer, vposer = BodyLayer(body), VPoser()
    poses = torch.from_numpy(sample_poses(256, seed=0).body_pose_rotvec[:, :21].astype(np.float32))
    optimizer = torch.optim.Adam(vposer.parameters(), lr=1e-3)

    def loss() -> dict[str, torch.Tensor]:
        latent = vposer.encode(poses)
        decoded = vposer.decode(latent.sample())
        return vposer_losses(layer=layer, latent=latent, decoded=decoded, target_rotvec=poses,
                             weights=VPoserLossWeights(), warm_up=True)  # fmt: skip

    first = loss()["joints"].item()
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack(list(loss().values())).sum().backward()
        optimizer.step()
    assert loss()["joints"].item() < first / 2
    with torch.no_grad():
        assert (vposer.encode(poses).mean.var(dim=0) > 0.01).sum() >= 8


def test_after_the_warm_up_rotations_are_free(body: Body) -> None:
    vposer, poses = VPoser(), torch.zeros(2, 21, 3)
    latent = vposer.eval().encode(poses)
    terms = vposer_losses(layer=BodyLayer(body), latent=latent, decoded=vposer.decode(latent.mean),
                          target_rotvec=poses, weights=VPoserLossWeights(), warm_up=False)  # fmt: skip
    assert set(terms) == {"kl", "vertices"}
