"""Training of estimators g: motion capture with 3D truth beside pictures in the wild with labels for a truth.

The loop, the streams and the checkpoints are f's (pipelines/train_loop.py); what differs is what supervises in the
wild, and that g may be another network.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, assert_never

import torch
from torch import Tensor, nn

from mesh_lib.body.files import Body, load_body
from mesh_lib.body.hands import check_right_hand, is_hand
from mesh_lib.body.joints import BODY33
from mesh_lib.geometry.lixels import BODY_BOX_M, HAND_BOX_M
from mesh_lib.hand_supervision import HandTeacher, HandTruth
from mesh_lib.lixel_supervision import LixelLesson, LixelTeacher
from mesh_lib.losses.hmr import HmrLossConfig, hmr_losses
from mesh_lib.losses.lixel import LixelLossConfig, Surface, lixel_losses, parameter_losses
from mesh_lib.losses.pose2pose import Pose2PoseLossConfig
from mesh_lib.nets.annotator import Annotation, Annotator
from mesh_lib.nets.checkpoints import Fit, fit_state, rename_backbone, rename_pose2pose
from mesh_lib.nets.estimators import Estimator, build_estimator
from mesh_lib.nets.hmr import HmrAnswer, HmrConfig, HmrEstimator, MeanParameters, rename_spin
from mesh_lib.nets.lixel import LIXEL29, I2LMeshNet, LixelConfig, LixelOutput, rename_lixel
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.vposer import VPoser
from mesh_lib.supervision import Truth, make_targets
from pipelines import annotators, estimators, runs, storage
from pipelines.bodies import load_body_of, put_body
from pipelines.labelled import Unlabelled, body_of, with_labels
from pipelines.mixture import MixedTraining, check_bodies, make_feeds, open_validation
from pipelines.sources import Part, Source, open_source
from pipelines.train import check_fit, fit, initial_state
from pipelines.train_annotator import LIMBS, RUN_WEIGHTS, AnnotatorLearner, limb_errors_mm, limb_truth
from pipelines.train_loop import Learner
from pipelines.windows import StreamConfig

log = logging.getLogger(__name__)

START = "_start.safetensors"
SMALLEST_BODY_BOX_M = 1.0
NO_LABELS = "none"
"""In place of labels, for samples in the wild that teach by their 2D."""


@dataclass(frozen=True, kw_only=True)
class EstimatorTraining(MixedTraining):
    """What all estimators' trainings have."""

    unlabelled: Unlabelled = "drop"
    """What becomes of a sample in the wild that has no label (it is quarantined, say): it is left out and counted, or
    the training is refused."""
    init: Literal["random", "imagenet", "pose2d", "pose3d", "network"] = "random"
    """What g starts from: nothing; a backbone trained on ImageNet, on 2D pose or on 3D pose, as f's; or a whole network
    of its kind: a run of this job, f (Three Recipes, Table 6's "fine-tuned"), or published weights."""


@dataclass(frozen=True, kw_only=True)
class Pose2PoseTraining(EstimatorTraining):
    """Pose2Pose as g (Three Recipes, Tables 2 to 10)."""

    model: Pose2PoseConfig = field(default_factory=partial(Pose2PoseConfig, pose_head="rot6d"))
    loss: Pose2PoseLossConfig = field(default_factory=Pose2PoseLossConfig)


@dataclass(frozen=True, kw_only=True)
class HmrTraining(EstimatorTraining):
    """The iterative regressor of HMR and SPIN."""

    model: HmrConfig = field(default_factory=HmrConfig)
    loss: HmrLossConfig = field(default_factory=HmrLossConfig)
    mean: str | None = None
    """SPIN's smpl_mean_params.npz (licensed), from which the iterations start; by default upright, in T-pose."""


@dataclass(frozen=True, kw_only=True)
class LixelTraining(EstimatorTraining):
    """I2L-MeshNet; its second stage by --training.model.stage param, from a run of the first."""

    model: LixelConfig = field(default_factory=LixelConfig)
    loss: LixelLossConfig = field(default_factory=LixelLossConfig)


AnyTraining = Pose2PoseTraining | HmrTraining | LixelTraining

_SMALL: dict[str, Any] = {
    "stream": StreamConfig(readers=1, strength=0.0), "batch_size": 16, "learning_rate": 1e-3, "schedule": "linear",
    "epochs": 10, "samples_per_epoch": 3000,
}  # fmt: skip
PRESETS: dict[str, dict[str, AnyTraining]] = {
    "pose2pose": {
        "paper": Pose2PoseTraining(init="pose2d"),
        "demo": Pose2PoseTraining(
            model=Pose2PoseConfig(backbone=18, input_width=96, input_height=128, pose_head="rot6d"),
            loss=Pose2PoseLossConfig(pose_space="rotmat", normalise_by="valid"), **_SMALL,
        ),
    },
    "hmr": {
        # SPIN: batch 64, Adam 5e-5, no schedule, 60% in the wild, 64 epochs. Augmentation is Pose2Pose's.
        "paper": HmrTraining(
            init="imagenet", batch_size=64, learning_rate=5e-5, lr_drops=(), epochs=64, weak_share=0.6
        ),
        "demo": HmrTraining(
            model=HmrConfig(backbone=18, input_width=128, input_height=128, dropout=0.0),
            **{**_SMALL, "learning_rate": 3e-4},
        ),
    },
    "lixel": {
        # Moon and Lee, 2020, §4: batch 48, Adam 1e-4, a tenth from the 10th of 12 epochs on.
        "paper": LixelTraining(init="imagenet", batch_size=48, epochs=12, lr_drops=(10,)),
        "demo": LixelTraining(
            model=LixelConfig(backbone=18, input_width=128, input_height=128, depth_bins=32),
            loss=LixelLossConfig(normalise_by="valid"), **_SMALL,
        ),
        # The release goes on for five epochs, cut to a tenth before the third and the fifth.
        "param": LixelTraining(
            model=LixelConfig(stage="param"), init="network", batch_size=48, epochs=5, lr_drops=(3, 5)
        ),
        # The release's config for FreiHAND: 25 epochs, a tenth after the 17th and the 21st; MANO's joints alone teach.
        "hands": LixelTraining(
            model=LixelConfig(box_m=HAND_BOX_M), loss=LixelLossConfig(joint_orig=False), init="imagenet", batch_size=48,
            epochs=25, lr_drops=(18, 22), weak_share=0.0,
        ),
        "hands-demo": LixelTraining(
            model=LixelConfig(backbone=18, input_width=128, input_height=128, depth_bins=32, box_m=HAND_BOX_M),
            loss=LixelLossConfig(normalise_by="valid"), weak_share=0.0, **_SMALL,
        ),
    },
}  # fmt: skip
"""Settings to start from, of each network."""


def train_estimator(
    run: runs.Run,
    *,
    strong: Sequence[str],
    weak: Sequence[str],
    labels: Sequence[str],
    prior: VPoser | None,
    body: str,
    weights: str | None,
    training: AnyTraining,
    validation: str | None = None,
) -> dict[str, Any]:
    """Train g into the run folder; returns the last metrics and what was left out.

    strong are sample folders with 3D truth, weak those in the wild, labels one set for each of these (or NO_LABELS),
    weights what `init` is read from. Raises ValueError as train_annotator does, and for labels that do not fit.
    """
    part = trained_part(training, load_body(body))
    strong_sources = [open_source(path, part) for path in strong]
    weak_sources, dropped = open_wild(weak, labels, unlabelled=training.unlabelled, body=body, part=part)
    feeds = make_feeds(training, strong=strong_sources, weak=weak_sources)
    held = open_validation(validation, part)
    check_fit(training, feeds, held)
    check_bodies([*strong_sources, *([held] if held else [])], body)
    put_body(body, run.folder)
    network = starting_network(training, weights, body=load_body_of(run.folder), prior=prior)
    annotators.write_weights(network.state_dict(), run.path(START))
    last = fit(
        run, recipe=EstimatorRecipe(training), feeds=feeds, validation=held,
        input_size=training.model.input_size, training=training,
    )  # fmt: skip
    return last | {"unlabelled": {path: dict(count) for path, count in dropped.items() if count}}


def trained_part(training: AnyTraining, body: Body) -> Part:
    """Whose truth g learns by, which its body says. Raises ValueError for settings that are not for that body."""
    if isinstance(training, LixelTraining) and training.model.stage == "param" and training.init != "network":
        raise ValueError(
            "stage two learns from the first stage's network, which has to be there\n"
            "  fix: --training.init network --weights RUN, of the first stage"
        )
    if not is_hand(body):
        if isinstance(training, LixelTraining) and training.model.box_m < SMALLEST_BODY_BOX_M:
            raise ValueError(
                f"heatmaps {training.model.box_m:g} m deep are for hands: most of {body.name} lies outside of them\n"
                f"  fix: pass a hand as --body, or --training.model.box-m {BODY_BOX_M:g}"
            )
        return "body"
    check_right_hand(body)
    if not isinstance(training, LixelTraining):
        raise ValueError(
            f"{body.name} is a hand, which this network cannot learn: only I2L-MeshNet is built for hands\n"
            "  fix: jobs/train_estimator.py lixel --preset hands"
        )
    if training.model.box_m >= BODY_BOX_M:
        raise ValueError(
            f"heatmaps {training.model.box_m:g} m deep are for bodies: of a hand nearly all would be in one bin\n"
            f"  fix: --preset hands, or --training.model.box-m {HAND_BOX_M:g}"
        )
    return "right_hand"


def open_wild(
    weak: Sequence[str], labels: Sequence[str], *, unlabelled: Unlabelled, body: str, part: Part = "body"
) -> tuple[list[Source], dict[str, Counter[str]]]:
    """Samples in the wild with their labels; of each folder, how many have none and why.

    Raises ValueError where labels are not one set for each folder, or speak of another body.
    """
    if labels and len(labels) != len(weak):
        raise ValueError(
            f"{len(labels)} sets of labels for {len(weak)} folders of samples in the wild\n"
            f"  fix: pass --labels in the order of --weak, {NO_LABELS} for samples that teach by their 2D alone"
        )
    if part == "right_hand" and any(made != NO_LABELS for made in labels):
        raise ValueError("labels are of bodies (SMPL), and a hand cannot learn by them\n  fix: no --labels")
    sources: list[Source] = []
    dropped: dict[str, Counter[str]] = {}
    for path, made in zip(weak, labels or [NO_LABELS] * len(weak), strict=True):
        source = open_source(path, part)
        if made == NO_LABELS:
            sources.append(source)
            continue
        if bodies := body_of(made):
            check_bodies([replace(source, path=made, bodies=frozenset({bodies}))], body)
        source, dropped[path] = with_labels(source, made, unlabelled=unlabelled)
        log.info("%s: %d labelled samples%s", path, source.rows, _told(dropped[path]))
        sources.append(source)
    return sources, dropped


def _told(dropped: Counter[str]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
    return f"; left out without a label: {reasons}" if reasons else ""


def starting_network(training: AnyTraining, weights: str | None, *, body: Body, prior: VPoser | None) -> Estimator:
    """g before its first step. Raises ValueError where `init` and `weights` do not go together, or do not fit."""
    torch.manual_seed(training.seed)
    network = build_estimator(training.model, body=body, vposer=prior)
    if training.init == "network":
        if weights is None:
            raise ValueError("--training.init network needs --weights: a run of this job, of f, or published weights")
        found = fit_network(network, _network_state(weights))
        lacking = [name for name in found.absent if not name.startswith("param_regressor.")]  # stage two's own
        if lacking:
            raise ValueError(f"{weights} holds no whole network of this kind: {found}")
        log.info("starting from %s: %s", weights, found)
        return network
    if isinstance(training, HmrTraining) and isinstance(network, HmrEstimator) and training.mean:
        network.regressor.start_from(MeanParameters.load(training.mean))
    state = initial_state(training.init, weights, run_weights=RUN_WEIGHTS)
    for name, backbone in _backbones(network).items() if state else ():
        found = fit_state(backbone, state, rename=rename_backbone)
        if found.absent:
            raise ValueError(f"{weights} holds no whole ResNet-{training.model.backbone}: {found}")
        log.info("%s from %s: %s", name, weights, found)
    return network


def fit_network(network: Estimator, state: dict[str, Tensor]) -> Fit:
    """Load weights of a run of ours, or published ones, by name; says which name went where.

    Raises ValueError for those of another architecture.
    """
    if not isinstance(network, I2LMeshNet) and set(state) & set(network.state_dict()):  # a run of ours
        return fit_state(network, state, rename=lambda name: name)
    match network:
        case Annotator():
            return fit_state(network.regressor, state, rename=rename_pose2pose)
        case HmrEstimator():
            return fit_state(network.regressor, state, rename=rename_spin)
        case I2LMeshNet():
            return fit_state(network, state, rename=rename_lixel)
        case _:
            assert_never(network)


def _network_state(weights: str) -> dict[str, Tensor]:
    """Tensors of a run's network, or of a published checkpoint."""
    if weights.endswith(annotators.CHECKPOINTS):
        return annotators.read_published(weights)
    name = annotators.WEIGHTS if estimators.load_config(weights) is None else estimators.WEIGHTS
    return annotators.read_weights(storage.join(weights, name))


def _backbones(network: Estimator) -> dict[str, nn.Module]:
    if not isinstance(network, I2LMeshNet):
        return {"backbone": network.regressor.backbone}
    return {name: getattr(network, name) for name in ("pose_backbone", "mesh_backbone") if hasattr(network, name)}


@dataclass(frozen=True)
class EstimatorRecipe:
    """How a worker gets g."""

    training: AnyTraining
    error: str = "pa_mpjpe_mm"

    def start(self, folder: str) -> Learner:
        body, state = load_body_of(folder), annotators.read_weights(storage.join(folder, START))
        network = build_estimator(self.training.model, body=body, vposer=annotators.vposer_within(state))
        annotators.load_whole(network, state, where=START)
        make: dict[type, Callable[..., Learner]] = {
            Pose2PoseTraining: Pose2PoseLearner, HmrTraining: HmrLearner, LixelTraining: LixelLearner,
        }  # fmt: skip
        return make[type(self.training)](network, self.training, folder)


class Pose2PoseLearner(AnnotatorLearner):
    """A Pose2Pose g learns as f does; its labels come as a truth."""

    training: Pose2PoseTraining  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass
class HmrLearner:
    """HMR in a worker: its losses, its weights."""

    network: HmrEstimator
    training: HmrTraining
    folder: str

    def inputs(self, image: Tensor, truth: Truth) -> tuple[Tensor, ...]:
        return (image,)

    def losses(self, answer: HmrAnswer, truth: Truth) -> dict[str, Tensor]:
        targets = make_targets(truth, keypoints=self.network.keypoints)
        return hmr_losses(answer, targets, model=self.training.model, config=self.training.loss)

    def errors(self, answer: HmrAnswer | Annotation, truth: Truth) -> Tensor:
        """PA-MPJPE in mm of the 12 limb joints, which every dataset has."""
        targets = make_targets(truth, keypoints=self.network.keypoints)
        return limb_errors_mm(answer.joints_m[:, BODY33.indices(LIMBS)], *limb_truth(targets))

    def save(self, kind: str = "") -> None:
        estimators.save_estimator(self.network, self.folder, kind=kind)


@dataclass
class LixelLearner:
    """I2L-MeshNet in a worker, of bodies or of hands: what its stage learns, its weights."""

    network: I2LMeshNet
    training: LixelTraining
    folder: str

    def __post_init__(self) -> None:
        body = load_body_of(self.folder)
        self.teacher = HandTeacher(body) if is_hand(body) else LixelTeacher(body)
        self.surface = Surface.of(body.faces)

    def inputs(self, image: Tensor, truth: Truth | HandTruth) -> tuple[Tensor, ...]:
        if self.training.model.cascade != "truth":
            return (image,)
        return image, self._lesson(truth).joints

    def losses(self, answer: LixelOutput, truth: Truth | HandTruth) -> dict[str, Tensor]:
        lesson, config = self._lesson(truth), self.training.loss
        if self.training.model.stage == "param":
            return parameter_losses(self.network.parameters_from(answer), lesson.parameters, config=config)
        return lixel_losses(answer, lesson.lixels, surface=self.surface, config=config)

    def errors(self, answer: LixelOutput, truth: Truth | HandTruth) -> Tensor:
        """PA-MPJPE in mm of the 12 limb joints, or of a hand's 21: of the mesh in lixels, given the root's depth, or of
        the parameters."""
        lesson, seen = self._lesson(truth), (truth.focal_px > 0).all(dim=1)
        if self.training.model.stage == "param":
            joints_m = self.network.parameters_from(answer).joints_rel_m
            seen = torch.ones_like(seen)
        else:  # lixels are metres before a camera alone
            joints_m = self.network.config.space.back_project(
                answer.mesh_joints.float(), root_depth_m=lesson.root_depth_m.nan_to_num(nan=10.0),
                affine=truth.affine, focal_px=truth.focal_px, princpt_px=truth.princpt_px,
            )  # fmt: skip
        if isinstance(self.teacher, HandTeacher):
            assert isinstance(truth, HandTruth)
            target_m, known = self.teacher.true_joints_m(truth)
        else:
            assert isinstance(truth, Truth)
            joints_m = joints_m[:, LIXEL29.indices(LIMBS)]
            target_m, known = limb_truth(make_targets(truth, keypoints=self.teacher.keypoints))
        return limb_errors_mm(joints_m, target_m, known & seen)

    def save(self, kind: str = "") -> None:
        estimators.save_estimator(self.network, self.folder, kind=kind)

    def _lesson(self, truth: Truth | HandTruth) -> LixelLesson:
        device = truth.affine.device
        if self.surface.faces.device != device:
            self.teacher, self.surface = self.teacher.to(device), self.surface.to(device)
        return self.teacher(truth, self.network, check_fits=self.training.loss.check_fits)
