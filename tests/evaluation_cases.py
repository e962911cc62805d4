"""Small evaluation cases for the tests: one worked out by hand, and random ones."""

from __future__ import annotations

import io

import numpy as np


class ClosedPipe(io.StringIO):
    """What `| head` leaves of standard output."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def ground_truth(boxes: list[tuple], frames: int, categories: int = 1, folder: str = "test/a") -> dict:
    """COCO dict of 100 x 200 pixel frames 1..frames; boxes are (frame, category, x, y, w, h)."""
    images = [{"id": n, "file_name": f"{folder}/{n}.bmp", "height": 100, "width": 200} for n in range(1, frames + 1)]
    annotations = [
        {"id": n, "image_id": b[0], "category_id": b[1], "bbox": list(b[2:]), "area": b[4] * b[5], "iscrowd": 0}
        for n, b in enumerate(boxes, start=1)
    ]
    names = [{"id": n, "name": f"kind {n}"} for n in range(1, categories + 1)]
    return {"images": images, "annotations": annotations, "categories": names}


def detection(frame: int, category: int, x: float, y: float, w: float, h: float, score: float) -> dict:
    return {"image_id": frame, "category_id": category, "bbox": [x, y, w, h], "score": score}


# Three targets in two frames. In order of confidence: hit, false, hit, a second box on the first target, and a box
# 4 pixels beside the third target (IoU 32 / 96, centre too far).
TARGETS = [(1, 1, 10, 10, 8, 8), (2, 1, 20, 20, 8, 8), (2, 1, 40, 40, 8, 8)]
DETECTIONS = [
    detection(1, 1, 10, 10, 8, 8, 0.9),
    detection(1, 1, 100, 50, 8, 8, 0.8),
    detection(2, 1, 20, 20, 8, 8, 0.7),
    detection(1, 1, 11, 10, 8, 8, 0.6),
    detection(2, 1, 44, 40, 8, 8, 0.4),
]


def random_case(seed: int, largest: int) -> tuple[dict, list[dict]]:
    """Frames with several targets of two categories, and detections around them and elsewhere."""
    rng = np.random.default_rng(seed)
    boxes, results = [], []
    for frame in range(1, 9):
        for _ in range(int(rng.integers(1, 5))):
            w, h = rng.integers(4, largest, 2).tolist()
            x, y, category = rng.integers(0, 100, 2).tolist() + [int(rng.integers(1, 3))]
            boxes.append((frame, category, x, y, w, h))
            for spread in rng.choice([0.3, 1.0, 3.0], int(rng.integers(0, 4))):
                near = np.array([x, y, w, h]) + rng.normal(0, spread, 4)
                score = round(float(rng.uniform()), 1)  # many equal confidences
                results.append(detection(frame, category, *np.maximum(near, 1.0).tolist(), score))
        results.append(detection(frame, 1, *rng.uniform(1, 100, 4).tolist(), float(rng.uniform())))
    coco = ground_truth(boxes, 8, categories=2)
    for annotation in coco["annotations"][3:]:
        annotation["iscrowd"] = int(rng.uniform() < 0.1)
    return coco, results
