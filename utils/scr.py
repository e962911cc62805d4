"""Contrast of a target: the signal-to-clutter ratio (SCR) of a box in a frame."""

from __future__ import annotations

import cv2
import numpy as np

RING = 10  # pixels round a box that count as its local background
CORE = 3  # side of the window that counts as the target, pixels


def measure_scr(frame: np.ndarray, box: np.ndarray) -> float:
    """Signal-to-clutter ratio |mean target - mean background| / deviation of background of a box in a frame (h, w).

    The background is the ring of `RING` pixels round the box, the target the 3 x 3 window inside the box that differs
    most from it: the same whether boxes are tight or, as DAUB's 8 x 8 round points of 1 to 5 pixels, wide.
    """
    x1, y1, x2, y2 = (int(side) for side in box)
    top, left = max(y1 - RING, 0), max(x1 - RING, 0)
    patch = frame[top : y2 + RING, left : x2 + RING].astype(np.float32)
    return patch_scr(patch, (x1 - left, y1 - top, x2 - left, y2 - top))[0]


def patch_scr(patch: np.ndarray, box: tuple[int, int, int, int]) -> tuple[float, float, float]:
    """SCR, mean and deviation of the background of a float patch that holds a box and its ring; 0 without a ring."""
    x1, y1, x2, y2 = box
    inner = patch[y1:y2, x1:x2]
    count = patch.size - inner.size
    if count == 0:  # a box as large as the frame has no background to stand out from
        return 0.0, float(patch.mean()), 0.0
    mean = (patch.sum(dtype=np.float64) - inner.sum(dtype=np.float64)) / count
    square = (np.square(patch).sum(dtype=np.float64) - np.square(inner).sum(dtype=np.float64)) / count
    deviation = max(square - mean * mean, 1e-6) ** 0.5
    half = CORE // 2
    if min(inner.shape) < CORE:  # cut off by the frame's edge
        half = 0
    windows = cv2.blur(patch, (CORE, CORE))[y1 + half : y2 - half, x1 + half : x2 - half]
    return float(np.abs(windows - mean).max() / deviation), float(mean), float(deviation)
