"""Training of the annotation network f: mixed batches of 3D and 2D supervision."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from mesh_lib.body.joints import BODY33
from mesh_lib.losses.pose2pose import Pose2PoseLossConfig, annotator_losses
from mesh_lib.metrics.joints import pa_mpjpe_mm
from mesh_lib.nets.annotator import Annotation, Annotator
from mesh_lib.nets.checkpoints import fit_state, rename_backbone
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.resnet import ResNet
from mesh_lib.nets.vposer import VPoser, vposer_of
from mesh_lib.supervision import Truth, make_targets
from pipelines import annotators, runs, storage
from pipelines.bodies import body_npz, load_body_of, put_body
from pipelines.sources import Source, holds_3d, open_source
from pipelines.stream import Feed, StreamConfig
from pipelines.train import check_fit, fit, initial_state, make_feed
from pipelines.train_loop import Training

log = logging.getLogger(__name__)

LIMBS = tuple(
    f"{side}_{joint}" for side in ("left", "right") for joint in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
)
"""Joints of the validation error."""
BACKBONE, PRIOR = "_backbone.safetensors", "_vposer.safetensors"
RUN_WEIGHTS = {
    "pose2d": ("train_pose2d", annotators.POSE2D_WEIGHTS),
    "pose3d": ("train_annotator", annotators.WEIGHTS),
}


@dataclass(frozen=True, kw_only=True)
class AnnotatorTraining(Training):
    """How f is trained. The defaults are those of Three Recipes, supplement C."""

    model: Pose2PoseConfig = field(default_factory=Pose2PoseConfig)
    loss: Pose2PoseLossConfig = field(default_factory=Pose2PoseLossConfig)
    weak_share: float = 0.5
    """Part of every batch that comes from the 2D-supervised datasets: exact in each batch."""
    strong_shares: tuple[float, ...] = ()
    """Parts of the 3D-supervised samples that each of these datasets gives, exact in each batch; by default they are
    mixed by their size."""
    weak_shares: tuple[float, ...] = ()
    """The same for the 2D-supervised datasets."""
    withhold_3d: tuple[str, ...] = ()
    """3D-supervised datasets (their folders, or `all`) that keep their part of the batch but teach by their 2D alone:
    the control of Three Recipes, Table 9."""
    init: Literal["random", "imagenet", "pose2d", "pose3d"] = "random"
    """What f starts from (Three Recipes, Table 10): nothing; or a backbone trained on ImageNet (torchvision's weights),
    on 2D pose (a run of train_pose2d, or Simple Baselines' weights), or on 3D pose (a run of this job, or a Pose2Pose's
    weights)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weak_share <= 1:
            raise ValueError(f"weak_share is a part of the batch, between 0 and 1; it is {self.weak_share}")
        for name in ("strong_shares", "weak_shares"):
            shares = getattr(self, name)
            if shares and (min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6):
                raise ValueError(f"{name} are parts that add up to 1; they are {shares}, together {sum(shares):g}")


PRESETS = {
    "three-recipes": AnnotatorTraining(init="pose2d"),
    # Moon et al., 2022, §5: ImageNet, 256×256, no augmentation, "reduced by a factor of 10 when it converges".
    "neuralannot": AnnotatorTraining(
        model=Pose2PoseConfig(regressor="neural_annot", input_width=256, input_height=256),
        stream=StreamConfig(augment=False),
        init="imagenet",
    ),
    # Two CPU cores and a few minutes (docs/fidelity.md).
    "demo": AnnotatorTraining(
        model=Pose2PoseConfig(backbone=18, input_width=96, input_height=128),
        loss=Pose2PoseLossConfig(pose_space="rotmat", normalise_by="valid"),
        stream=StreamConfig(readers=1, strength=0.0),
        batch_size=16, learning_rate=1e-3, schedule="linear", epochs=10, samples_per_epoch=3000,
    ),
}  # fmt: skip
"""Settings to start from."""


def train_annotator(
    run: runs.Run,
    *,
    strong: list[str],
    weak: list[str],
    prior: VPoser | None,
    body: str,
    training: AnnotatorTraining,
    backbone: ResNet | None = None,
    validation: str | None = None,
) -> dict[str, Any]:
    """Train f into the run folder; returns the last metrics.

    strong and weak are sample folders with 3D and with 2D supervision, validation one whose 3D judges every epoch,
    backbone what f starts from (`starting_backbone`). Raises ValueError for a mix that cannot be drawn (`make_feeds`),
    a dataset without 3D in a 3D role, and 3D truth that speaks of another body.
    """
    sources = {"strong": [open_source(path) for path in strong], "weak": [open_source(path) for path in weak]}
    feeds = make_feeds(training, **sources)
    held = open_source(validation) if validation else None
    check_fit(training, feeds, held)
    if held and not holds_3d(held):
        raise ValueError(f"no sample of {held.path} has 3D truth, so it cannot say how good f is")
    _check_bodies([*sources["strong"], *([held] if held else [])], hashlib.sha256(body_npz(body)).hexdigest())
    # Workers may be on other machines: whatever they start from lies in the run folder.
    put_body(body, run.folder)
    if prior is not None:
        annotators.write_weights(prior.state_dict(), run.path(PRIOR))
    if backbone is not None:
        annotators.write_weights(backbone.state_dict(), run.path(BACKBONE))
    return fit(
        run, recipe=AnnotatorRecipe(training), feeds=feeds, validation=held,
        input_size=training.model.input_size, training=training,
    )  # fmt: skip


def make_feeds(training: AnnotatorTraining, *, strong: list[Source], weak: list[Source]) -> list[Feed]:
    """Who gives how many samples to every batch.

    Raises ValueError for a mix that cannot be drawn: no datasets for a part of the batch, or datasets for none of it;
    shares that are not one for each dataset; numbers that do not split over the workers.
    """
    strong, weak = _withhold(training, strong), [replace(source, weak=True) for source in weak]
    weak_samples = round(training.batch_size * training.weak_share)
    feeds = []
    for name, sources, samples, shares in (
        ("strong", strong, training.batch_size - weak_samples, training.strong_shares),
        ("weak", weak, weak_samples, training.weak_shares),
    ):
        if bool(samples) != bool(sources):
            need = f"{samples} of {training.batch_size} samples of a batch should be {name}ly supervised"
            raise ValueError(
                f"{need}, but {'no such dataset was given' if not sources else 'datasets were given for it'}\n"
                "  fix: pass datasets for both kinds, or set weak_share to 0 (3D only) or 1 (2D only)"
            )
        if shares and len(shares) != len(sources):
            raise ValueError(f"{name}_shares has {len(shares)} parts for {len(sources)} datasets; give one for each")
        counts = _counts(samples, shares or [s.rows for s in sources], units=training.workers * training.accumulate)
        if counts is not None:
            feeds += [
                make_feed(source.path, [source], samples=count, training=training)
                for source, count in zip(sources, counts, strict=True)
            ]
            continue
        feeds.append(make_feed(name, sources, samples=samples, training=training))
        if shares:
            raise ValueError(
                f"{samples} {name} samples a batch are too few for {len(sources)} datasets, one each for "
                f"{training.workers} workers and {training.accumulate} parts\n  fix: a larger --training.batch-size"
            )
    return feeds


def _counts(samples: int, shares: Sequence[float], *, units: int) -> list[int] | None:
    """Samples of a batch that each dataset gives: as near to its share as whole samples, which must split over `units`
    parts, come, and at least one for each part. None where they are too few for that, or do not split."""
    whole = samples // units
    if len(shares) > whole or samples % units:
        return None
    wanted = [whole * share / sum(shares) for share in shares]
    counts = [max(1, int(value)) for value in wanted]
    while sum(counts) != whole:
        missing = [value - count for value, count in zip(wanted, counts, strict=True)]
        if sum(counts) < whole:
            counts[missing.index(max(missing))] += 1
        else:
            spare = [m if count > 1 else float("inf") for m, count in zip(missing, counts, strict=True)]
            counts[spare.index(min(spare))] -= 1
    return [count * units for count in counts]


def _withhold(training: AnnotatorTraining, strong: list[Source]) -> list[Source]:
    """The 3D-supervised datasets, those marked whose 3D is withheld."""
    hidden = {storage.absolute(path) for path in training.withhold_3d if path != "all"}
    if unknown := hidden - {source.path for source in strong}:
        raise ValueError(f"withhold_3d names {', '.join(sorted(unknown))}, which is not among the 3D datasets")
    strong = [replace(source, weak="all" in training.withhold_3d or source.path in hidden) for source in strong]
    if flat := [source.path for source in strong if not (source.weak or holds_3d(source))]:
        raise ValueError(
            f"no sample of {', '.join(flat)} has 3D truth, so it cannot supervise in 3D\n  fix: pass it as --weak"
        )
    return strong


@dataclass(frozen=True)
class AnnotatorRecipe:
    """How a worker gets f."""

    training: AnnotatorTraining
    error: str = "pa_mpjpe_mm"

    def start(self, folder: str) -> AnnotatorLearner:
        prior = storage.join(folder, PRIOR)
        vposer = vposer_of(annotators.read_weights(prior)) if storage.exists(prior) else None
        annotator = Annotator(self.training.model, body=load_body_of(folder), vposer=vposer)
        if self.training.init != "random":
            annotator.regressor.backbone.load_state_dict(annotators.read_weights(storage.join(folder, BACKBONE)))
        return AnnotatorLearner(annotator, self.training, folder)


@dataclass
class AnnotatorLearner:
    """f in a worker: its losses, its weights."""

    network: Annotator
    training: AnnotatorTraining
    folder: str

    def losses(self, answer: Annotation, truth: Truth) -> dict[str, Tensor]:
        targets = make_targets(truth, keypoints=self.network.keypoints)
        return annotator_losses(answer, targets, model=self.training.model, config=self.training.loss)

    def errors(self, answer: Annotation, truth: Truth) -> Tensor:
        """PA-MPJPE in mm of the 12 limb joints, which every dataset has."""
        targets = make_targets(truth, keypoints=self.network.keypoints)
        limbs = BODY33.indices(LIMBS)
        from_mesh = targets.mesh_valid[:, None] > 0
        target = torch.where(from_mesh[..., None], targets.mesh_rel_m, targets.joints_rel_m)[:, limbs]
        known = from_mesh[:, 0] | (targets.joints_rel_valid[:, limbs] > 0).all(dim=1)
        error = pa_mpjpe_mm(predicted_m=answer.joints_m[:, limbs], target_m=target)
        return torch.where(known, error.nan_to_num(nan=torch.inf), torch.nan)

    def save(self, kind: str = "") -> None:
        annotators.save_annotator(self.network, self.folder, kind=kind)


def starting_backbone(training: AnnotatorTraining, weights: str | None) -> ResNet | None:
    """The backbone that f starts with; None where it starts from nothing.

    Raises ValueError where `init` and `weights` do not go together, or the checkpoint holds no such backbone.
    """
    state = initial_state(training.init, weights, run_weights=RUN_WEIGHTS)
    if not state:
        return None
    backbone = ResNet(training.model.backbone)
    found = fit_state(backbone, state, rename=rename_backbone)
    if found.absent:
        raise ValueError(f"{weights} holds no whole ResNet-{training.model.backbone}: {found}")
    log.info("backbone from %s: %s", weights, found)
    return backbone


def _check_bodies(sources: list[Source], sha256: str) -> None:
    for source in sources:
        if source.bodies - {sha256}:
            raise ValueError(
                f"the SMPL parameters in {source.path} are of another body than --body: its file's SHA-256 is "
                f"{', '.join(sorted(source.bodies))}, not {sha256}\n"
                "  fix: pass the body that the samples were made with (open worlds keep it beside them, as body.npz)"
            )
