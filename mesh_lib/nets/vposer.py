"""VPoser: a variational autoencoder of body poses (Pavlakos et al., 2019), in both published architectures.

21 joints in, a 32-dimensional latent code z with a standard normal prior, 21 rotations out. Module names follow the
releases, so that their checkpoints' names match: the first (SMPLify-X, and Three Recipes' f), the second of 2021.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mesh_lib.body.joints import VPOSER21
from mesh_lib.geometry.rotations import rot6d_to_rotmat
from mesh_lib.nets.checkpoints import fit_state

LATENT = 32
HIDDEN = 512
JOINTS = len(VPOSER21)
Release = Literal["v1", "v2"]


@dataclass(frozen=True)
class Latent:
    """Normal distribution of the code of each pose."""

    mean: Float[Tensor, "batch latent"]
    scale: Float[Tensor, "batch latent"]

    def sample(self) -> Float[Tensor, "batch latent"]:
        return self.mean + self.scale * torch.randn_like(self.scale)

    def kl(self) -> Float[Tensor, "batch latent"]:
        """KL divergence to the standard normal, per dimension (nats)."""
        return 0.5 * (self.mean.square() + self.scale.square() - 1) - self.scale.log()


class VPoser(nn.Module, ABC):
    """encode: rotation vectors of the 21 VPOSER21 joints → Latent; decode: code → rotation matrices."""

    release: Release

    @abstractmethod
    def encode(self, pose_rotvec: Float[Tensor, "batch 21 3"]) -> Latent: ...

    @abstractmethod
    def decode_6d(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch numbers"]: ...

    def decode(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch 21 3 3"]:
        return rot6d_to_rotmat(self.decode_6d(z).unflatten(-1, (JOINTS, 6)))

    def generate(self, count: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "count 21 3 3"]:
        """Poses of the prior: decoded codes of a standard normal, drawn on the CPU (the same on every device)."""
        weight = next(self.parameters())
        return self.decode(torch.randn(count, LATENT, generator=generator).to(weight))


class _NormalHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mu, self.logvar = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

    def forward(self, x: Tensor) -> Latent:
        return Latent(mean=self.mu(x), scale=nn.functional.softplus(self.logvar(x)))


class VPoserV2(VPoser):
    """The second release."""

    release = "v2"

    def __init__(self) -> None:
        super().__init__()
        self.encoder_net = nn.Sequential(
            nn.Flatten(),
            nn.BatchNorm1d(JOINTS * 3),
            nn.Linear(JOINTS * 3, HIDDEN),
            nn.LeakyReLU(),
            nn.BatchNorm1d(HIDDEN),
            nn.Dropout(0.1),
            nn.Linear(HIDDEN, HIDDEN),
            nn.Linear(HIDDEN, HIDDEN),
            _NormalHead(),
        )
        self.decoder_net = nn.Sequential(
            nn.Linear(LATENT, HIDDEN),
            nn.LeakyReLU(),
            nn.Dropout(0.1),
            nn.Linear(HIDDEN, HIDDEN),
            nn.LeakyReLU(),
            nn.Linear(HIDDEN, JOINTS * 6),
        )

    def encode(self, pose_rotvec: Float[Tensor, "batch 21 3"]) -> Latent:
        return self.encoder_net(pose_rotvec)

    def decode_6d(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch numbers"]:
        return self.decoder_net(z)


class VPoserV1(VPoser):
    """The first release: leaky slopes of 0.2, and the encoder's last layers in parallel."""

    release = "v1"

    def __init__(self) -> None:
        super().__init__()
        self.bodyprior_enc_bn1 = nn.BatchNorm1d(JOINTS * 3)
        self.bodyprior_enc_fc1 = nn.Linear(JOINTS * 3, HIDDEN)
        self.bodyprior_enc_bn2 = nn.BatchNorm1d(HIDDEN)
        self.bodyprior_enc_fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.bodyprior_enc_mu = nn.Linear(HIDDEN, LATENT)
        self.bodyprior_enc_logvar = nn.Linear(HIDDEN, LATENT)
        self.bodyprior_dec_fc1 = nn.Linear(LATENT, HIDDEN)
        self.bodyprior_dec_fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.bodyprior_dec_out = nn.Linear(HIDDEN, JOINTS * 6)
        self.dropout, self.leak = nn.Dropout(0.1), nn.LeakyReLU(0.2)

    def encode(self, pose_rotvec: Float[Tensor, "batch 21 3"]) -> Latent:
        x = self.leak(self.bodyprior_enc_fc1(self.bodyprior_enc_bn1(pose_rotvec.flatten(1))))
        x = self.leak(self.bodyprior_enc_fc2(self.dropout(self.bodyprior_enc_bn2(x))))
        scale = nn.functional.softplus(self.bodyprior_enc_logvar(x))
        return Latent(mean=self.bodyprior_enc_mu(x), scale=scale)

    def decode_6d(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch numbers"]:
        x = self.dropout(self.leak(self.bodyprior_dec_fc1(z)))
        return self.bodyprior_dec_out(self.leak(self.bodyprior_dec_fc2(x)))


RELEASES: dict[Release, type[VPoser]] = {"v1": VPoserV1, "v2": VPoserV2}


def release_of(names: Iterable[str]) -> Release:
    """Whose architecture has these names."""
    return "v1" if any(name.startswith("bodyprior_") for name in names) else "v2"


def vposer_of(state: Mapping[str, Tensor]) -> VPoser:
    """The VPoser whose weights a checkpoint holds, of either release, in evaluation mode.

    Raises ValueError for a checkpoint that is no VPoser, or not the whole of one.
    """
    named = {name.removeprefix("vp_model."): value for name, value in state.items()}  # the trainer's own prefix
    vposer = RELEASES[release_of(named)]()
    fit = fit_state(vposer, named, rename=lambda name: name)
    if fit.absent:
        raise ValueError(f"the checkpoint is not a whole VPoser: {fit}")
    return vposer.eval()
