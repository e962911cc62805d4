"""Confidence intervals of an evaluation by drawing its sequences anew, with replacement.

Frames of a sequence resemble one another, so sequences, not frames, are what is drawn: an interval says what another
set of as many sequences of this kind might have given. Few sequences give rough intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.evaluation_coco import RECALLS, Matches
from utils.evaluation_input import GroundTruth

PERCENTILES = (2.5, 97.5)
PART = 100  # resamples computed together: bounds the memory
SEED = 2023


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What became of targets and detections at a confidence, with the sequence of each frame."""

    matches: Matches
    truth: GroundTruth
    sequence: np.ndarray  # (I,) of each frame
    confidence: float
    centre_hits: np.ndarray  # (G,) bool of all targets
    alarm_frames: np.ndarray  # the frame of each false alarm


def bootstrap_intervals(outcomes: Outcomes, resamples: int) -> dict[str, tuple[float, float]]:
    """95 % intervals of the figures of `reweighted`; empty where there are fewer than two sequences or no resamples."""
    count = int(outcomes.sequence.max(initial=-1)) + 1
    if count < 2 or resamples < 1:
        return {}
    weights = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), resamples)  # (B, S)
    values = reweighted(outcomes, weights)
    return {name: tuple(np.percentile(value, PERCENTILES).tolist()) for name, value in values.items()}


def reweighted(outcomes: Outcomes, weights: np.ndarray) -> dict[str, np.ndarray]:
    """mAP50, and precision, recall, F1, Pd and false alarms per frame at the confidence, (B,) each.

    weights: (B, S) how often each sequence counts.
    """
    matches, sequence = outcomes.matches, outcomes.sequence
    shown = matches.scores >= outcomes.confidence
    columns = (
        sequence,  # frames
        sequence[matches.target_image],  # targets
        sequence[matches.image[shown]],  # detections shown
        sequence[matches.image[shown & matches.hits]],  # hits
        sequence[outcomes.truth.image[outcomes.centre_hits]],  # hits by centre distance
        sequence[outcomes.alarm_frames],  # false alarms
    )
    per_sequence = np.stack([np.bincount(column, minlength=weights.shape[1]) for column in columns])  # (6, S)
    frames, targets, detections, hits, centres, alarms = (weights @ per_sequence.T).T.astype(float)
    return {
        "mAP50": _mean_average_precisions(matches, sequence, weights),
        "precision": hits / np.maximum(detections, 1),
        "recall": hits / np.maximum(targets, 1),
        "f1": 2 * hits / np.maximum(detections + targets, 1),
        "pd": centres / np.maximum(targets, 1),
        "false_alarms_per_frame": alarms / frames,
    }


def _mean_average_precisions(matches: Matches, sequence: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """mAP50 (B,) with each sequence as often as `weights` (B, S) says."""
    total, categories = np.zeros(len(weights)), np.zeros(len(weights))
    for category in np.unique(matches.target_category):
        own = matches.category == category
        of_target = sequence[matches.target_image[matches.target_category == category]]
        targets = weights @ np.bincount(of_target, minlength=weights.shape[1])  # (B,)
        of_detection = sequence[matches.image[own]]
        parts = np.split(np.arange(len(weights)), range(PART, len(weights), PART))
        ap = [_average_precisions(matches.hits[own], of_detection, weights[part], targets[part]) for part in parts]
        total += np.concatenate(ap)
        categories += targets > 0
    return total / np.maximum(categories, 1)


def _average_precisions(hits: np.ndarray, of: np.ndarray, weights: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """AP (B,) of detections (D,) of sequences `of` (D,), in order of falling confidence; `targets` (B,).

    Precision peaks at hits, so the curve is followed from hit to hit; what lies between them is counted by sequence.
    """
    at = np.flatnonzero(hits)
    if not len(at):
        return np.zeros(len(weights))
    between = np.zeros((len(at) + 1, weights.shape[1]))  # misses of each sequence between hit and hit
    misses = np.flatnonzero(~hits)
    np.add.at(between, (np.searchsorted(at, misses), of[misses]), 1)
    false_positives = np.cumsum(between[:-1], axis=0) @ weights.T  # (H, B)
    true_positives = np.cumsum(weights[:, of[at]].T, axis=0)  # (H, B)
    precision = true_positives / np.maximum(true_positives + false_positives, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    ap = np.zeros(len(weights))
    for b in np.flatnonzero(targets):
        reached = np.searchsorted(true_positives[:, b] / targets[b], RECALLS, side="left")
        ap[b] = envelope[reached[reached < len(at)], b].sum() / len(RECALLS)
    return ap
