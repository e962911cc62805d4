"""Whether frames stand in the order in which they were taken, from the frames alone.

Neighbours in time look alike: the way through all frames in their right order is short. The order given is compared
with two lengths that do not depend on it: the mean of random orders, and the minimum spanning tree, which no order
beats by much. `smoothness` is 1 where the given order is as short as the tree, 0 where it is no better than chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse.csgraph import minimum_spanning_tree

WINDOW = 48  # frames that are compared with each other
FEWEST = 12  # frames that say anything about order
THUMBNAIL = 128  # longer side, pixels: noise is averaged away, drift stays
STILL = 0.8  # tree to mean distance above which nothing but noise changes (noise alone: above 0.95)
CHANCE = 0.35  # smoothness below which an order counts as random: real footage has 0.45 and more, shuffled 0 +- 0.15
BREAK = 3.0  # times the usual step
NEARER = 0.4  # times the step
FEWEST_BREAKS = 3  # of a window; a jerk or a damaged frame makes two
SMOOTH = 1.1  # times the tree's step, of the usual step


@dataclass(frozen=True)
class Order:
    """What a run's frames say of their order; `smoothness` is None where they cannot tell."""

    smoothness: float | None
    breaks: tuple[int, ...] = ()  # places after which the run goes on somewhere else, and comes back later
    frames: int = 0  # that were looked at

    @property
    def shuffled(self) -> bool:
        return self.smoothness is not None and self.smoothness < CHANCE


def windows(count: int, every: bool) -> list[range]:
    """Places of the frames to compare: windows that cover a run of `count` frames, or its start, middle and end."""
    if count <= WINDOW:
        return [range(count)]
    last = count - WINDOW
    starts = [*range(0, last, WINDOW // 2), last] if every else sorted({0, last // 2, last})
    return [range(start, start + WINDOW) for start in starts]


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """A grey frame (h, w) -> (n,) float32 of zero mean and unit deviation, small and smooth."""
    height, width = frame.shape
    shrink = max(1.0, max(height, width) / THUMBNAIL)
    size = max(4, round(width / shrink)), max(4, round(height / shrink))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    small = cv2.GaussianBlur(small, (0, 0), 1.0)
    return ((small - small.mean()) / max(float(small.std()), 0.5)).ravel()


def distances(thumbnails: Sequence[np.ndarray]) -> np.ndarray:
    """Root mean square differences (N, N) of thumbnails (n,)."""
    stack = np.stack(thumbnails).astype(np.float64)
    power = (stack * stack).sum(1)
    square = power[:, None] + power - 2 * stack @ stack.T
    np.fill_diagonal(square, 0)
    return np.sqrt(np.maximum(square, 0) / stack.shape[1])


def judge(matrix: np.ndarray) -> Order:
    """The order of one window from the distances (N, N) of its frames in the order given."""
    count = len(matrix)
    if count < FEWEST:
        return Order(None, (), count)
    upper = matrix[np.triu_indices(count, 1)]
    mean = float(upper.mean())
    # A repeated frame is at distance 0, which the sparse tree would take for "not connected".
    tree = float(minimum_spanning_tree(np.maximum(matrix, 1e-9)).sum()) / (count - 1)
    if mean < 1e-6 or tree > STILL * mean:
        return Order(None, (), count)
    steps = np.diag(matrix, 1)
    return Order(float((mean - steps.mean()) / (mean - tree)), _breaks(matrix, steps, tree), count)


def _breaks(matrix: np.ndarray, steps: np.ndarray, tree: float) -> tuple[int, ...]:
    """Places whose step is long although one of its ends has a much nearer frame beyond the other.

    A cut is none: behind it nothing looks like what was before it. Nor are the jerks of a camera held by hand: there
    the other steps, too, are longer than those of the tree.
    """
    found = []
    for place in np.flatnonzero(steps > BREAK * np.median(steps)):
        later, earlier = matrix[place, place + 2 :], matrix[: place, place + 1]
        if min(later.min(initial=np.inf), earlier.min(initial=np.inf)) < NEARER * steps[place]:
            found.append(int(place))
    return tuple(found) if len(found) >= FEWEST_BREAKS and np.median(steps) < SMOOTH * tree else ()


class RunJudge:
    """The order of a run from its windows, whose frames come one after the other; a window's are let go after it."""

    def __init__(self, places: Sequence[Sequence[int]]):
        self._waiting = list(places)  # windows, by their ends
        self._thumbnails: dict[int, np.ndarray] = {}
        self._shapes: set[tuple[int, ...]] = set()
        self._judged: list[tuple[list[int], Order]] = []
        self._frames = 0

    def add(self, place: int, frame: np.ndarray) -> None:
        """A grey frame (h, w) and its place in the run; places rise, and one whose frame is damaged is left out."""
        self._judge_before(place)
        self._shapes.add(frame.shape)
        self._thumbnails[place] = thumbnail(frame)
        self._frames += 1

    def order(self) -> Order | None:
        """The median smoothness and all breaks; None where there is no frame, or frames of several sizes."""
        if len(self._shapes) != 1:
            return None
        self._judge_before(None)
        told = [order.smoothness for _, order in self._judged if order.smoothness is not None]
        breaks = {window[k] for window, order in self._judged for k in order.breaks}
        return Order(float(np.median(told)) if told else None, tuple(sorted(breaks)), self._frames)

    def _judge_before(self, place: int | None) -> None:
        """Judge the windows that end before a place (None: all), and forget the frames that no later one has."""
        while self._waiting and (place is None or self._waiting[0][-1] < place):
            window = [k for k in self._waiting.pop(0) if k in self._thumbnails]
            if window and len(self._shapes) == 1:
                self._judged.append((window, judge(distances([self._thumbnails[k] for k in window]))))
            first = self._waiting[0][0] if self._waiting else np.inf
            self._thumbnails = {k: kept for k, kept in self._thumbnails.items() if k >= first}
