"""Detection probability (Pd) and false alarms by centre distance."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from utils.evaluation_input import GroundTruth, Results

CENTRE_DISTANCE = 3.0  # pixels between centres, at most, for a hit


def match_centres(
    truth: GroundTruth, results: Results, radius: float = CENTRE_DISTANCE
) -> tuple[np.ndarray, np.ndarray]:
    """Assign detections to targets of the same frame and category whose centres are within `radius` pixels.

    A detection hits at most one target and a target takes at most one detection: of all assignments the one
    with the most hits, then the smallest sum of distances. Returns `(hit, false_alarm)`: hit (G,) bool for
    each target, false_alarm (D,) bool for each detection that hit nothing. A crowd region is no target, and a
    detection centred inside one is no false alarm.
    """
    hit = np.zeros(len(truth.image), dtype=bool)
    false_alarm = np.ones(len(results), dtype=bool)
    target_centres = truth.boxes[:, :2] + truth.boxes[:, 2:] / 2
    centres = results.boxes[:, :2] + results.boxes[:, 2:] / 2
    detections_of = _groups(results.image, results.category)
    for frame, targets in _groups(truth.image, truth.category).items():
        candidates = detections_of.get(frame)
        if candidates is None:
            continue
        crowds, targets = targets[truth.crowd[targets]], targets[~truth.crowd[targets]]
        offsets = target_centres[targets, None] - centres[candidates]  # (targets, candidates, 2)
        rows, columns = _assign(np.linalg.norm(offsets, axis=-1), radius)
        hit[targets[rows]] = True
        false_alarm[candidates[columns]] = False
        for x, y, width, height in truth.boxes[crowds]:
            from_corner = centres[candidates] - (x, y)
            inside = ((from_corner >= 0) & (from_corner <= (width, height))).all(axis=1)
            false_alarm[candidates[inside]] = False
    return hit, false_alarm


def _assign(distance: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Row and column indices of the pairs within `radius`: most pairs first, then the smallest distances."""
    allowed = distance <= radius
    if not allowed.any():
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    reward = radius * min(distance.shape) + 1.0  # more than any sum of distances, so one more hit always wins
    rows, columns = linear_sum_assignment(np.where(allowed, distance - reward, 0.0))
    chosen = allowed[rows, columns]
    return rows[chosen], columns[chosen]


def _groups(image: np.ndarray, category: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Indices by (image, category)."""
    if not len(image):
        return {}
    order = np.lexsort((category, image))
    pairs = np.stack([image[order], category[order]], axis=1)
    starts = np.flatnonzero((np.diff(pairs, axis=0) != 0).any(axis=1)) + 1
    keys = pairs[np.concatenate([[0], starts])]
    return {(int(i), int(k)): rows for (i, k), rows in zip(keys, np.split(order, starts), strict=True)}
