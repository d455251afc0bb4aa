"""Published PyTorch checkpoints: read without running what is in them, renamed to our names, and accounted for.

Most released weights are pickles. Here only tensors come out of them: every name that a pickle asks for, other than
those that rebuild tensors, becomes an inert stand-in (optimizers, trainers' settings, callbacks).
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch._utils
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mesh_lib.nets.resnet import BLOCKS, Depth

_REBUILDS = {
    ("torch._utils", name): getattr(torch._utils, name)
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
}
_STORAGES = {
    ("torch", f"{kind}Storage"): getattr(torch, f"{kind}Storage")
    for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
}
_PLAIN = {("collections", "OrderedDict"): OrderedDict, ("torch", "Size"): torch.Size}
_KNOWN: dict[tuple[str, str], Any] = {**_REBUILDS, **_STORAGES, **_PLAIN}


class _Ignored:
    """Stands in for whatever is no tensor: takes any state, does nothing with it."""

    def __new__(cls, *_: Any, **__: Any) -> _Ignored:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...

    def add(self, _: Any) -> None: ...

    def __hash__(self) -> int:
        return id(self)


class _TensorsOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _KNOWN.get((module, name), _Ignored)


_SAFE_PICKLE = SimpleNamespace(
    __name__="tensors_only", Unpickler=_TensorsOnly, load=lambda file, **more: _TensorsOnly(file, **more).load()
)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint (.pt, .pth, .pth.tar, .ckpt, .safetensors), wherever it nests them.

    Looks for the state dict under the usual names (`state_dict`, `network`, `model`), else takes the file as one;
    `module.`, which data-parallel training puts before each name, is taken off. Raises ValueError for a file that is
    absent, damaged, or holds no named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}\n  fix: pass the file that its authors published")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", pickle_module=_SAFE_PICKLE, weights_only=False)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    except Exception as error:  # unpicklers raise nearly anything on damaged input
        raise ValueError(f"{path} is not a PyTorch checkpoint, or is damaged: {error}") from None
    for name in ("state_dict", "network", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    tensors = {str(n): v for n, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise ValueError(f"{path} holds no named tensors: is it a checkpoint of weights?")
    return {name.removeprefix("module."): value.detach() for name, value in tensors.items()}


@dataclass(frozen=True)
class Fit:
    """What of a checkpoint went where."""

    matched: tuple[str, ...]
    """Our names that took a value."""
    absent: tuple[str, ...]
    """Our names that the checkpoint does not have: they stay as they were."""
    unknown: tuple[str, ...]
    """The checkpoint's names that we have no place for."""

    def __str__(self) -> str:
        counts = f"{len(self.matched)} tensors loaded, {len(self.absent)} of ours absent"
        lines = [f"{counts}, {len(self.unknown)} left over"]
        for what, names in (("absent", self.absent), ("left over", self.unknown)):
            if names:
                more = f" and {len(names) - 8} more" if len(names) > 8 else ""
                lines.append(f"  {what}: {', '.join(names[:8])}{more}")
        return "\n".join(lines)


def fit_state(module: nn.Module, state: Mapping[str, Tensor], *, rename: Callable[[str], str | None]) -> Fit:
    """Load what has a place in `module`; `rename` gives our name of a checkpoint's, or None to leave it out.

    Raises ValueError where a name fits but its shape does not, and where nothing fits at all.
    """
    ours = module.state_dict()
    taken: dict[str, Tensor] = {}
    unknown, wrong = [], []
    for name, value in state.items():
        mine = rename(name)
        if mine not in ours:
            unknown.append(name)
        elif ours[mine].shape != value.shape:
            wrong.append(f"{name}: there {tuple(value.shape)}, here {tuple(ours[mine].shape)}")
        else:
            taken[mine] = value
    if wrong:
        raise ValueError("the checkpoint is of another architecture:\n  " + "\n  ".join(wrong[:5]))
    if not taken:
        known = ", ".join(list(state)[:3])
        raise ValueError(f"nothing in the checkpoint has a place here (it holds {known} …): is it of another network?")
    module.load_state_dict(taken, strict=False)
    # Batch counters, which old checkpoints lack, decide nothing.
    absent = sorted(name for name in ours.keys() - taken.keys() if not name.endswith("num_batches_tracked"))
    return Fit(tuple(taken), tuple(absent), tuple(unknown))


def rename_backbone(name: str) -> str | None:
    """torchvision's ResNet, bare (ImageNet, Simple Baselines), under `backbone.` or `backbone.resnet.` (the networks
    that descend from I2L-MeshNet) or in our f, to our ResNet's names; None for what is no backbone."""
    name = re.sub(r"^(regressor\.)?(backbone\.)?(resnet\.)?", "", name)
    return name if re.match(r"(conv1|bn1|layer[1-4]\.\d+)\.", name) else None


def depth_of(state: Mapping[str, Tensor]) -> Depth:
    """Which ResNet a checkpoint's backbone is. Raises ValueError where it holds none."""
    blocks = {part.rpartition(".")[0] for name in state if (part := rename_backbone(name)) is not None}
    bottleneck = any(part.endswith(".conv3") for part in blocks)
    counts = tuple(len({b.split(".")[1] for b in blocks if b.startswith(f"layer{stage}.")}) for stage in range(1, 5))
    for depth, known in BLOCKS.items():
        if counts == known and bottleneck == (depth > 34):
            return depth
    raise ValueError(f"the checkpoint holds no known ResNet: its stages have {counts} blocks")


_POSE2POSE = {
    "position_net.conv.0": "position",
    "rotation_net.conv": "reduce",
    "rotation_net.root_pose_out.0": "root",
    "rotation_net.pose_out.0": "pose",
    "rotation_net.shape_out.0": "shape",
    "rotation_net.cam_out.0": "camera",
}


def rename_pose2pose(name: str) -> str | None:
    """Released body networks of the family (Pose2Pose; Hand4Whole's body, whose rotation net takes 8 hand joints more
    and does not fit) to our Pose2Pose's names; None for what has no place there."""
    if (part := rename_backbone(name)) is not None:
        return f"backbone.{part}"
    module, _, leaf = name.rpartition(".")
    if module in _POSE2POSE:
        return f"{_POSE2POSE[module]}.{leaf}"
    parent, _, index = module.rpartition(".")
    return f"{_POSE2POSE[parent]}.{index}.{leaf}" if parent in _POSE2POSE else None
