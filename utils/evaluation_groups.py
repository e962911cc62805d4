"""Metrics of parts of a data set: by sequence, by target size, by contrast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import PurePosixPath

import numpy as np

from utils.evaluation_coco import Matches, precision_curve
from utils.evaluation_input import GroundTruth
from utils.evaluation_metrics import SequenceMetrics, TargetBin, operating_point, ratio
from utils.pd_fa import pd_fa

SIZE_EDGES = (0.0, 5.0, 8.0, 12.0, 20.0, 32.0)  # pixels: sides of a square of the box's area
SCR_EDGES = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0)


def sequence_names(file_names: Sequence[str]) -> list[str]:
    """The sequence of each frame: its folder, without the leading folders that all frames share.

    `images/test/data6/0.bmp` and `images/test/data11/0.bmp` give `data6` and `data11`.
    """
    folders = [PurePosixPath(name.replace("\\", "/")).parent.parts for name in file_names]
    distinct = set(folders)
    shared = 0
    while all(len(f) > shared + 1 for f in distinct) and len({f[shared] for f in distinct}) == 1:
        shared += 1
    return ["/".join(parts[shared:]) or "." for parts in folders]


def number_sequences(file_names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names of the sequences in the order of first appearance, and each frame's position among them (I,)."""
    names = sequence_names(file_names)
    number = {name: n for n, name in enumerate(dict.fromkeys(names))}
    return list(number), np.array([number[name] for name in names], dtype=np.int64)


def per_sequence(
    truth: GroundTruth, matches: Matches, confidence: float, centre_hits: np.ndarray, alarm_frames: np.ndarray
) -> dict[str, SequenceMetrics]:
    """The metrics of every sequence, in the order of first appearance.

    centre_hits: (G,) bool of all targets; alarm_frames: the frame of each false alarm; both at `confidence`.
    """
    names, sequence = number_sequences(truth.file_names)
    found: dict[str, SequenceMetrics] = {}
    for n, name in enumerate(names):
        frames = sequence == n
        part = matches.select(frames)
        point = operating_point(part, confidence)
        hits = centre_hits[frames[truth.image] & ~truth.crowd]
        alarms = np.count_nonzero(frames[alarm_frames])
        found[name] = SequenceMetrics(
            frames=int(frames.sum()),
            targets=len(hits),
            mAP50=mean_average_precision(part),
            precision=point.precision,
            recall=point.recall,
            **asdict(pd_fa(np.count_nonzero(hits), len(hits), alarms, truth.sizes[frames])),
        )
    return found


def mean_average_precision(matches: Matches) -> float:
    """AP at IoU 0.5, mean over the categories that have targets here."""
    values = []
    for category in np.unique(matches.target_category):
        targets = np.count_nonzero(matches.target_category == category)
        values.append(precision_curve(matches.hits[matches.category == category], targets).mean())
    return float(np.mean(values)) if values else 0.0


def per_size(truth: GroundTruth, hits: np.ndarray, centre_hits: np.ndarray) -> tuple[TargetBin, ...]:
    """Targets by the square root of their box's area; hits and centre_hits: (G,) bool of all targets."""
    sides = np.sqrt(truth.boxes[:, 2] * truth.boxes[:, 3])
    return _bins(np.where(truth.crowd, np.nan, sides), SIZE_EDGES, hits, centre_hits)


def per_scr(
    truth: GroundTruth, scr: np.ndarray, hits: np.ndarray, centre_hits: np.ndarray
) -> tuple[TargetBin, ...]:
    """Targets by signal-to-clutter ratio (G,), NaN where it is not known: such targets are in no bin."""
    return _bins(np.where(truth.crowd, np.nan, scr), SCR_EDGES, hits, centre_hits)


def _bins(
    values: np.ndarray, edges: Sequence[float], hits: np.ndarray, centre_hits: np.ndarray
) -> tuple[TargetBin, ...]:
    """The bins that hold a target."""
    found = []
    for least, below in zip(edges, (*edges[1:], np.inf), strict=True):
        own = (values >= least) & (values < below)  # False for NaN
        count = np.count_nonzero(own)
        if count:
            recall, pd = (ratio(np.count_nonzero(which[own]), count) for which in (hits, centre_hits))
            found.append(TargetBin(least, None if np.isinf(below) else below, int(count), recall, pd))
    return tuple(found)
