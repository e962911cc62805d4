"""Gradient checkpointing: less memory in training for more computation, with the same gradients."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpointed(module: nn.Module, *inputs: object) -> Any:
    """`module(*inputs)` whose inner results are not kept but computed again for the backward pass.

    Exact: the second pass draws the same dropout, and leaves BatchNorm's running statistics alone.
    """
    if torch.compiler.is_compiling():  # it repeats values alone, never a change of a buffer
        return checkpoint(module, *inputs, use_reentrant=False)
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=partial(_contexts, module))


def _contexts(module: nn.Module) -> tuple:
    """Contexts of the first pass and of those after it: one for each backward pass through the graph."""
    return nullcontext(), FrozenStatistics(module)


class FrozenStatistics:
    """A context, to be entered any number of times: BatchNorms use their batch's statistics but do not take them into
    the running ones."""

    def __init__(self, module: nn.Module) -> None:
        kinds = nn.modules.batchnorm._NormBase  # of one, two and three dimensions, shared between processes too
        self._norms = [m for m in module.modules() if isinstance(m, kinds) and m.num_batches_tracked is not None]

    def __enter__(self) -> None:
        self._before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in self._norms]
        for norm in self._norms:
            norm.momentum = 0.0

    def __exit__(self, *exception: object) -> None:
        for norm, (momentum, count) in zip(self._norms, self._before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
