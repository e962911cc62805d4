"""Exponential moving average of a network's weights; validation and saved weights use it."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


class EMA:
    """Eq. 6.3: average <- d average + (1 - d) weights after every step, d = 0.9999 (1 - exp(-updates / 2000)).

    Floating-point buffers (BatchNorm's running statistics) are averaged too, counters are copied.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, ramp: float = 2000.0):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.ramp = ramp
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step's weights in."""
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.ramp))
        averages, values = list(self.model.state_dict().values()), list(model.state_dict().values())
        floating = [i for i, average in enumerate(averages) if average.is_floating_point()]
        counters = [i for i, average in enumerate(averages) if not average.is_floating_point()]
        torch._foreach_lerp_([averages[i] for i in floating], [values[i] for i in floating], 1 - decay)
        for i in counters:
            averages[i].copy_(values[i])
