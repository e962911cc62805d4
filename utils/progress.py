"""How far an epoch is: a bar on a terminal, now and then a line elsewhere; and what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 60.0  # between lines where there is no terminal


class EpochProgress:
    """Context that shows the steps of an epoch, and the time left of the run at this epoch's speed.

    `say` prints a line; `shown` is False in all processes but one.
    """

    def __init__(
        self, title: str, steps: int, first: int, later: int, clips: int, say: Callable[[str], None], shown: bool = True
    ):
        self.title = title
        self.steps = steps
        self.later = later  # steps of the epochs after this one
        self.clips = clips  # of a step
        self._say = say
        self._shown = shown
        self._first = self._step = first
        self._bar = tqdm(
            total=steps * clips, initial=first * clips, desc=title, unit=" clips", leave=False,
            disable=None if shown else True,
        )
        self._started = self._said = time.monotonic()

    def __enter__(self) -> EpochProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, rate: float, means: dict[str, float]) -> None:
        """Show one step more, with its learning rate and the means of the loss terms so far."""
        self._step += 1
        if not self._bar.disable:
            self._bar.set_description(f"{self.title} step {self._step}/{self.steps}", refresh=False)
            terms = {name: f"{value:.3f}" for name, value in means.items() if name != "total"}
            self._bar.set_postfix({"lr": f"{rate:.2e}", **terms, "run": f"{self._left()[1]} left"}, refresh=False)
            self._bar.update(self.clips)
        elif self._shown and time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            self._say(self._line(rate, means))

    def _speed(self) -> float:
        """Steps a second."""
        return (self._step - self._first) / (time.monotonic() - self._started)

    def _left(self) -> tuple[timedelta, timedelta]:
        """Time for the steps left of the epoch and of the run, validation apart."""
        of_epoch = self.steps - self._step
        epoch, run = (timedelta(seconds=round(steps / self._speed())) for steps in (of_epoch, of_epoch + self.later))
        return epoch, run

    def _line(self, rate: float, means: dict[str, float]) -> str:
        epoch, run = self._left()
        return (
            f"{self.title} step {self._step}/{self.steps}  lr {rate:.2e}  {describe_losses(means)}  "
            f"{self._speed() * self.clips:.1f} clips/s  left: {epoch} of the epoch, {run} of the run"
        )


def describe_losses(means: dict[str, float]) -> str:
    """The total and the terms that it is made of."""
    if not means:
        return "no loss yet"
    terms = ", ".join(f"{name} {value:.3f}" for name, value in means.items() if name != "total")
    return f"loss {means['total']:.3f} ({terms})"


def describe_epoch(row: dict[str, Any], epochs: int) -> str:
    """A finished epoch, by its row of metrics.csv."""
    means = {name.removeprefix("train_"): value for name, value in row.items() if name.startswith("train_")}
    text = f"epoch {row['epoch']}/{epochs}  lr {row['lr']:.2e}  {describe_losses(means)}"
    if "val_loss" in row:
        text += f"  val loss {row['val_loss']:.3f}  mAP50 {100 * row['val_mAP50']:.2f} %"
    return text + f"  {row['seconds']:.0f} s"
