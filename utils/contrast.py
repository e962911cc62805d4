"""Contrast of annotated targets, measured in their frames."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from tqdm import tqdm

from utils.annotations import Annotations, FrameRecord
from utils.cli import UserError
from utils.frames import Intensity, read_frame
from utils.scr import measure_scr

READERS = 4  # threads
AHEAD = 256  # frames that may wait for the slowest of them


def measure_contrasts(annotations: Annotations, intensity: Intensity = "full") -> list[float]:
    """Signal-to-clutter ratio of each of the COCO annotations; NaN for crowd regions and where it cannot be measured.

    What the annotations say themselves ("scr") counts; frames are only read for the others, by the rule of `intensity`.
    """
    values = [_stated(annotation) for annotation in annotations.coco["annotations"]]
    missing: dict[int, list[int]] = {}
    for n, (annotation, value) in enumerate(zip(annotations.coco["annotations"], values, strict=True)):
        if np.isnan(value) and not annotation.get("iscrowd"):
            missing.setdefault(annotation["image_id"], []).append(n)
    boxes = [annotation["bbox"] for annotation in annotations.coco["annotations"]]

    def measure(record: FrameRecord) -> list[tuple[int, float]]:
        try:
            frame = read_frame(record.path, intensity)
        except UserError:  # a frame that detection did not need
            return []
        return [(n, box_scr(frame, boxes[n])) for n in missing[record.image_id]]

    records = iter([record for record in annotations.records if record.image_id in missing])
    with (
        ThreadPoolExecutor(READERS) as pool,
        tqdm(total=len(missing), desc="contrast", unit="frame", disable=None) as bar,
    ):
        while part := list(islice(records, AHEAD)):
            for found in pool.map(measure, part):
                bar.update()
                for n, value in found:
                    values[n] = value
    return values


def box_scr(frame: np.ndarray, box: list[float]) -> float:
    """SCR of a box x, y, w, h in a frame (h, w), clipped to it; NaN where nothing of the box is left."""
    height, width = frame.shape
    x, y, w, h = box
    left, top = max(round(x), 0), max(round(y), 0)
    right, bottom = min(round(x + w), width), min(round(y + h), height)
    covers_all = right - left == width and bottom - top == height  # then there is no background
    if right <= left or bottom <= top or covers_all:
        return float("nan")
    return measure_scr(frame, np.array([left, top, right, bottom]))


def _stated(annotation: dict) -> float:
    value = annotation.get("scr")
    return float(value) if isinstance(value, (int, float)) else float("nan")
