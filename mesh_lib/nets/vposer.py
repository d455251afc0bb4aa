"""VPoser: a variational autoencoder of body poses (Pavlakos et al., 2019; the architecture of its second release).

21 joints in, a 32-dimensional latent code z with a standard normal prior, 21 rotations out. Module positions
follow the second release, so that its checkpoints' names match.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mesh_lib.body.joints import VPOSER21
from mesh_lib.geometry.rotations import rot6d_to_rotmat

LATENT = 32
HIDDEN = 512


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


class _NormalHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mu, self.logvar = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

    def forward(self, x: Tensor) -> Latent:
        return Latent(mean=self.mu(x), scale=nn.functional.softplus(self.logvar(x)))


class VPoser(nn.Module):
    """encode: rotation vectors of the 21 VPOSER21 joints → Latent; decode: code → rotation matrices."""

    def __init__(self) -> None:
        super().__init__()
        joints = len(VPOSER21)
        self.encoder_net = nn.Sequential(
            nn.Flatten(),
            nn.BatchNorm1d(joints * 3),
            nn.Linear(joints * 3, HIDDEN),
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
            nn.Linear(HIDDEN, joints * 6),
        )

    def encode(self, pose_rotvec: Float[Tensor, "batch 21 3"]) -> Latent:
        return self.encoder_net(pose_rotvec)

    def decode(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch 21 3 3"]:
        return rot6d_to_rotmat(self.decoder_net(z).unflatten(-1, (len(VPOSER21), 6)))
