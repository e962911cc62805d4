"""Learning rates of the published recipe: set once an epoch (docs/code_map.md, section 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

NOMINAL_BATCH = 64
FLOOR_RATIO = 0.01
NUM_STEPS = 10  # of the step schedule


@dataclass(frozen=True)
class Rates:
    """Published learning rates of an optimiser."""

    nominal: float  # for a batch of 64
    bounds: tuple[float, float]  # of the peak, after the scaling


ADAM = Rates(1e-3, (3e-4, 1e-3))
PUBLISHED = {"sgd": Rates(1e-2, (5e-4, 5e-2)), "adam": ADAM, "adamw": ADAM}


def scaled_rates(
    nominal: float, batch_size: int, optimizer: str, bounds: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Eq. 6.1, peak and floor of the rate: nominal is for a batch of 64, scaled, then clamped to the bounds (default:
    the published ones of the optimiser)."""
    low, high = bounds or PUBLISHED[optimizer].bounds
    scaled = nominal * batch_size / NOMINAL_BATCH
    peak = min(max(scaled, low), high)
    floor = min(max(scaled * FLOOR_RATIO, low * FLOOR_RATIO), high * FLOOR_RATIO)
    return peak, floor


def clamping(nominal: float, batch_size: int, optimizer: str, bounds: tuple[float, float] | None = None) -> str | None:
    """What to say where the bounds decide the peak, not the nominal rate; None where they do not."""
    scaled, (peak, _) = nominal * batch_size / NOMINAL_BATCH, scaled_rates(nominal, batch_size, optimizer, bounds)
    if math.isclose(peak, scaled):
        return None
    what = "raised" if peak > scaled else "lowered"
    return f"--lr {nominal:g} is {scaled:.3g} at batch {batch_size}, {what} to {peak:g} by the bounds (--lr-bounds)"


@dataclass(frozen=True)
class Schedule:
    """Learning rate of each epoch, counted from 0, in a run of `epochs`: eq. 6.2.

    "cosine": quadratic warm-up over min(max(0.05 E, 1), 3) epochs from max(0.1 peak, 1e-6), cosine, then the floor for
    the last min(max(0.05 E, 1), 15) epochs. "step": 10 equal geometric steps from the peak to the floor.
    """

    peak: float
    floor: float
    epochs: int
    kind: Literal["cosine", "step"] = "cosine"

    def rate(self, epoch: int) -> float:
        return self._cosine(epoch) if self.kind == "cosine" else self._step(epoch)

    def _cosine(self, epoch: int) -> float:
        warm_up = min(max(0.05 * self.epochs, 1), 3)
        flat = min(max(0.05 * self.epochs, 1), 15)
        if epoch <= warm_up:
            start = max(0.1 * self.peak, 1e-6)
            return start + (self.peak - start) * (epoch / warm_up) ** 2
        if epoch >= self.epochs - flat:
            return self.floor
        progress = (epoch - warm_up) / (self.epochs - warm_up - flat)
        return self.floor + 0.5 * (self.peak - self.floor) * (1 + math.cos(math.pi * progress))

    def _step(self, epoch: int) -> float:
        ratio = (self.floor / self.peak) ** (1 / (NUM_STEPS - 1))
        return self.peak * ratio ** (epoch // (self.epochs / NUM_STEPS))
