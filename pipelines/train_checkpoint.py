"""The checkpoint of a training: all that it needs to go on after a kill, in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pipelines import storage

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Progress:
    """How far a training is."""

    step: int = 0
    """Steps done."""
    history: list[dict[str, Any]] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)
    """Sums over the steps of the unfinished epoch."""
    best: float | None = None
    """Least validation error so far."""


def save_checkpoint(folder: str, network: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """One file, written whole or not at all."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    data = save(tensors, {"progress": json.dumps(asdict(progress))})
    storage.write_bytes(storage.join(folder, CHECKPOINT), data)


def load_checkpoint(folder: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Load the last checkpoint, if there is one. Raises ValueError for one that is damaged, or another network's."""
    path = storage.join(folder, CHECKPOINT)
    if not storage.exists(path):
        return Progress()
    data = storage.read_bytes(path)
    try:
        progress, tensors = read_progress(data), load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}\n  fix: delete it; the training starts over") from None
    weights: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {index: {} for index in range(len(optimizer.param_groups[0]["params"]))}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "network":
            weights[rest] = value
        else:
            index, _, entry = rest.partition(".")
            state[int(index)][entry] = value
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path} is the checkpoint of another network: {error}\n  fix: delete it; the training starts over"
        ) from None
    # Fused Adam walks a weight and its moments side by side: they must lie in memory alike (channels last).
    for weight, moments in zip(optimizer.param_groups[0]["params"], state.values(), strict=True):
        for name, value in moments.items():
            if value.shape == weight.shape:
                moments[name] = torch.empty_like(weight).copy_(value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def read_progress(checkpoint: bytes) -> Progress:
    """How far the training was that wrote this checkpoint: a safetensors file, its header's length and JSON first."""
    header = json.loads(checkpoint[8 : 8 + int.from_bytes(checkpoint[:8], "little")])
    return Progress(**json.loads(header["__metadata__"]["progress"]))
