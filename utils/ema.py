"""Exponential moving average of a network's weights; validation and saved weights use it."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


class EMA:
    """Eq. 6.3: average <- d average + (1 - d) weights after every step, d = 0.9999 (1 - exp(-updates / 2000)).

    Floating-point buffers (BatchNorm's running statistics) are averaged too, counters are copied.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, ramp: float = 2000.0):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.ramp = ramp
        self.updates = 0
        self._averages = _floating_and_other(self.model)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step's weights in."""
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.ramp))
        (averages, counters), (values, counts) = self._averages, _floating_and_other(model)
        torch._foreach_lerp_(averages, values, 1 - decay)
        if counters:
            torch._foreach_copy_(counters, counts)


def _floating_and_other(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and buffers, floating-point ones and others."""
    tensors = [*model.parameters(), *model.buffers()]
    return [t for t in tensors if t.is_floating_point()], [t for t in tensors if not t.is_floating_point()]
