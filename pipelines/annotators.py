"""Trained annotators on disk: a run folder holds weights, their settings, and the body they speak."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from mesh_lib.nets.annotator import Annotator
from mesh_lib.nets.checkpoints import Fit, depth_of, fit_state, read_state, rename_pose2pose
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.vposer import LATENT, RELEASES, VPoser, release_of, vposer_of
from pipelines import runs, storage
from pipelines.bodies import load_body_of, put_body

WEIGHTS = "annotator.safetensors"
MODEL = "model.json"
PRIOR_WEIGHTS = "vposer.safetensors"
POSE2D_WEIGHTS = "pose2d.safetensors"
MAKERS = ("train_annotator", "import_annotator", "train_estimator", "import_estimator")
"""Jobs whose run folders hold an annotator, or an estimator of the same architecture."""
CHECKPOINTS = (".pt", ".pth", ".pth.tar", ".ckpt", ".safetensors")
"""Names of published weights' files end so."""


def import_annotator(
    run: runs.Run, *, state: Mapping[str, torch.Tensor], prior: VPoser | None, body: str, input_size: tuple[int, int]
) -> Fit:
    """A published body network of the Pose2Pose family as an annotator in the run folder; which name went where.

    Its backbone and pose head are told by its tensors. Raises ValueError for another architecture, for a checkpoint
    that holds less than the whole network, and where its head answers with codes of a VPoser and none is given.
    """
    config = Pose2PoseConfig(
        backbone=depth_of(state), input_width=input_size[0], input_height=input_size[1], pose_head=_pose_head(state)
    )
    if (config.pose_head == "vposer") != (prior is not None):
        need = "answers with VPoser codes: pass --prior" if prior is None else "answers with 6D rotations: no --prior"
        raise ValueError(f"this network {need}")
    put_body(body, run.folder)
    annotator = Annotator(config, body=load_body_of(run.folder), vposer=prior)
    found = fit_state(annotator.regressor, state, rename=rename_pose2pose)
    if found.absent:
        raise ValueError(f"the checkpoint holds no whole Pose2Pose: {found}")
    save_annotator(annotator, run.folder)
    storage.write_json(run.path("import.json"), dataclasses.asdict(found))
    return found


def _pose_head(state: Mapping[str, torch.Tensor]) -> Literal["vposer", "rot6d"]:
    for name, value in state.items():
        if rename_pose2pose(name) == "pose.weight":
            return "vposer" if len(value) == LATENT else "rot6d"
    raise ValueError("the checkpoint has no pose head (rotation_net.pose_out): it is no Pose2Pose")


def save_annotator(annotator: Annotator, folder: str, *, kind: str = "") -> None:
    """Weights and model settings; the body is put beside them when the run starts."""
    storage.write_json(storage.join(folder, MODEL), runs.plain(annotator.config))
    write_weights(annotator.state_dict(), storage.join(folder, weights_file(WEIGHTS, kind)))


def weights_file(name: str, kind: str) -> str:
    """Name of the file for weights of another `kind` than those that a run delivers: annotator-best.safetensors."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}-{kind}.{suffix}" if kind else name


def load_annotator(folder: str) -> Annotator:
    """The annotator of a finished run, in evaluation mode.

    Raises ValueError for a folder that is no such run, and for weights of another architecture.
    """
    config, path = load_config(folder), storage.join(folder, WEIGHTS)
    state = read_weights(path)
    annotator = Annotator(config, body=load_body_of(folder), vposer=vposer_within(state))
    load_whole(annotator, state, where=path)
    return annotator.eval()


def vposer_within(state: Mapping[str, torch.Tensor]) -> VPoser | None:
    """An untrained VPoser of the release that an annotator's weights hold; None where they hold none."""
    prior = [name.removeprefix("vposer.") for name in state if name.startswith("vposer.")]
    return RELEASES[release_of(prior)]() if prior else None


def load_config(folder: str) -> Pose2PoseConfig:
    """The model settings of a finished run. Raises ValueError for a folder that is no such run."""
    runs.load_run(folder, job=MAKERS)
    settings: dict[str, Any] = storage.read_json(storage.join(folder, MODEL))
    if (kind := settings.pop("kind", "Pose2PoseConfig")) != "Pose2PoseConfig":
        raise ValueError(
            f"the network in {folder} is of {kind}: annotators are Pose2Pose's\n"
            "  fix: pass a run of jobs/train_annotator.py, or of jobs/train_estimator.py pose2pose"
        )
    try:
        return Pose2PoseConfig(**settings)
    except TypeError as error:
        raise ValueError(f"{folder}/{MODEL} has settings that this version does not know: {error}") from None


def write_weights(state: Mapping[str, torch.Tensor], path: str) -> None:
    """Named tensors as a safetensors file."""
    storage.write_bytes(path, save({name: value.detach().cpu().contiguous() for name, value in state.items()}))


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """Named tensors of a safetensors file. Raises ValueError for one that is damaged."""
    try:
        return load(storage.read_bytes(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def load_whole(network: nn.Module, state: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Load whole or not at all. Raises ValueError that names what does not fit."""
    wanted = network.state_dict()
    wrong = [f"{n}: there {tuple(state[n].shape)}, here {tuple(v.shape)}" for n, v in wanted.items()
             if n in state and state[n].shape != v.shape]  # fmt: skip
    absent, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if wrong or absent or unknown:
        lines = [*wrong[:3], *(f"absent: {n}" for n in absent[:3]), *(f"unknown: {n}" for n in unknown[:3])]
        count = len(wrong) + len(absent) + len(unknown)
        raise ValueError(
            f"{where} is a checkpoint of another architecture ({count} tensors do not fit):\n  "
            + "\n  ".join(lines)
            + f"\n  fix: the model settings beside the weights ({MODEL}) must be those it was trained with"
        )
    network.load_state_dict(state)


def read_published(path: str) -> dict[str, torch.Tensor]:
    """Named tensors of a published checkpoint, local or in object storage. Raises ValueError for one that is not."""
    if "://" not in path:
        return read_state(path)
    if not storage.exists(path):
        raise ValueError(f"no checkpoint at {path}\n  fix: pass the file that its authors published")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.rpartition("/")[2]
        file.write_bytes(storage.read_bytes(path))
        return read_state(file)


def weights_sha256(folder: str) -> str:
    """SHA-256 of a run's weights, for lineage."""
    return hashlib.sha256(storage.read_bytes(storage.join(folder, WEIGHTS))).hexdigest()


def save_prior(vposer: VPoser, folder: str) -> None:
    write_weights(vposer.state_dict(), storage.join(folder, PRIOR_WEIGHTS))


def load_prior(path: str) -> VPoser:
    """The VPoser of a finished train_prior run, or of a published checkpoint file (either release), in evaluation mode.

    Raises ValueError for anything else.
    """
    if path.endswith(CHECKPOINTS):
        return vposer_of(read_published(path))
    runs.load_run(path, job="train_prior")
    return vposer_of(read_weights(storage.join(path, PRIOR_WEIGHTS)))
