"""pycocotools' matching of detections and targets, and the precision curves.

pycocotools matches every frame once, at all IoUs; every figure by IoU (tables, curve, operating points,
sequences, bins) is read from those matches, so no two tables of a report can disagree.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from utils.evaluation_input import GroundTruth, Results
from utils.evaluation_pairs import overlapping

MAX_DETECTIONS = 100  # per frame and category, COCO's and the published protocol's own limit
RECALLS = np.linspace(0.0, 1.0, 101)  # the recall values of COCO's interpolated precision curve
IOUS = np.linspace(0.5, 0.95, 10)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2)}  # square pixels; single matches are read from the first
FRAMES_AT_A_TIME = 2000  # that pycocotools sees together: its objects take a kilobyte a box


@dataclass(frozen=True)
class Matches:
    """Outcome of the matching at IoU 0.5 over all areas, crowd regions and what fell on them left out.

    Detections stand in order of falling confidence, equal ones in the order of their frames.
    """

    scores: np.ndarray  # (D,) confidence of each counted detection
    hits: np.ndarray  # (D,) bool: matched to a target
    image: np.ndarray  # (D,)
    category: np.ndarray  # (D,)
    target_image: np.ndarray  # (G,) frame of each target
    target_category: np.ndarray  # (G,)
    found_at: np.ndarray  # (G,) confidence of the detection that the target is matched to; -inf: none

    def select(self, frames: np.ndarray) -> Matches:
        """The matches of the frames of a mask (I,) bool."""
        own, targets = frames[self.image], frames[self.target_image]
        return Matches(
            *(column[own] for column in (self.scores, self.hits, self.image, self.category)),
            *(column[targets] for column in (self.target_image, self.target_category, self.found_at)),
        )


@dataclass(frozen=True)
class CocoScores:
    """COCO's evaluation; -1 marks categories without a target, as in pycocotools."""

    precision: np.ndarray  # (10 IoU, 101 recalls, K, 2 areas)
    recall: np.ndarray  # (10 IoU, K, 2 areas)
    matches: Matches


def run_cocoeval(truth: GroundTruth, results: Results, max_detections: int = MAX_DETECTIONS) -> CocoScores:
    """COCO evaluation of boxes: IoU 0.5 to 0.95, all and small areas, the best `max_detections` of a frame."""
    results = results.select(_best_of_frames(results, len(truth.category_ids), max_detections))
    hits, ignored, found_at = _match(truth, results)
    shape = (len(IOUS), len(RECALLS), len(truth.category_ids), len(AREAS))
    precision, recall = np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0)
    for a, (least, most) in enumerate(AREAS.values()):
        targets = ~truth.crowd & (truth.areas >= least) & (truth.areas <= most)
        for k in range(shape[2]):
            count = np.count_nonzero(targets & (truth.category == k))
            own = results.category == k
            for t in range(shape[0] if count else 0):
                counted = hits[a, t, own & ~ignored[a, t]]
                precision[t, :, k, a] = precision_curve(counted, count)
                recall[t, k, a] = counted.sum() / count
    counted, proper = ~ignored[0, 0], ~truth.crowd
    matches = Matches(
        *(column[counted] for column in (results.scores, hits[0, 0], results.image, results.category)),
        *(column[proper] for column in (truth.image, truth.category, found_at)),
    )
    return CocoScores(precision, recall, matches)


def precision_curve(hits: np.ndarray, num_targets: int) -> np.ndarray:
    """COCO's interpolated precision at recall 0, 0.01, ..., 1; its mean is the AP.

    hits: (D,) bool of the counted detections in order of falling confidence.
    """
    curve = np.zeros(len(RECALLS))
    if not num_targets or not len(hits):
        return curve
    true_positives = np.cumsum(hits)
    precision = true_positives / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # best precision at this recall or beyond
    at = np.searchsorted(true_positives / num_targets, RECALLS, side="left")
    reached = at < len(hits)
    curve[reached] = envelope[at[reached]]
    return curve


def _best_of_frames(results: Results, categories: int, limit: int) -> np.ndarray:
    """Indices of the best `limit` detections of each frame and category, in order of confidence, then frame."""
    key = results.image * categories + results.category
    order = np.lexsort((-results.scores, key))  # stable: equal ones stay in the order of the file
    new = np.diff(key[order], prepend=-1) != 0
    first = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    kept = np.sort(order[np.arange(len(order)) - first < limit])
    return kept[np.lexsort((results.image[kept], -results.scores[kept]))]


def _match(truth: GroundTruth, results: Results) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits and ignored detections (A areas, T IoUs, D) bool, and found_at (G,) of IoU 0.5 over all areas.

    Only boxes that overlap a target go through pycocotools: the others match nothing at any IoU.
    """
    shape = (len(AREAS), len(IOUS), len(results))
    hits, ignored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    found_at = np.full(len(truth.image), -np.inf)
    areas = results.boxes[:, 2] * results.boxes[:, 3]
    largest = max(truth.areas.max(initial=0.0), areas.max(initial=0.0))
    # Where every box is small, "small" is "all": half of the matching need not be done.
    names = list(AREAS)[: 1 if largest <= AREAS["small"][1] else None]
    for a, (least, most) in enumerate(AREAS.values()):
        ignored[a] = (areas < least) | (areas > most)
    rows = {AREAS[name]: a for a, name in enumerate(names)}
    for entry in _evaluated_frames(truth, results, names):
        a, own = rows[tuple(entry["aRng"])], np.array(entry["dtIds"], dtype=np.int64) - 1
        ignored[a][:, own] = entry["dtIgnore"]
        hits[a][:, own] = (entry["dtMatches"] > 0) & ~ignored[a][:, own]
        if a == 0:
            found_by = entry["gtMatches"][0].astype(np.int64)
            targets = np.array(entry["gtIds"], dtype=np.int64)[found_by > 0] - 1
            found_at[targets] = results.scores[found_by[found_by > 0] - 1]
    if len(names) == 1:
        hits[1:], ignored[1:] = hits[0], ignored[0]
    return hits, ignored, found_at


def _evaluated_frames(truth: GroundTruth, results: Results, areas: list[str]) -> Iterator[dict]:
    """pycocotools' entries of all frames with targets, a part of the frames at a time."""
    frames = np.unique(truth.image)
    boxes = np.flatnonzero(overlapping(truth, results))
    for first in range(0, len(frames), FRAMES_AT_A_TIME):
        part = frames[first : first + FRAMES_AT_A_TIME]
        targets = np.flatnonzero((truth.image >= part[0]) & (truth.image <= part[-1]))
        own = boxes[(results.image[boxes] >= part[0]) & (results.image[boxes] <= part[-1])]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            evaluator = COCOeval(_coco_targets(truth, part, targets), _coco_boxes(truth, part, results, own), "bbox")
            evaluator.params.maxDets = [max(len(own), 1)]  # the best of each frame have been chosen
            evaluator.params.areaRng = [list(AREAS[name]) for name in areas]
            evaluator.params.areaRngLbl = areas
            evaluator.evaluate()
        yield from (entry for entry in evaluator.evalImgs if entry is not None)


def _coco_targets(truth: GroundTruth, frames: np.ndarray, own: np.ndarray) -> COCO:
    """Targets as pycocotools' object. Ids are positions + 1: pycocotools marks "no match" by the id 0."""
    columns = {
        "id": own + 1,
        "image_id": truth.image[own],
        "category_id": truth.category[own],
        "bbox": truth.boxes[own],
        "area": truth.areas[own],
        "iscrowd": truth.crowd[own].astype(int),
    }
    return _coco_object(truth, frames, columns)


def _coco_boxes(truth: GroundTruth, frames: np.ndarray, results: Results, own: np.ndarray) -> COCO:
    """Detections as pycocotools' object."""
    boxes = results.boxes[own]
    columns = {
        "id": own + 1,
        "image_id": results.image[own],
        "category_id": results.category[own],
        "bbox": boxes,
        "area": boxes[:, 2] * boxes[:, 3],
        "iscrowd": np.zeros(len(own), dtype=int),
        "score": results.scores[own],
    }
    return _coco_object(truth, frames, columns)


def _coco_object(truth: GroundTruth, frames: np.ndarray, columns: dict[str, np.ndarray]) -> COCO:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": n} for n in frames.tolist()],
        "categories": [{"id": n, "name": name} for n, name in enumerate(truth.category_names)],
        "annotations": [dict(zip(columns, row, strict=True)) for row in rows],
    }
    coco.createIndex()
    return coco
