"""Which detections can have to do with which targets: pairs of one frame and category, found without a loop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from utils.evaluation_input import GroundTruth, Results

CHUNK = 2_000_000  # pairs at a time, some 100 bytes each


def frame_pairs(truth: GroundTruth, results: Results, chunk: int = CHUNK) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices (detection, target) of all pairs of one frame and category, some `chunk` pairs at a time."""
    categories = len(truth.category_ids)
    target_key = truth.image * categories + truth.category
    by_key = np.argsort(target_key, kind="stable")
    sorted_key = target_key[by_key]
    key = results.image * categories + results.category
    start, stop = (np.searchsorted(sorted_key, key, side) for side in ("left", "right"))
    ends = np.cumsum(stop - start)  # pairs up to and with each detection
    first, done = 0, 0
    while first < len(results):
        last = max(int(np.searchsorted(ends, done + chunk, side="right")), first + 1)
        count = (stop - start)[first:last]
        detection = np.repeat(np.arange(first, last), count)
        within = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)  # 0, 1, ... of a detection
        yield detection, by_key[start[detection] + within]
        first, done = last, int(ends[last - 1])


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
