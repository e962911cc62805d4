"""The figures of an evaluation as dataclasses, and how they come of counts. All metrics are fractions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from utils.evaluation_coco import Matches
from utils.pd_fa import PdFa, PdFaCurve


@dataclass(frozen=True)
class PublishedProtocol:
    """The figures of the papers' tables; precision is a mean over the PR curve, not an operating point."""

    mAP50: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class CocoTable:
    """COCO's summary, mean over the categories that have targets."""

    AP: float
    AP50: float
    AP75: float
    AP_small: float
    AR100: float


@dataclass(frozen=True)
class OperatingPoint:
    """What a user sees who shows the detections of at least this confidence (match: IoU 0.5)."""

    confidence: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class SequenceMetrics:
    """One sequence (a folder of frames); precision and recall at the stated confidence."""

    frames: int
    targets: int
    mAP50: float
    precision: float
    recall: float
    pd: float
    false_alarms_per_frame: float
    false_alarms_per_megapixel: float | None


@dataclass(frozen=True)
class TargetBin:
    """The targets of a range of sizes or contrasts, at the stated confidence.

    There is no precision: a false alarm has no target whose size or contrast could place it.
    """

    least: float
    below: float | None  # None: without limit
    targets: int
    recall: float  # by IoU 0.5
    pd: float  # by centre distance


@dataclass(frozen=True)
class ConfidenceHistogram:
    """How many detections are hits and how many are not (IoU 0.5), by confidence."""

    edges: tuple[float, ...]  # n + 1
    hits: tuple[int, ...]  # n
    others: tuple[int, ...]  # n


@dataclass(frozen=True)
class Counts:
    """What was scored."""

    frames: int
    targets: int
    detections: int


@dataclass(frozen=True)
class Evaluation:
    """All metrics of one set of detections."""

    published: PublishedProtocol
    coco: CocoTable
    operating_point: OperatingPoint
    best_f1: OperatingPoint
    pd_fa: PdFa
    intervals: dict[str, tuple[float, float]]  # 95 % of the headline figures, by resampling sequences
    per_sequence: dict[str, SequenceMetrics]
    per_size: tuple[TargetBin, ...]  # by the square root of the box's area, pixels
    per_scr: tuple[TargetBin, ...]  # by signal-to-clutter ratio; empty where it is not known
    counts: Counts
    pr_curve: tuple[float, ...]  # precision at recall 0, 0.01, ..., 1; IoU 0.5, first category
    pd_fa_curve: PdFaCurve
    confidences: ConfidenceHistogram
    categories: tuple[str, ...]
    protocol: dict
    speed: dict
    notes: tuple[str, ...]

    def to_json(self) -> dict:
        """The content of `metrics.json`: plain types, every metric a fraction."""
        return asdict(self)


def harmonic_mean(precision: float, recall: float) -> float:
    """F1; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def ratio(part: float, whole: float) -> float:
    """A fraction; 0 of nothing."""
    return float(part / whole) if whole else 0.0


def curve_precision(curve: Sequence[float], recall: float) -> float:
    """Precision of the published protocol: mean of the curve's first int(100 recall) of 101 points."""
    points = int(100 * recall)
    return float(np.mean(curve[:points])) if points else 0.0


def operating_point(matches: Matches, confidence: float) -> OperatingPoint:
    """Precision, recall and F1 of all categories together, detections of at least `confidence`."""
    shown = matches.scores >= confidence
    hits = np.count_nonzero(matches.hits[shown])
    precision = ratio(hits, np.count_nonzero(shown))
    recall = ratio(hits, len(matches.target_image))
    return OperatingPoint(float(confidence), precision, recall, harmonic_mean(precision, recall))


def best_f1_point(matches: Matches) -> OperatingPoint:
    """The operating point of the best F1 over all confidences; of equal ones the highest confidence."""
    if not matches.hits.any():
        return OperatingPoint(0.0, 0.0, 0.0, 0.0)
    scores, true_positives = matches.scores, np.cumsum(matches.hits)
    f1 = 2 * true_positives / (np.arange(1, len(scores) + 1) + len(matches.target_image))
    last_of_tie = np.append(scores[1:] != scores[:-1], True)  # a threshold cannot part equal confidences
    best = int(np.argmax(np.where(last_of_tie, f1, -1.0)))
    return operating_point(matches, float(scores[best]))


def confidence_histogram(matches: Matches, bins: int = 50) -> ConfidenceHistogram:
    """Hits and others by confidence, in equal bins from 0 to 1."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    at = np.clip((matches.scores * bins).astype(int), 0, bins - 1)
    hits, others = (np.bincount(at[which], minlength=bins) for which in (matches.hits, ~matches.hits))
    return ConfidenceHistogram(tuple(edges.tolist()), tuple(hits.tolist()), tuple(others.tolist()))
