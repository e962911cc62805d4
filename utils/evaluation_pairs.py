"""Which detections can have to do with which targets: pairs of one frame and category, found without a loop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from utils.evaluation_input import GroundTruth, Results

CHUNK = 500_000  # detections that are paired at a time: bounds the memory


def frame_pairs(truth: GroundTruth, results: Results, chunk: int = CHUNK) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices (detection, target) of all pairs of one frame and category, `chunk` detections at a time."""
    categories = len(truth.category_ids)
    target_key = truth.image * categories + truth.category
    by_key = np.argsort(target_key, kind="stable")
    sorted_key = target_key[by_key]
    for first in range(0, len(results), chunk):
        part = slice(first, first + chunk)
        key = results.image[part] * categories + results.category[part]
        start, stop = (np.searchsorted(sorted_key, key, side) for side in ("left", "right"))
        count = stop - start
        detection = np.repeat(np.arange(len(key)), count)
        within = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)  # 0, 1, ... of a detection
        yield detection + first, by_key[start[detection] + within]


def overlapping(truth: GroundTruth, results: Results) -> np.ndarray:
    """(D,) bool: the detection's box overlaps a target's or a crowd region's of its frame and category."""
    found = np.zeros(len(results), dtype=bool)
    for detection, target in frame_pairs(truth, results):
        low = np.maximum(results.boxes[detection, :2], truth.boxes[target, :2])
        high = np.minimum(
            results.boxes[detection, :2] + results.boxes[detection, 2:],
            truth.boxes[target, :2] + truth.boxes[target, 2:],
        )
        found[detection[(high > low).all(axis=1)]] = True
    return found


def near_pairs(truth: GroundTruth, results: Results, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detection, target (no crowd region) and centre distance of all pairs within `radius` pixels."""
    parts = []
    for detection, target in frame_pairs(truth, results):
        offset = results.centres(detection) - truth.centres(target)
        distance = np.linalg.norm(offset, axis=1)
        keep = (distance <= radius) & ~truth.crowd[target]
        parts.append((detection[keep], target[keep], distance[keep]))
    empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    detection, target, distance = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
    return detection, target, distance


def inside_crowd(truth: GroundTruth, results: Results) -> np.ndarray:
    """(D,) bool: the detection's centre lies in a crowd region of its frame and category."""
    found = np.zeros(len(results), dtype=bool)
    if truth.crowd.any():
        for detection, target in frame_pairs(truth, results):
            offset = results.centres(detection) - truth.boxes[target, :2]
            inside = ((offset >= 0) & (offset <= truth.boxes[target, 2:])).all(axis=1)
            found[detection[inside & truth.crowd[target]]] = True
    return found
