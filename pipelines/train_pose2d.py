"""Training of the 2D pose network whose backbone f starts from (second recipe), and how good its keypoints are."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy
from torch import Tensor

from mesh_lib import tables
from mesh_lib.body.joints import BODY33, COCO17
from mesh_lib.losses.pose2d import pose2d_loss
from mesh_lib.metrics.keypoints_2d import oks_ap, pck
from mesh_lib.nets.checkpoints import fit_state, rename_backbone
from mesh_lib.nets.pose2d import Pose2D, Pose2DConfig, decode_heatmaps, rename_simple_baselines
from mesh_lib.supervision import Truth, swap, warp_points
from pipelines import annotators, runs, storage
from pipelines.annotate import crop_rows
from pipelines.sources import open_source
from pipelines.train import check_fit, fit, initial_state, make_feed
from pipelines.train_loop import Training

log = logging.getLogger(__name__)

WEIGHTS = annotators.POSE2D_WEIGHTS
START = "_start.safetensors"
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Pose2DTraining(Training):
    """How the 2D pose network is trained: Adam, 1e-3 cut at epochs 90 and 120 of 140, batch 128 (Xiao et al., 2018)."""

    model: Pose2DConfig = field(default_factory=Pose2DConfig)
    batch_size: int = 128
    epochs: int = 140
    learning_rate: float = 1e-3
    lr_drops: tuple[int, ...] = (91, 121)
    init: Literal["random", "imagenet", "pose2d"] = "random"
    """What it starts from: nothing, torchvision's ImageNet weights, or Simple Baselines' own (head included)."""


def train_pose2d(
    run: runs.Run, *, samples: list[str], training: Pose2DTraining, start: Pose2D, validation: str | None = None
) -> dict[str, Any]:
    """Train `start` (`starting_network`) on the 2D keypoints of sample folders, into the run folder; returns the last
    metrics. Raises ValueError for a batch that does not split over the workers."""
    sources = [dataclasses.replace(open_source(path), weak=True) for path in samples]
    feed = make_feed("samples", sources, samples=training.batch_size, training=training)
    held = open_source(validation) if validation else None
    check_fit(training, [feed], held)
    storage.write_json(run.path(annotators.MODEL), runs.plain(training.model))
    annotators.write_weights(start.state_dict(), run.path(START))
    return fit(
        run, recipe=Pose2DRecipe(training), feeds=[feed], validation=held,
        input_size=training.model.input_size, training=training,
    )  # fmt: skip


def starting_network(training: Pose2DTraining, weights: str | None) -> Pose2D:
    """The network before its first step. Raises ValueError where `init` and `weights` do not go together, or do not
    fit."""
    state = initial_state(training.init, weights, run_weights={"pose2d": ("train_pose2d", WEIGHTS)})
    torch.manual_seed(training.seed)
    network = Pose2D(training.model)
    if state:
        whole = training.init == "pose2d"
        found = fit_state(
            network if whole else network.backbone, state, rename=rename_simple_baselines if whole else rename_backbone
        )
        if found.absent:
            raise ValueError(f"{weights} holds no whole network of this kind: {found}")
        log.info("starting from %s: %s", weights, found)
    return network


def load_pose2d(folder: str) -> Pose2D:
    """The network of a train_pose2d run, in evaluation mode."""
    settings: dict[str, Any] = storage.read_json(storage.join(folder, annotators.MODEL))
    settings.pop("kind", None)
    network = Pose2D(Pose2DConfig(**settings))
    network.load_state_dict(annotators.read_weights(storage.join(folder, WEIGHTS)))
    return network.eval()


@dataclass(frozen=True)
class Pose2DRecipe:
    """How a worker gets the network."""

    training: Pose2DTraining
    error: str = "keypoint_crop_px"

    def start(self, folder: str) -> Pose2DLearner:
        network = Pose2D(self.training.model)
        network.load_state_dict(annotators.read_weights(storage.join(folder, START)))
        return Pose2DLearner(network, folder)


@dataclass
class Pose2DLearner:
    """The network in a worker: its loss, its weights."""

    network: Pose2D
    folder: str

    def inputs(self, image: Tensor, truth: Truth) -> tuple[Tensor, ...]:
        return (image,)

    def losses(self, answer: Tensor, truth: Truth) -> dict[str, Tensor]:
        return {"heatmaps": pose2d_loss(answer.float(), *self._targets(truth))}

    def errors(self, answer: Tensor, truth: Truth) -> Tensor:
        """Mean distance of the visible keypoints, in crop pixels."""
        joints_px, valid = self._targets(truth)
        distance = (decode_heatmaps(answer.float())[0] - joints_px).norm(dim=-1)
        return (distance * valid).sum(dim=1) / valid.sum(dim=1)

    def save(self, kind: str = "") -> None:
        name = annotators.weights_file(WEIGHTS, kind)
        annotators.write_weights(self.network.state_dict(), storage.join(self.folder, name))

    def _targets(self, truth: Truth) -> tuple[Tensor, Tensor]:
        """Joints in crop pixels, and 1 where they are known."""
        joints_px = swap(warp_points(truth.keypoints_2d_px[..., :2], truth), truth.flip, BODY33)
        valid = swap((truth.keypoints_2d_px[..., 2:] > 0).float(), truth.flip, BODY33)[..., 0]
        wanted = BODY33.indices(self.network.config.joints.names)
        return joints_px[:, wanted], valid[:, wanted]


def score_pose2d(folder: str, *, samples: str, annotations: str | None = None) -> dict[str, Any]:
    """PCK@0.1 of a trained network over samples; with COCO's annotation file, its keypoint AP as well."""
    folder, source = storage.absolute(folder), open_source(samples)
    size = load_pose2d(folder).config.input_size
    crops = crop_rows(source, input_size=size, block_rows=BATCH, readers=2)
    found = crops.map_batches(
        Estimate, fn_constructor_args=(folder,), batch_size=BATCH, batch_format="numpy", num_cpus=0.5,
        num_gpus=1 if ray.cluster_resources().get("GPU") else 0, compute=ActorPoolStrategy(size=1),
    ).take_all()  # fmt: skip
    shares = [row["pck"] for row in found if np.isfinite(row["pck"])]
    scores: dict[str, Any] = {"samples": len(found), "pck_0.1": float(np.mean(shares)) if shares else None}
    if annotations:
        truth = json.loads(storage.read_bytes(annotations))
        seen = {int(row["image_id"]) for row in found}
        results = [
            {"image_id": int(row["image_id"]), "category_id": 1, "score": float(row["score"]),
             "keypoints": row["keypoints"].reshape(-1).tolist()}
            for row in found if row["status"] == tables.OK
        ]  # fmt: skip
        scores |= {f"coco_{name}": value for name, value in oks_ap(truth, results, image_ids=seen).items()}
    return scores


class Estimate:
    """Ray Data actor: crops in; COCO's 17 keypoints in the whole picture, and the share of the given ones met, out."""

    def __init__(self, folder: str) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = load_pose2d(folder).to(self.device)

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        joints = self.network.config.joints
        image = torch.from_numpy(batch["crop"]).to(self.device).permute(0, 3, 1, 2).float() / 255
        crop_px, score = decode_heatmaps(self.network(image).float())
        box = torch.from_numpy(batch["box"]).to(self.device)
        scale = box[:, 2:] / box.new_tensor(self.network.config.input_size)
        found_px = crop_px.double() * scale[:, None] + box[:, None, :2]
        given = torch.from_numpy(batch["keypoints"]).to(self.device)[:, BODY33.indices(joints.names)].double()
        side = torch.from_numpy(batch["bbox"]).to(self.device)[:, 2:].double().amax(dim=1)
        share = pck(predicted_px=found_px, target_px=given[..., :2], visible=given[..., 2], box_side_px=side)
        share[torch.from_numpy(batch["status"].astype(str) != tables.OK).to(self.device)] = torch.nan
        coco = joints.indices(COCO17.names)
        keypoints = torch.cat([found_px[:, coco], score[:, coco, None].double()], dim=2)
        return {
            "image_id": batch["image_id"], "status": batch["status"], "pck": share.cpu().numpy(),
            "score": score[:, coco].mean(dim=1).cpu().numpy(), "keypoints": keypoints.cpu().numpy(),
        }  # fmt: skip
