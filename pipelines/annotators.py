"""Trained annotators on disk: a run folder holds weights, their settings, and the body they speak."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from mesh_lib.nets.annotator import Annotator
from mesh_lib.nets.checkpoints import read_state
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.vposer import RELEASES, VPoser, release_of, vposer_of
from pipelines import runs, storage
from pipelines.bodies import load_body_of

WEIGHTS = "annotator.safetensors"
MODEL = "model.json"
PRIOR_WEIGHTS = "vposer.safetensors"
POSE2D_WEIGHTS = "pose2d.safetensors"
CHECKPOINTS = (".pt", ".pth", ".pth.tar", ".ckpt", ".safetensors")
"""Names of published weights' files end so."""


def save_annotator(annotator: Annotator, folder: str) -> None:
    """Weights and model settings; the body is put beside them when the run starts."""
    storage.write_json(storage.join(folder, MODEL), runs.plain(annotator.config))
    write_weights(learned_state(annotator), storage.join(folder, WEIGHTS))


def learned_state(annotator: Annotator) -> dict[str, torch.Tensor]:
    """What a checkpoint holds: the network and VPoser; the body's buffers come from the body file."""
    return {n: v for n, v in annotator.state_dict().items() if not n.startswith("keypoints.")}


def load_annotator(folder: str) -> Annotator:
    """The annotator of a finished run, in evaluation mode.

    Raises ValueError for a folder that is no such run, and for weights of another architecture.
    """
    config, path = load_config(folder), storage.join(folder, WEIGHTS)
    state = read_weights(path)
    release = release_of(name.removeprefix("vposer.") for name in state)
    annotator = Annotator(config, body=load_body_of(folder), vposer=RELEASES[release]())
    load_weights(annotator, state, where=path)
    return annotator.eval()


def load_config(folder: str) -> Pose2PoseConfig:
    """The model settings of a finished run. Raises ValueError for a folder that is no such run."""
    runs.load_run(folder, job="train_annotator")
    settings: dict[str, Any] = storage.read_json(storage.join(folder, MODEL))
    settings.pop("kind", None)
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


def load_weights(annotator: Annotator, state: dict[str, torch.Tensor], *, where: str) -> None:
    """Load whole or not at all. Raises ValueError that names what does not fit."""
    wanted = learned_state(annotator)
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
    annotator.load_state_dict(state, strict=False)  # what is left is the body's own, just checked by name


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
        return vposer_of(read_state(path))
    runs.load_run(path, job="train_prior")
    return vposer_of(read_weights(storage.join(path, PRIOR_WEIGHTS)))
