"""Ground truth beside detections: which annotated frame a shown frame is, and what was hit, missed or made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from utils.annotations import FrameRecord, load_annotations
from utils.cli import UserError
from utils.detector import Detections
from utils.drawing import Mark
from utils.evaluation_input import GroundTruth, Results
from utils.pd_fa import match_centres
from utils.video import Frame, Source


class Truth:
    """The annotated frames of a file, found by the ends of their paths; `UserError` if none is of the source.

    Frame 1 of clip.mp4 is annotated as clip/000001.png.
    """

    def __init__(self, path: Path, source: Source, class_names: tuple[str, ...]) -> None:
        annotations = load_annotations(path, ".", len(class_names), check_files=False)
        self.file = path
        self.category_ids = annotations.category_ids
        self._free_id = max(record.image_id for record in annotations.records)
        self._by_name: dict[str, list[tuple[tuple[str, ...], FrameRecord]]] = {}
        for record in annotations.records:
            parts = tuple(part for part in record.name.replace("\\", "/").split("/") if part not in ("", "."))
            self._by_name.setdefault(parts[-1], []).append((parts, record))
        if len(class_names) > len(self.category_ids):
            raise UserError(
                f"{path}: {len(self.category_ids)} classes, but the network has {len(class_names)} "
                f"({', '.join(class_names)}); give annotations naming them all"
            )
        if source.total is not None and not any(map(self.find, source.paths())):
            first = next(iter(source.paths())).resolve()
            raise UserError(
                f"{path}: annotates no frame of this source; its first frame is {first.parent.name}/{first.name}, "
                f"the first annotated one {annotations.records[0].name}: give the annotations of these frames"
            )

    def find(self, frame: Path) -> FrameRecord | None:
        """The record with the longest common end: folder and name at least, unless the file has bare names."""
        candidates = self._by_name.get(frame.name)
        if not candidates:
            return None
        path = frame.resolve().parts
        ends = [_common_end(path, parts) for parts, _ in candidates]
        best = max(ends)
        found = [entry for entry, end in zip(candidates, ends, strict=True) if end == best]
        if best < min(2, len(found[0][0])):
            return None
        if len(found) > 1:
            raise UserError(
                f"{self.file}: {found[0][1].name} and {found[1][1].name} may both be {frame}; "
                "give the annotations of this source alone"
            )
        return found[0][1]

    def image_id(self, frame: Frame, record: FrameRecord | None) -> int:
        """The annotated id; a frame that is not annotated gets one behind all of those."""
        return record.image_id if record else self._free_id + frame.index


def judge(detections: Detections, record: FrameRecord | None, class_names: tuple[str, ...]) -> list[Mark]:
    """What to draw: detections; or where the frame is annotated hits, false alarms and misses, by centre distance."""
    names = [f"{class_names[k]} " if len(class_names) > 1 else "" for k in detections.classes]
    texts = [f"{name}{score:.2f}" for name, score in zip(names, detections.scores, strict=True)]
    if record is None:
        return [Mark(box, "detection", text) for box, text in zip(detections.boxes, texts, strict=True)]
    hit, false_alarm = match_frame(detections, record.boxes)
    marks = [
        Mark(box, "false alarm", f"false {text}") if wrong else Mark(box, "hit", text)
        for box, text, wrong in zip(detections.boxes, texts, false_alarm, strict=True)
    ]
    return marks + [Mark(box, "miss", "miss") for box in record.boxes[~hit, :4]]


def match_frame(detections: Detections, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match one frame as Pd and Fa are measured: (hit (G,) bool, false alarm (D,) bool).

    targets: (G, 5) x1, y1, x2, y2, class.
    """
    truth = GroundTruth(
        image_ids=np.zeros(1, np.int64),
        file_names=("",),
        sizes=np.zeros((1, 2), np.int64),
        category_ids=np.unique(targets[:, 4]).astype(np.int64),
        category_names=(),
        image=np.zeros(len(targets), np.int64),
        category=targets[:, 4].astype(np.int64),
        boxes=_corners_to_sides(targets[:, :4]),
        areas=(targets[:, 2:4] - targets[:, :2]).prod(axis=1),
        crowd=np.zeros(len(targets), bool),
    )
    image = np.zeros(len(detections), np.int64)
    boxes = _corners_to_sides(detections.boxes)
    matches = match_centres(truth, Results(image, detections.classes, boxes, detections.scores))
    return np.isfinite(matches.found_at), matches.false_alarm


def _corners_to_sides(boxes: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) x1, y1, x2, y2 -> x, y, w, h."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _common_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many last parts two paths share."""
    length = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        length += 1
    return length
