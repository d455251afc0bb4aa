"""Is a pose prior any good? Its reconstruction, how much of its code it uses, how real and varied its samples are.

A variational autoencoder can collapse: the decoder then ignores the code, each posterior is the prior, and all samples
are one pose. Active units (Burda et al., 2016) and the KL divergence of each dimension show it in the code; the
distance of samples to each other, against the data's own, in the poses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mesh_lib.body.layer import BodyLayer
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.losses.vposer import body_rotmats, geodesic
from mesh_lib.nets.vposer import VPoser

ACTIVE_VARIANCE = 0.01
"""A unit whose posterior mean varies less over the data carries nothing (Burda et al., 2016)."""


@dataclass(frozen=True)
class PriorQuality:
    """Over poses that the training has not seen."""

    reconstruction_cm: float
    """Mean joint distance between a pose and its decoded posterior mean, root fixed."""
    vertices_cm: float
    """The same for the mesh's vertices (VPoser's v2v)."""
    active_units: int
    """Of 32."""
    kl_nats: float
    """KL divergence to the prior, summed over dimensions, mean over poses."""
    kl_of_units: tuple[float, ...]
    """The same for each dimension."""
    sample_to_data_deg: float
    """Mean over decoded samples of z ~ N(0, 1): distance to the nearest pose of the data. Far: implausible samples."""
    sample_to_sample_deg: float
    """To the nearest other sample. Near 0: all samples alike."""
    data_to_data_deg: float
    """To the nearest other pose, over the data: the yardstick of both."""

    @property
    def collapsed(self) -> bool:
        """Fewer than two active units, or samples ten times more alike than poses are."""
        return self.active_units < 2 or self.sample_to_sample_deg < self.data_to_data_deg / 10


@torch.no_grad()
def prior_quality(
    vposer: VPoser, layer: BodyLayer, poses: Float[Tensor, "count 21 3"], *, samples: int = 256, seed: int = 0
) -> PriorQuality:
    """Judge a prior by held-out poses; the nearest are looked for among the first 1,024 of them."""
    latent = vposer.encode(poses)
    betas = poses.new_zeros(len(poses), layer.num_betas)
    truth = rotvec_to_rotmat(poses)
    posed = layer(rotmats=body_rotmats(truth), betas=betas)
    again = layer(rotmats=body_rotmats(vposer.decode(latent.mean)), betas=betas)
    kl = latent.kl().mean(dim=0)
    drawn, data = vposer.generate(samples, generator=torch.Generator().manual_seed(seed)), truth[:1024]
    return PriorQuality(
        reconstruction_cm=(posed.joints_m - again.joints_m).norm(dim=-1).mean().item() * 100,
        vertices_cm=(posed.vertices_m - again.vertices_m).norm(dim=-1).mean().item() * 100,
        active_units=int((latent.mean.var(dim=0) > ACTIVE_VARIANCE).sum()),
        kl_nats=kl.sum().item(),
        kl_of_units=tuple(round(value, 4) for value in kl.tolist()),
        sample_to_data_deg=_nearest_deg(drawn, data),
        sample_to_sample_deg=_nearest_deg(drawn, drawn, but_itself=True),
        data_to_data_deg=_nearest_deg(data[:samples], data, but_itself=True),
    )


def _nearest_deg(
    these: Float[Tensor, "a 21 3 3"], those: Float[Tensor, "b 21 3 3"], *, but_itself: bool = False
) -> float:
    """Mean over `these` of the distance (mean angle over joints) to the nearest of `those`."""
    nearest = []
    for i, pose in enumerate(these):
        distance = geodesic(those, pose.expand_as(those)).mean(dim=1)
        if but_itself:
            distance[i] = math.inf
        nearest.append(distance.min())
    return math.degrees(torch.stack(nearest).mean().item())
