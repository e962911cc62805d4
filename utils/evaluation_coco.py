"""pycocotools' matching of detections and targets, and the precision curve.

pycocotools runs once per evaluation. Every figure at IoU 0.5 (curve, operating points, sequences) is read
from the matches it made, so no two tables of a report can disagree.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from utils.evaluation_input import GroundTruth, Results

MAX_DETECTIONS = 100  # per frame and category, COCO's and the published protocol's own limit
RECALLS = np.linspace(0.0, 1.0, 101)  # the recall values of COCO's interpolated precision curve
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2)}  # square pixels; matches are read from the first


@dataclass(frozen=True)
class Matches:
    """Outcome of the matching at IoU 0.5 over all areas, crowd regions and what fell on them left out."""

    scores: np.ndarray  # (D,) confidence of each counted detection
    hits: np.ndarray  # (D,) bool: matched to a target
    image: np.ndarray  # (D,)
    category: np.ndarray  # (D,)
    target_image: np.ndarray  # (G,) frame of each counted target
    target_category: np.ndarray  # (G,)

    def select(self, frames: np.ndarray) -> Matches:
        """The matches of the frames of a mask (I,) bool."""
        own, targets = frames[self.image], frames[self.target_image]
        return Matches(
            self.scores[own],
            self.hits[own],
            self.image[own],
            self.category[own],
            self.target_image[targets],
            self.target_category[targets],
        )


@dataclass(frozen=True)
class CocoScores:
    """What pycocotools computed; -1 marks categories without a target, as in pycocotools."""

    precision: np.ndarray  # (10 IoU, 101 recalls, K, 2 areas)
    recall: np.ndarray  # (10 IoU, K, 2 areas)
    matches: Matches


def run_cocoeval(truth: GroundTruth, results: Results) -> CocoScores:
    """COCO evaluation of boxes by pycocotools: IoU 0.5 to 0.95, all and small areas, 100 boxes a frame."""
    num_images, num_categories = len(truth.image_ids), len(truth.category_ids)
    if not num_images:  # pycocotools takes an empty list of images for "all"
        absent = np.full((10, len(RECALLS), num_categories, len(AREAS)), -1.0)
        return CocoScores(absent, absent[:, 0], _collect_matches([]))
    largest = max(truth.areas.max(initial=0.0), results.boxes[:, 2:].prod(axis=1).max(initial=0.0))
    # Where every box is small, "small" is "all": half of the matching need not be done.
    areas = ["all"] if largest <= AREAS["small"][1] else list(AREAS)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluator = COCOeval(_coco_object(truth), _coco_object(truth, results), "bbox")
        evaluator.params.maxDets = [MAX_DETECTIONS]
        evaluator.params.areaRng = [list(AREAS[name]) for name in areas]
        evaluator.params.areaRngLbl = areas
        evaluator.evaluate()
        evaluator.accumulate()
    columns = [areas.index(name) if name in areas else 0 for name in AREAS]
    precision = evaluator.eval["precision"][:, :, :, columns, 0]  # (T, R, K, A)
    recall = evaluator.eval["recall"][:, :, columns, 0]  # (T, K, A)
    entries = np.array(evaluator.evalImgs, dtype=object).reshape(num_categories, len(areas), num_images)
    return CocoScores(precision, recall, _collect_matches(entries[:, 0]))


def _coco_object(truth: GroundTruth, results: Results | None = None) -> COCO:
    """The targets, or the detections, as pycocotools' object; ids are positions.

    Box ids start at 1: pycocotools marks "no match" by the id 0, so a file that counts from 0 loses a match.
    """
    source = truth if results is None else results
    areas = truth.areas if results is None else results.boxes[:, 2] * results.boxes[:, 3]
    crowd = truth.crowd.astype(int) if results is None else np.zeros(len(results), dtype=int)
    scores = np.ones(len(areas)) if results is None else results.scores
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd", "score")
    columns = (source.image, source.category, source.boxes, areas, crowd, scores)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": n} for n in range(len(truth.image_ids))],
        "categories": [{"id": n, "name": name} for n, name in enumerate(truth.category_names)],
        "annotations": [{"id": n, **dict(zip(keys, row, strict=True))} for n, row in enumerate(rows, start=1)],
    }
    coco.createIndex()
    return coco


def _collect_matches(entries: Iterable[Iterable[dict | None]]) -> Matches:
    """Flatten pycocotools' entries, by category and frame, at the first IoU, 0.5."""
    used = [(i, k, entry) for k, row in enumerate(entries) for i, entry in enumerate(row) if entry is not None]
    images, categories = (np.array([row[n] for row in used], dtype=np.int64) for n in (0, 1))
    counts = [(len(e["dtScores"]), np.count_nonzero(np.asarray(e["gtIgnore"]) == 0)) for _, _, e in used]
    detections, targets = np.array(counts, dtype=np.int64).reshape(-1, 2).T

    def joined(values: Iterable[Sequence], dtype: type) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype), *(np.asarray(value, dtype) for value in values)])

    counted = ~joined((entry["dtIgnore"][0] for _, _, entry in used), bool)
    return Matches(
        scores=joined((entry["dtScores"] for _, _, entry in used), float)[counted],
        hits=joined((entry["dtMatches"][0] > 0 for _, _, entry in used), bool)[counted],
        image=np.repeat(images, detections)[counted],
        category=np.repeat(categories, detections)[counted],
        target_image=np.repeat(images, targets),
        target_category=np.repeat(categories, targets),
    )


def precision_curve(scores: np.ndarray, hits: np.ndarray, num_targets: int) -> np.ndarray:
    """COCO's interpolated precision at recall 0, 0.01, ..., 1 of matched detections; its mean is the AP.

    For a part of an evaluation (one sequence): the same numbers as pycocotools gives for that part alone.
    """
    curve = np.zeros(len(RECALLS))
    if not num_targets or not len(scores):
        return curve
    true_positives = np.cumsum(hits[np.argsort(-scores, kind="stable")])
    precision = true_positives / np.arange(1, len(scores) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # best precision at this recall or beyond
    at = np.searchsorted(true_positives / num_targets, RECALLS, side="left")
    reached = at < len(scores)
    curve[reached] = envelope[at[reached]]
    return curve
