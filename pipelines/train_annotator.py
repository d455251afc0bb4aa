"""Training of the annotation network f: mixed batches of 3D and 2D supervision."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from ray.data import Dataset
from torch import Tensor

from mesh_lib.losses.pose2pose import Pose2PoseLossConfig, annotator_losses
from mesh_lib.nets.annotator import Annotation, Annotator
from mesh_lib.nets.checkpoints import fit_state, rename_backbone
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.resnet import ResNet
from mesh_lib.nets.vposer import VPoser, vposer_of
from mesh_lib.supervision import Truth, make_targets
from pipelines import annotators, runs, storage
from pipelines.bodies import body_npz, load_body_of, put_body
from pipelines.stream import Source, open_source, training_stream
from pipelines.train import Training, fit, initial_state

log = logging.getLogger(__name__)

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
    withhold_3d: bool = False
    """Hide all 3D truth: the 3D datasets supervise by their 2D alone (the control of Three Recipes, Table 9)."""
    init: Literal["random", "imagenet", "pose2d", "pose3d"] = "random"
    """What f starts from (Three Recipes, Table 10): nothing; or a backbone trained on ImageNet (torchvision's weights),
    on 2D pose (a run of train_pose2d, or Simple Baselines' weights), or on 3D pose (a run of this job, or a Pose2Pose's
    weights)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weak_share <= 1:
            raise ValueError(f"weak_share is a part of the batch, between 0 and 1; it is {self.weak_share}")


def train_annotator(
    run: runs.Run,
    *,
    strong: list[str],
    weak: list[str],
    prior: VPoser,
    body: str,
    training: AnnotatorTraining,
    backbone: ResNet | None = None,
) -> dict[str, Any]:
    """Train f into the run folder; returns the last metrics.

    strong and weak are sample folders with 3D and with 2D supervision, backbone what f starts from
    (`starting_backbone`). Raises ValueError for a mix that cannot be drawn: no datasets for a share of the batch, or a
    share that splits no batch evenly over the workers; and for 3D truth that speaks of another body.
    """
    counts = _split_batch(training, strong=bool(strong), weak=bool(weak))
    sources = [open_source(path) for path in [*strong, *weak]]
    rows = sum(source.rows for source in sources)
    _check_bodies(sources[: len(strong)], hashlib.sha256(body_npz(body)).hexdigest())
    # Workers may be on other machines: whatever they start from lies in the run folder.
    put_body(body, run.folder)
    annotators.write_weights(prior.state_dict(), run.path(PRIOR))
    if backbone is not None:
        annotators.write_weights(backbone.state_dict(), run.path(BACKBONE))
    streams: dict[str, Dataset] = {
        name: training_stream(
            paths, samples=training.samples_needed(rows, counts[name]), weak=hidden,
            input_size=training.model.input_size, config=training.stream,
        )
        for name, paths, hidden in (("strong", strong, training.withhold_3d), ("weak", weak, True))
        if counts[name]
    }  # fmt: skip
    return fit(run, recipe=AnnotatorRecipe(training), streams=streams, counts=counts, rows=rows, training=training)


@dataclass(frozen=True)
class AnnotatorRecipe:
    """How a worker gets f."""

    training: AnnotatorTraining

    def start(self, folder: str) -> AnnotatorLearner:
        vposer = vposer_of(annotators.read_weights(storage.join(folder, PRIOR)))
        annotator = Annotator(self.training.model, body=load_body_of(folder), vposer=vposer)
        if self.training.init != "random":
            annotator.pose2pose.backbone.load_state_dict(annotators.read_weights(storage.join(folder, BACKBONE)))
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

    def save(self) -> None:
        annotators.save_annotator(self.network, self.folder)


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


def _split_batch(training: AnnotatorTraining, *, strong: bool, weak: bool) -> dict[str, int]:
    """Samples of each kind that one worker adds to every batch."""
    weak_rows = round(training.batch_size * training.weak_share)
    counts = {"strong": training.batch_size - weak_rows, "weak": weak_rows}
    for name, given in (("strong", strong), ("weak", weak)):
        if bool(counts[name]) != given:
            need = f"{counts[name]} of {training.batch_size} samples of a batch should be {name}ly supervised"
            raise ValueError(
                f"{need}, but {'no such dataset was given' if not given else 'datasets were given for it'}\n"
                "  fix: pass datasets for both kinds, or set weak_share to 0 (3D only) or 1 (2D only)"
            )
        if counts[name] % training.workers:
            raise ValueError(f"{counts[name]} {name} samples a batch do not split over {training.workers} workers")
    return {name: count // training.workers for name, count in counts.items()}
