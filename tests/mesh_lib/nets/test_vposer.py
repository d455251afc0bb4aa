"""VPoser: the published layers, true rotations out, and a training that learns without collapse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mesh_lib.body.files import Body
from mesh_lib.body.layer import BodyLayer
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.losses.vposer import VPoserLossWeights, geodesic, vposer_losses
from mesh_lib.metrics.pose_prior import prior_quality
from mesh_lib.nets.vposer import RELEASES, Latent, Release, VPoserV2, vposer_of
from mesh_lib.world.poses import sample_poses


def test_the_layers_are_the_second_releases() -> None:
    state = VPoserV2().state_dict()
    assert state["encoder_net.2.weight"].shape == (512, 63)
    assert state["encoder_net.8.mu.weight"].shape == (32, 512)
    assert state["decoder_net.0.weight"].shape == (512, 32)
    assert state["decoder_net.5.weight"].shape == (126, 512)


@pytest.mark.parametrize(("release", "parameters"), [("v1", 673_596), ("v2", 936_252)])
def test_it_has_the_published_number_of_parameters(release: Release, parameters: int) -> None:
    assert sum(p.numel() for p in RELEASES[release]().parameters()) == parameters


def test_generated_poses_are_rotations_that_a_seed_fixes() -> None:
    vposer = VPoserV2().eval()
    with torch.no_grad():
        one, two = (vposer.generate(5, generator=torch.Generator().manual_seed(s)) for s in (3, 4))
        again = vposer.generate(5, generator=torch.Generator().manual_seed(3))
    assert one.shape == (5, 21, 3, 3) and torch.equal(one, again) and not torch.equal(one, two)
    torch.testing.assert_close(torch.linalg.det(one), torch.ones(5, 21))


def test_the_layers_are_the_first_releases() -> None:
    """Names and shapes of the snapshot that SMPLify-X and Three Recipes use; nothing else has parameters."""
    linear = {"enc_fc1": (512, 63), "enc_fc2": (512, 512), "enc_mu": (32, 512), "enc_logvar": (32, 512),
              "dec_fc1": (512, 32), "dec_fc2": (512, 512), "dec_out": (126, 512)}  # fmt: skip
    state = RELEASES["v1"]().state_dict()
    assert {n: tuple(v.shape) for n, v in state.items() if "fc" in n and "weight" in n} == {
        f"bodyprior_{name}.weight": shape for name, shape in linear.items() if "fc" in name
    }
    norms = {f"bodyprior_enc_bn{i}.{n}" for i in (1, 2) for n in
             ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}  # fmt: skip
    assert set(state) == norms | {f"bodyprior_{name}.{part}" for name in linear for part in ("weight", "bias")}


@pytest.mark.parametrize(("release", "prefix"), [("v1", ""), ("v2", "vp_model."), ("v2", "")])
def test_a_published_checkpoint_is_known_by_its_names(release: Release, prefix: str) -> None:
    theirs = RELEASES[release]().eval()
    state = {prefix + name: value for name, value in theirs.state_dict().items()}
    ours = vposer_of(state | {"bm_train.shapedirs": torch.zeros(3)})
    z = torch.randn(3, 32)
    assert ours.release == release and not ours.training
    torch.testing.assert_close(ours.decode(z), theirs.decode(z))
    state.popitem()
    with pytest.raises(ValueError, match="not a whole VPoser"):
        vposer_of(state)


@pytest.mark.parametrize("release", RELEASES)
def test_every_code_decodes_to_rotations(release: Release) -> None:
    with torch.no_grad():
        rotmats = RELEASES[release]().eval().decode(torch.randn(40, 32) * 3)
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


@pytest.mark.parametrize(("release", "poses_term"), [("v1", "rotations"), ("v2", "joints")])
def test_a_short_training_halves_the_error_and_uses_the_code(body: Body, release: Release, poses_term: str) -> None:
    torch.manual_seed(0)
    layer, vposer = BodyLayer(body), RELEASES[release]()
    poses = torch.from_numpy(sample_poses(256, seed=0).body_pose_rotvec[:, :21].astype(np.float32))
    optimizer = torch.optim.Adam(vposer.parameters(), lr=1e-3)

    def loss() -> dict[str, torch.Tensor]:
        latent = vposer.encode(poses)
        decoded = vposer.decode(latent.sample())
        return vposer_losses(layer=layer, latent=latent, decoded=decoded, target_rotvec=poses,
                             weights=VPoserLossWeights(), warm_up=True, release=release)  # fmt: skip

    first = loss()[poses_term].item()
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack(list(loss().values())).sum().backward()
        optimizer.step()
    assert loss()[poses_term].item() < first / 2
    found = prior_quality(vposer.eval(), layer, poses, samples=32)
    assert not found.collapsed and found.active_units >= 8
    assert len(found.kl_of_units) == 32 and found.kl_nats == pytest.approx(sum(found.kl_of_units), abs=0.01)
    assert 0 < found.sample_to_data_deg < 90 and found.data_to_data_deg > 1


def test_a_decoder_that_ignores_its_code_is_found_out(body: Body) -> None:
    torch.manual_seed(0)
    poses = torch.from_numpy(sample_poses(64, seed=0).body_pose_rotvec[:, :21].astype(np.float32))
    deaf = VPoserV2().eval()
    for name in ("encoder_net.8.mu.weight", "decoder_net.0.weight"):
        torch.nn.init.zeros_(deaf.get_parameter(name))
    found = prior_quality(deaf, BodyLayer(body), poses, samples=16)
    assert found.collapsed and found.active_units == 0 and found.sample_to_sample_deg < 0.1


def test_after_the_warm_up_rotations_are_free(body: Body) -> None:
    vposer, poses = VPoserV2(), torch.zeros(2, 21, 3)
    latent = vposer.eval().encode(poses)
    terms = vposer_losses(layer=BodyLayer(body), latent=latent, decoded=vposer.decode(latent.mean),
                          target_rotvec=poses, weights=VPoserLossWeights(), warm_up=False)  # fmt: skip
    assert set(terms) == {"kl", "vertices"}
