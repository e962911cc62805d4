"""Detections linked through time: centre distance to a constant-velocity prediction, misses bridged.

Boxes of a few pixels do not overlap from frame to frame once a target moves by more than its size, so overlap says
nothing here. Frames stream through; what is held back is bounded.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from utils.cli import UserError
from utils.detections import Detections
from utils.video import Frame

SMOOTHING = 0.5  # share of the newest step in a track's velocity


@dataclass(frozen=True)
class TrackSettings:
    """How detections become tracks."""

    reach: float = 12.0  # pixels from a track's prediction to its detection, at most; after n misses sqrt(n + 1) times
    gap: int = 5  # frames without detection that a track survives
    shortest: int = 1  # detections of a track, at least; shorter ones are dropped

    def __post_init__(self) -> None:
        if not 0 < self.reach < math.inf or self.gap < 0 or self.shortest < 1:
            raise UserError("--track-reach must be above 0, --track-gap 0 or more, --min-track-length 1 or more")


@dataclass(eq=False)
class _Track:
    centre: np.ndarray  # (2,) of the last detection
    label: int
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))  # pixels a frame
    count: int = 1  # detections
    missed: int = 0  # frames since the last one
    number: int | None = None  # from 1, once it is long enough
    ended: bool = False

    @property
    def decided(self) -> bool:
        return self.ended or self.number is not None

    def predict(self) -> np.ndarray:
        return self.centre + self.velocity * (self.missed + 1)

    def extend(self, centre: np.ndarray) -> None:
        step = (centre - self.centre) / (self.missed + 1)
        self.velocity = step if self.count == 1 else SMOOTHING * step + (1 - SMOOTHING) * self.velocity
        self.centre, self.count, self.missed = centre, self.count + 1, 0


class Tracker:
    """Links the detections of consecutive frames; `reset` where frames are no neighbours in time."""

    def __init__(self, settings: TrackSettings) -> None:
        self.settings = settings
        self.live: list[_Track] = []
        self.numbered = 0

    def push(self, detections: Detections) -> list[_Track]:
        """The track of each detection of the next frame."""
        centres = (detections.boxes[:, :2] + detections.boxes[:, 2:]) / 2
        owners: list[_Track | None] = [None] * len(detections)
        for track, d in self._link(centres, detections.classes):
            track.extend(centres[d])
            owners[d] = track
        linked = {id(track) for track in owners if track is not None}
        for track in self.live:
            if id(track) not in linked:
                track.missed += 1
                track.ended = track.missed > self.settings.gap
        found = [
            owner or _Track(centres[d].astype(float), int(detections.classes[d])) for d, owner in enumerate(owners)
        ]
        self.live = [track for track in self.live if not track.ended]
        self.live += [track for track, owner in zip(found, owners, strict=True) if owner is None]
        for track in found:
            if track.number is None and track.count >= self.settings.shortest:
                self.numbered += 1
                track.number = self.numbered
        return found

    def reset(self) -> None:
        """End all tracks."""
        for track in self.live:
            track.ended = True
        self.live = []

    def _link(self, centres: np.ndarray, labels: np.ndarray) -> list[tuple[_Track, int]]:
        """Pairs of live tracks and detections: as many as possible, then the smallest sum of distances."""
        if not self.live or not len(centres):
            return []
        predicted = np.stack([track.predict() for track in self.live])  # (tracks, 2)
        # A prediction is worth less the longer nothing has confirmed it.
        reach = self.settings.reach * np.sqrt([track.missed + 1 for track in self.live])
        distance = np.linalg.norm(predicted[:, None] - centres, axis=-1)  # (tracks, detections)
        same = np.array([track.label for track in self.live])[:, None] == labels
        allowed = (distance <= reach[:, None]) & same
        reward = reach.max() * min(distance.shape) + 1.0  # more than any sum of distances
        rows, columns = linear_sum_assignment(np.where(allowed, distance - reward, 0.0))
        return [(self.live[t], int(d)) for t, d in zip(rows, columns, strict=True) if allowed[t, d]]


def track_frames(
    frames: Iterable[tuple[Frame, Detections]], settings: TrackSettings
) -> Iterator[tuple[Frame, Detections, np.ndarray]]:
    """Every frame with its detections and their tracks' numbers (n,) from 1; detections of short tracks are gone.

    A frame comes out once all of its tracks are long enough or have ended: at most (shortest - 1) (gap + 1) frames
    later. Tracks do not reach from one run of frames into another.
    """
    tracker = Tracker(settings)
    waiting: deque[tuple[Frame, Detections, list[_Track]]] = deque()
    run: int | None = None
    stopped: BaseException | None = None
    try:
        for frame, detections in frames:
            if frame.run != run:
                tracker.reset()
                run = frame.run
            waiting.append((frame, detections, tracker.push(detections)))
            while waiting and all(track.decided for track in waiting[0][2]):
                yield _numbered(*waiting.popleft())
    except (UserError, KeyboardInterrupt, SystemExit) as error:  # what was found before is not lost
        stopped = error
    tracker.reset()
    yield from (_numbered(*entry) for entry in waiting)
    if stopped is not None:
        raise stopped


def _numbered(frame: Frame, detections: Detections, tracks: list[_Track]) -> tuple[Frame, Detections, np.ndarray]:
    keep = np.array([track.number is not None for track in tracks], dtype=bool)
    numbers = np.array([track.number for track in tracks if track.number is not None], dtype=np.int64)
    return frame, Detections(detections.boxes[keep], detections.scores[keep], detections.classes[keep]), numbers
