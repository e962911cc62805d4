"""How well found tracks follow annotated ones: identity switches, tracks found, false tracks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

FOUND_SHARE = 0.5  # of an annotated track's frames that must be hit for the track to count as found


@dataclass(frozen=True)
class TrackMetrics:
    """Figures of a whole source."""

    annotated_tracks: int
    track_pd: float  # share of them that is hit in at least half of their frames
    identity_switches: int  # times that an annotated track is hit by another found track than the time before
    found_tracks: int
    false_tracks: int  # found tracks that never hit a target


class TrackScore:
    """Gathers frame by frame; memory grows with the number of tracks, not of frames."""

    def __init__(self) -> None:
        self.frames: Counter[int] = Counter()  # of each annotated track
        self.hits: Counter[int] = Counter()
        self.follower: dict[int, int] = {}  # annotated track -> the found track that hit it last
        self.switches = 0
        self.found: set[int] = set()
        self.true: set[int] = set()

    def add(self, annotated: np.ndarray, numbers: np.ndarray, target: np.ndarray) -> None:
        """One frame: annotated tracks (G,), found tracks (D,), the target that each detection hits (D,) or -1."""
        self.frames.update(annotated.tolist())
        self.found.update(numbers.tolist())
        for number, g in zip(numbers.tolist(), target.tolist(), strict=True):
            if g < 0:
                continue
            track = int(annotated[g])
            self.hits[track] += 1
            self.true.add(number)
            self.switches += self.follower.get(track, number) != number
            self.follower[track] = number

    def metrics(self) -> TrackMetrics:
        """The figures so far."""
        count = sum(self.hits[track] >= FOUND_SHARE * frames for track, frames in self.frames.items())
        return TrackMetrics(
            annotated_tracks=len(self.frames),
            track_pd=count / len(self.frames) if self.frames else 0.0,
            identity_switches=self.switches,
            found_tracks=len(self.found),
            false_tracks=len(self.found - self.true),
        )
