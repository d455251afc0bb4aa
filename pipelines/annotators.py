"""Trained annotators on disk: a run folder holds weights, their settings, and the body they speak."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from mesh_lib.nets.annotator import Annotator
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.vposer import VPoser
from pipelines import runs, storage
from pipelines.bodies import load_body_of

WEIGHTS = "annotator.safetensors"
MODEL = "model.json"
PRIOR_WEIGHTS = "vposer.safetensors"


def save_annotator(annotator: Annotator, folder: str) -> None:
    """Weights and model settings; the body is put beside them when the run starts."""
    state = {name: value.detach().cpu().contiguous() for name, value in learned_state(annotator).items()}
    storage.write_json(storage.join(folder, MODEL), runs.plain(annotator.config))
    storage.write_bytes(storage.join(folder, WEIGHTS), save(state))


def learned_state(annotator: Annotator) -> dict[str, torch.Tensor]:
    """What a checkpoint holds: the network and VPoser; the body's buffers come from the body file."""
    return {n: v for n, v in annotator.state_dict().items() if not n.startswith("keypoints.")}


def load_annotator(folder: str) -> Annotator:
    """The annotator of a finished run, in evaluation mode.

    Raises ValueError for a folder that is no such run, and for weights of another architecture.
    """
    annotator = Annotator(load_config(folder), body=load_body_of(folder), vposer=VPoser())
    load_weights(annotator, storage.join(folder, WEIGHTS))
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


def load_weights(annotator: Annotator, path: str) -> None:
    """Load whole or not at all. Raises ValueError that names what does not fit."""
    try:
        state = load(storage.read_bytes(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    wanted = learned_state(annotator)
    wrong = [f"{n}: there {tuple(state[n].shape)}, here {tuple(v.shape)}" for n, v in wanted.items()
             if n in state and state[n].shape != v.shape]  # fmt: skip
    absent, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if wrong or absent or unknown:
        lines = [*wrong[:3], *(f"absent: {n}" for n in absent[:3]), *(f"unknown: {n}" for n in unknown[:3])]
        count = len(wrong) + len(absent) + len(unknown)
        raise ValueError(
            f"{path} is a checkpoint of another architecture ({count} tensors do not fit):\n  "
            + "\n  ".join(lines)
            + f"\n  fix: the model settings beside the weights ({MODEL}) must be those it was trained with"
        )
    annotator.load_state_dict(state, strict=False)  # what is left is the body's own, just checked by name


def weights_sha256(folder: str) -> str:
    """SHA-256 of a run's weights, for lineage."""
    return hashlib.sha256(storage.read_bytes(storage.join(folder, WEIGHTS))).hexdigest()


def save_prior(vposer: VPoser, folder: str) -> None:
    storage.write_bytes(storage.join(folder, PRIOR_WEIGHTS), save(vposer.state_dict()))


def load_prior(folder: str) -> VPoser:
    """The VPoser of a finished train_prior run. Raises ValueError for anything else."""
    runs.load_run(folder, job="train_prior")
    path = storage.join(folder, PRIOR_WEIGHTS)
    vposer = VPoser()
    try:
        vposer.load_state_dict(load(storage.read_bytes(path)), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is not a VPoser of this version: {error}") from None
    return vposer.eval()
