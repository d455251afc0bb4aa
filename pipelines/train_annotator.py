"""Training of the annotation network f: mixed batches of 3D and 2D supervision."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
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
from mesh_lib.supervision import Targets, Truth, make_targets
from pipelines import annotators, runs, storage
from pipelines.bodies import load_body_of, put_body
from pipelines.mixture import MixedTraining, check_bodies, make_feeds, open_validation
from pipelines.sources import open_source
from pipelines.train import check_fit, fit, initial_state
from pipelines.windows import StreamConfig

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
class AnnotatorTraining(MixedTraining):
    """How f is trained. The defaults are those of Three Recipes, supplement C."""

    model: Pose2PoseConfig = field(default_factory=Pose2PoseConfig)
    loss: Pose2PoseLossConfig = field(default_factory=Pose2PoseLossConfig)
    init: Literal["random", "imagenet", "pose2d", "pose3d"] = "random"
    """What f starts from (Three Recipes, Table 10): nothing; or a backbone trained on ImageNet (torchvision's weights),
    on 2D pose (a run of train_pose2d, or Simple Baselines' weights), or on 3D pose (a run of this job, or a Pose2Pose's
    weights)."""


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
    strong_sources = [open_source(path) for path in strong]
    feeds = make_feeds(training, strong=strong_sources, weak=[open_source(path) for path in weak])
    held = open_validation(validation)
    check_fit(training, feeds, held)
    check_bodies([*strong_sources, *([held] if held else [])], body)
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

    def inputs(self, image: Tensor, truth: Truth) -> tuple[Tensor, ...]:
        return (image,)

    def losses(self, answer: Annotation, truth: Truth) -> dict[str, Tensor]:
        targets = make_targets(truth, keypoints=self.network.keypoints)
        return annotator_losses(answer, targets, model=self.training.model, config=self.training.loss)

    def errors(self, answer: Annotation, truth: Truth) -> Tensor:
        """PA-MPJPE in mm of the 12 limb joints, which every dataset has."""
        targets = make_targets(truth, keypoints=self.network.keypoints)
        return limb_errors_mm(answer.joints_m[:, BODY33.indices(LIMBS)], *limb_truth(targets))

    def save(self, kind: str = "") -> None:
        annotators.save_annotator(self.network, self.folder, kind=kind)


def limb_truth(targets: Targets) -> tuple[Tensor, Tensor]:
    """(batch, 12, 3) joints of the mesh, else of the dataset, relative to the pelvis in metres; and who has all."""
    limbs = BODY33.indices(LIMBS)
    from_mesh = targets.mesh_valid[:, None] > 0
    target = torch.where(from_mesh[..., None], targets.mesh_rel_m, targets.joints_rel_m)[:, limbs]
    return target, from_mesh[:, 0] | (targets.joints_rel_valid[:, limbs] > 0).all(dim=1)


def limb_errors_mm(limbs_m: Tensor, target_m: Tensor, known: Tensor) -> Tensor:
    """PA-MPJPE of each person; NaN where nobody knows the truth."""
    error = pa_mpjpe_mm(predicted_m=limbs_m.float(), target_m=target_m)
    return torch.where(known, error.nan_to_num(nan=torch.inf), torch.nan)


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
