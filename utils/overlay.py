"""Ground truth beside detections: which annotated frame a shown frame is, and what was hit, missed or made up."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from utils.annotations import FrameRecord, is_list, load_annotations, match_categories
from utils.cli import UserError
from utils.detections import Detections
from utils.drawing import Mark
from utils.evaluation_input import GroundTruth, Results, parse_ground_truth
from utils.pd_fa import CentreMatches, match_centres
from utils.video import Frame, Source

TRAIL = 90  # places of a track that its line goes through, at most


class Truth:
    """The annotated frames of a file, found by the ends of their paths; `UserError` if none is of the source.

    Frame 1 of clip.mp4 is annotated as clip/000001.png.
    """

    def __init__(self, path: Path, source: Source, class_names: tuple[str, ...]) -> None:
        annotations = load_annotations(path, ".", len(class_names) if is_list(path) else None, check_files=False)
        self.file = path
        self.category_ids, warning = match_categories(annotations, class_names)
        if warning:
            print(f"warning: {warning}", file=sys.stderr)
        self._free_id = max(record.image_id for record in annotations.records)
        self._tracks = _annotated_tracks(annotations.coco)
        self._all = _as_network_classes(parse_ground_truth(annotations.coco, str(path)), self.category_ids)
        order = np.lexsort((self._all.crowd, self._all.image))  # crowd regions behind the targets of their frame
        ends = np.searchsorted(self._all.image[order], np.arange(len(self._all.image_ids) + 1))
        self._entries = {n: order[a:b] for n, a, b in zip(self._all.image_ids.tolist(), ends, ends[1:], strict=False)}
        self.tells_tracks = self._tracks is not None or all(len(record.boxes) <= 1 for record in annotations.records)
        self._by_name: dict[str, list[tuple[tuple[str, ...], FrameRecord]]] = {}
        for record in annotations.records:
            parts = tuple(part for part in record.name.replace("\\", "/").split("/") if part not in ("", "."))
            self._by_name.setdefault(parts[-1], []).append((parts, record))
        found = [record for record in map(self.find, source.paths()) if record]
        self._check_size(found, source.size)
        if source.total is not None and not found:
            first = next(iter(source.paths())).resolve()
            raise UserError(
                f"{path}: annotates no frame of this source; its first frame is {first.parent.name}/{first.name}, "
                f"the first annotated one {annotations.records[0].name}: give the annotations of these frames"
            )

    def _check_size(self, records: Sequence[FrameRecord], size: tuple[int, int]) -> None:
        """`UserError` where annotations are of frames of another size (h, w), as they say or their boxes do."""
        for record in records:
            stated = tuple(self._all.sizes[np.searchsorted(self._all.image_ids, record.image_id)].astype(int).tolist())
            boxes = record.boxes.reshape(-1, 5)
            if (all(stated) and stated != tuple(size)) or (boxes[:, [1, 0]] >= size).any():
                said = "{1} x {0} pixels".format(*stated) if all(stated) else "a box outside"
                raise UserError(
                    f"{self.file}: {record.name}: {said}, but the source's frames have {size[1]} x {size[0]}; "
                    "give the annotations of these frames"
                )

    def find(self, frame: Path) -> FrameRecord | None:
        """The record with the longest common end: folder and name at least, unless the file has bare names."""
        candidates = self._by_name.get(frame.name)
        if not candidates:
            return None
        paths = Path(os.path.abspath(frame)).parts, frame.resolve().parts  # through links, and where they lead
        ends = [max(_common_end(path, parts) for path in paths) for parts, _ in candidates]
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

    def targets(self, record: FrameRecord) -> GroundTruth:
        """What the evaluation sees of a frame: boxes as the file has them, crowd regions last; `category` is the
        network's class."""
        which, one = self._entries[record.image_id], np.zeros(1, np.int64)
        return replace(
            self._all, image_ids=one, file_names=(record.name,), sizes=np.zeros((1, 2)), image=one.repeat(len(which)),
            category=self._all.category[which], boxes=self._all.boxes[which], areas=self._all.areas[which],
            crowd=self._all.crowd[which],
        )  # fmt: skip

    def image_id(self, frame: Frame, record: FrameRecord | None) -> int:
        """The annotated id; a frame that is not annotated gets one behind all of those."""
        return record.image_id if record else self._free_id + frame.index

    def tracks(self, record: FrameRecord, run: int) -> np.ndarray | None:
        """The track of each box (G,) of a frame; None where the annotations do not tell tracks apart.

        Without "track_id", one target a frame at most is one track for each run of frames.
        """
        if not self.tells_tracks:
            return None
        if self._tracks is None:
            return np.full(len(record.boxes), run, np.int64)
        return self._tracks.get(record.image_id, np.zeros(0, np.int64))


class Trails:
    """Where the tracks of the last frames have been, a bounded number of places of each."""

    def __init__(self) -> None:
        self._places: dict[int, deque[np.ndarray]] = {}
        self._absent: dict[int, int] = {}

    def follow(self, numbers: np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
        """The centres (n, 2) of each track of a frame, now at the end; boxes (D, 4) x1, y1, x2, y2."""
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        for number, centre in zip(numbers.tolist(), centres, strict=True):
            self._places.setdefault(number, deque(maxlen=TRAIL)).append(centre)
            self._absent[number] = -1
        for number in list(self._absent):
            self._absent[number] += 1
            if self._absent[number] > TRAIL:
                del self._absent[number], self._places[number]
        return [np.array(self._places[number]) for number in numbers.tolist()]


def judge(
    detections: Detections,
    targets: GroundTruth | None,
    class_names: tuple[str, ...],
    tracks: np.ndarray | None = None,
    trails: Sequence[np.ndarray] | None = None,
) -> list[Mark]:
    """What to draw: detections; or where a frame's targets are known hits, false alarms and misses, by centre distance.

    `tracks` (D,) and `trails`: the number of each detection's track and its centres so far (n, 2), if linked.
    """
    names = [f"{class_names[k]} " if len(class_names) > 1 else "" for k in detections.classes]
    if tracks is not None:
        names = [f"#{number} {name}" for number, name in zip(tracks, names, strict=True)]
    texts = [f"{name}{score:.2f}" for name, score in zip(names, detections.scores, strict=True)]
    trails = trails or [()] * len(detections)
    found = list(zip(detections.boxes, texts, trails, strict=True))
    if targets is None:
        return [Mark(box, "detection", text, trail) for box, text, trail in found]
    matches = match_frame(detections, targets)
    marks = []
    for (box, text, trail), hit, false_alarm in zip(found, matches.hit, matches.false_alarm, strict=True):
        kind = "hit" if hit else "false alarm" if false_alarm else "detection"  # in a crowd region it is neither
        marks.append(Mark(box, kind, f"false {text}" if false_alarm else text, trail))
    missed = targets.boxes[np.isinf(matches.found_at) & ~targets.crowd]
    return marks + [Mark(box, "miss", "miss") for box in np.hstack([missed[:, :2], missed[:, :2] + missed[:, 2:]])]


def match_frame(detections: Detections, targets: GroundTruth) -> CentreMatches:
    """Match one frame, which is all of `targets`, as Pd and false alarms are measured."""
    image = np.zeros(len(detections), np.int64)
    boxes = _corners_to_sides(detections.boxes)
    return match_centres(targets, Results(image, detections.classes, boxes, detections.scores))


def _as_network_classes(truth: GroundTruth, category_ids: tuple[int, ...]) -> GroundTruth:
    """Ground truth whose categories are the network's classes; those that it does not know come after them."""
    ids = [*category_ids, *sorted(set(truth.category_ids.tolist()) - set(category_ids))]
    place = np.array([ids.index(category_id) for category_id in truth.category_ids.tolist()], np.int64)
    return replace(truth, category=place[truth.category])


def _annotated_tracks(coco: dict) -> dict[int, np.ndarray] | None:
    """The "track_id" of each box of a frame, crowd regions left out as from the records; None if one has none."""
    tracks: dict[int, list[int]] = {}
    folders = {image["id"]: image["file_name"].replace("\\", "/").rpartition("/")[0] for image in coco["images"]}
    known: dict[tuple[str, int], int] = {}  # numbers may begin anew in every sequence
    for annotation in coco["annotations"]:
        if not annotation.get("iscrowd"):
            track = annotation.get("track_id")
            if type(track) is not int:
                return None
            number = known.setdefault((folders[annotation["image_id"]], track), len(known))
            tracks.setdefault(annotation["image_id"], []).append(number)
    return {image_id: np.array(numbers, np.int64) for image_id, numbers in tracks.items()}


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
