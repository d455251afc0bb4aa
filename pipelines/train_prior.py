"""Training of the pose prior (VPoser) on a table of poses; one process is enough, on a GPU where there is one."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mesh_lib.body.files import load_body
from mesh_lib.body.layer import BodyLayer
from mesh_lib.losses.vposer import VPoserLossWeights, vposer_losses
from mesh_lib.metrics.pose_prior import prior_quality
from mesh_lib.nets.vposer import RELEASES, Release
from mesh_lib.world.poses import sample_poses
from pipelines import annotators, runs
from pipelines.mocap import gather_clips

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PriorTraining:
    """How VPoser is trained: the second release's settings, with a number of steps in place of early stopping.

    The first release's are --training.release v1 --training.batch-size 512 --training.learning-rate 5e-3
    --training.weight-decay 1e-4.
    """

    release: Release = "v2"
    """Architecture and losses: those of the first release (v1), or of the second (v2)."""
    generated: int = 200_000
    """Poses drawn from the joint-limited generator."""
    batch_size: int = 128
    steps: int = 20_000
    warm_up: float = 0.5
    """Part of the steps in which rotations and joints are compared as well."""
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    weights: VPoserLossWeights = field(default_factory=VPoserLossWeights)
    held_out: float = 0.05
    """Part of the poses kept for the reported reconstruction error."""
    seed: int = 0

    def __post_init__(self) -> None:
        runs.require_positive(self, "batch_size", "steps", "learning_rate", "held_out")
        if self.generated < 0 or not 0 <= self.warm_up <= 1 or self.held_out >= 1:
            raise ValueError("generated is at least 0, warm_up a part of the steps, held_out less than all poses")


def gather_poses(training: PriorTraining, *, bvh_dir: Path | None, amass_dir: Path | None) -> np.ndarray:
    """(N, 21, 3) rotation vectors from every source named. Raises ValueError where a folder holds no clip."""
    found = []
    if training.generated:
        found.append(sample_poses(training.generated, seed=training.seed).body_pose_rotvec)
    found += [clip.body_pose_rotvec for clip in gather_clips(bvh_dir=bvh_dir, amass_dir=amass_dir)]
    if not found:
        raise ValueError("no poses to learn from: draw some (--training.generated) or pass --bvh or --amass")
    return np.concatenate(found)[:, :21].astype(np.float32)


def train_prior(run: runs.Run, *, poses: np.ndarray, body: Path, training: PriorTraining) -> dict[str, Any]:
    """Train VPoser into the run folder; returns losses and the held-out reconstruction error in cm."""
    torch.manual_seed(training.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layer = BodyLayer(load_body(body)).to(device)
    order = np.random.default_rng(training.seed).permutation(len(poses))
    held = max(1, int(len(poses) * training.held_out))
    test, train = (torch.from_numpy(poses[part]).to(device) for part in (order[:held], order[held:]))
    vposer = RELEASES[training.release]().to(device)
    optimizer = torch.optim.Adam(vposer.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, training.steps, eta_min=training.learning_rate / 50
    )
    generator = torch.Generator().manual_seed(training.seed)
    losses: dict[str, float] = {}
    for step in range(1, training.steps + 1):
        rows = torch.randint(len(train), (training.batch_size,), generator=generator).to(device)
        target = train[rows]
        latent = vposer.encode(target)
        terms = vposer_losses(
            layer=layer, latent=latent, decoded=vposer.decode(latent.sample()), target_rotvec=target,
            weights=training.weights, warm_up=step <= training.warm_up * training.steps, release=training.release,
        )  # fmt: skip
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses = {name: value.item() for name, value in terms.items()}
        if step % max(1, training.steps // 10) == 0:
            told = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
            log.info("prior %d/%d  loss %.3f  (%s)", step, training.steps, sum(losses.values()), told)
    annotators.save_prior(vposer.eval().cpu(), run.folder)
    quality = prior_quality(vposer, layer.cpu(), test.cpu())
    if quality.collapsed:
        log.warning("the prior has collapsed: %d active units; train longer, or lower weights.kl", quality.active_units)
    return {"poses": len(poses), "losses": losses, **dataclasses.asdict(quality)}
