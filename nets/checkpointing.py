"""Gradient checkpointing: less memory in training for more computation, with the same gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
    """Contexts of the first and of the second pass."""
    return nullcontext(), frozen_statistics(module)


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorms use their batch's statistics but do not take them into the running ones."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d | nn.SyncBatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
