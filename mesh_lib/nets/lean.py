"""The same network for less: activations computed twice rather than kept, batch norms folded into convolutions.

Both are exact: `rerun` changes no value, gradient or running statistic; `folded` rounds otherwise, no more.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights
from torch.utils.checkpoint import checkpoint

Net = TypeVar("Net", bound=nn.Module)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, *_TRANSPOSED)


def rerun(segment: nn.Module, *inputs: Tensor, by: Callable[..., Any] | None = None) -> Any:
    """segment(*inputs), or by(*inputs); in training only the inputs are kept, and all else is computed again for the
    gradients.

    Batch norms of the segment count a batch once: checkpointing alone would move their running statistics twice.
    Segments must not draw random numbers.
    """
    run = by or segment
    if not (segment.training and torch.is_grad_enabled()):
        return run(*inputs)

    def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        return contextlib.nullcontext(), _statistics_kept(segment)

    return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextlib.contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms in training use the batch's statistics, and leave the running ones as they are."""
    norms = [norm for norm in module.modules() if isinstance(norm, _NORMS) and norm.track_running_stats]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count


def folded(net: Net) -> Net:
    """A copy for inference: each batch norm that follows a convolution or linear layer is put into its weights.

    "Follows" is the order in which a module names its layers, which in our networks is the order in which they run.
    """
    copied = copy.deepcopy(net).eval().requires_grad_(False)
    for module in list(copied.modules()):
        children = list(module.named_children())
        for (name, layer), (norm_name, norm) in itertools.pairwise(children):
            if isinstance(norm, _NORMS) and isinstance(layer, (*_CONVOLUTIONS, nn.Linear)):
                setattr(module, name, _fold(layer, norm))
                setattr(module, norm_name, nn.Identity())
    return copied


def _fold(layer: nn.Module, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Module:
    assert norm.running_mean is not None and norm.running_var is not None
    assert isinstance(layer, (*_CONVOLUTIONS, nn.Linear))
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    if isinstance(layer, nn.Linear):
        layer.weight, layer.bias = fuse_linear_bn_weights(layer.weight, layer.bias, *statistics)
    else:
        transposed = isinstance(layer, _TRANSPOSED)
        layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics, transpose=transposed)
    return layer.requires_grad_(False)
