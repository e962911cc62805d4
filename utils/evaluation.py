"""How good detections are: COCO ground truth and COCO results in, one dataclass of metrics out.

The core of `vid_map_coco.py`, `utils_coco/get_map_coco.py` and the validation during training. All metrics
are fractions. Where a figure has no meaning (no detection, no target) it is 0.0 and `notes` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.bootstrap import Outcomes, bootstrap_intervals
from utils.cli import UserError
from utils.evaluation_coco import MAX_DETECTIONS, CocoScores, Matches, run_cocoeval
from utils.evaluation_groups import number_sequences, per_scr, per_sequence, per_size
from utils.evaluation_input import FileResults, GroundTruth, Results, parse_ground_truth, parse_results
from utils.evaluation_metrics import (
    CocoTable,
    Counts,
    Evaluation,
    PublishedProtocol,
    best_f1_point,
    confidence_histogram,
    curve_precision,
    harmonic_mean,
    operating_point,
)
from utils.pd_fa import CENTRE_DISTANCE, CentreMatches, match_centres, pd_fa, pd_fa_curve

CUT = 0.1  # lowest score of a file from which on it looks cut; the published protocol keeps all from 0.001 on


@dataclass(frozen=True, eq=False)
class Scored:
    """An evaluation with the single targets and detections behind it, of the frames that were scored."""

    evaluation: Evaluation
    truth: GroundTruth
    detections: Results
    matches: Matches  # by IoU 0.5
    centres: CentreMatches  # by centre distance; positions as in `truth` and `detections`
    scr: np.ndarray | None  # (G,) signal-to-clutter ratio of each target, NaN where it is not known


def evaluate(coco: dict, results: list[dict] | FileResults, confidence: float = 0.5, **options: Any) -> Evaluation:
    """Score COCO results against a COCO ground truth dict; options and errors: those of `score`."""
    return score(coco, results, confidence, **options).evaluation


def score(
    coco: dict,
    results: list[dict] | FileResults,
    confidence: float = 0.5,
    *,
    include_empty_frames: bool = False,
    max_detections: int = MAX_DETECTIONS,
    resamples: int = 0,
    scr: Sequence[float] | None = None,
    protocol: dict | None = None,
    speed: dict | None = None,
    truth_source: str = "ground truth",
    results_source: str = "detections",
) -> Scored:
    """Score COCO results against a COCO ground truth dict; neither is changed.

    Frames without annotations are skipped, as the published protocol does, unless `include_empty_frames`.
    `max_detections` of a frame and category are scored by IoU, best first; by centre all are. `resamples` of the
    sequences give the intervals (0: none). `scr` is the contrast of each of the dict's annotations, by default their
    "scr" key. `protocol` (how the detections were made) and `speed` are recorded as they are. Raises `UserError` naming
    the source for ground truth or detections that cannot be used.
    """
    if not 0.0 <= confidence <= 1.0:
        raise UserError(f"confidence {confidence} is not between 0 and 1")
    truth = parse_ground_truth(coco, truth_source)
    contrast = _contrast(coco, scr)
    detections = parse_results(results, truth, results_source)
    notes: list[str] = []
    if not include_empty_frames:
        truth, detections = _skip_empty_frames(truth, detections, notes)
    scores = run_cocoeval(truth, detections, max_detections)
    centres = match_centres(truth, detections)
    _note_gaps(truth, detections, scores.matches, confidence, notes)
    if not set(protocol or {}) - {"detections"}:  # the file is known, how it was made is not
        _note_cut(truth, detections, notes)
    evaluation = Evaluation(
        published=_published(scores, notes),
        coco=_coco_table(scores),
        pr_curve=tuple(np.maximum(scores.precision[0, :, 0, 0], 0.0).tolist()),
        **_by_iou(scores.matches, confidence),
        **_by_centre(truth, detections, centres, confidence),
        **_of_parts(truth, detections, scores.matches, centres, contrast, confidence, resamples, notes),
        counts=Counts(len(truth.image_ids), int((~truth.crowd).sum()), len(detections)),
        categories=truth.category_names,
        protocol={**(protocol or {}), **_scoring(include_empty_frames, max_detections)},
        speed=dict(speed or {}),
        notes=tuple(notes),
    )
    return Scored(evaluation, truth, detections, scores.matches, centres, contrast)


def _scoring(include_empty_frames: bool, max_detections: int) -> dict[str, Any]:
    """The part of the protocol that is the scoring's, not the detector's."""
    return {
        "include_empty_frames": include_empty_frames,
        "max_detections_scored": max_detections,
        "operating_point_iou": 0.5,
        "pd_centre_distance": CENTRE_DISTANCE,
    }


def _by_iou(matches: Matches, confidence: float) -> dict[str, Any]:
    return {
        "operating_point": operating_point(matches, confidence),
        "best_f1": best_f1_point(matches),
        "confidences": confidence_histogram(matches),
    }


def _by_centre(truth: GroundTruth, found: Results, centres: CentreMatches, confidence: float) -> dict[str, Any]:
    targets = int((~truth.crowd).sum())
    hits = np.count_nonzero(centres.found_at >= confidence)
    alarms = np.count_nonzero(centres.false_alarm & (found.scores >= confidence))
    return {
        "pd_fa": pd_fa(hits, targets, alarms, truth.sizes),
        "pd_fa_curve": pd_fa_curve(centres, found.scores, targets, truth.sizes),
    }


def _of_parts(
    truth: GroundTruth,
    found: Results,
    matches: Matches,
    centres: CentreMatches,
    contrast: np.ndarray | None,
    confidence: float,
    resamples: int,
    notes: list[str],
) -> dict[str, Any]:
    """Figures by sequence, size and contrast, and the intervals, which come of the sequences."""
    hits = np.zeros(len(truth.image), dtype=bool)
    hits[~truth.crowd] = matches.found_at >= confidence
    centre_hits = centres.found_at >= confidence  # (G,)
    alarm_frames = found.image[centres.false_alarm & (found.scores >= confidence)]
    names, sequence = number_sequences(truth.file_names)
    if resamples and len(names) < 2:
        notes.append("one sequence: no intervals, which are drawn over sequences")
    outcomes = Outcomes(matches, truth, sequence, confidence, centre_hits, alarm_frames)
    return {
        "per_sequence": per_sequence(truth, matches, confidence, centre_hits, alarm_frames),
        "per_size": per_size(truth, hits, centre_hits),
        "per_scr": () if contrast is None else per_scr(truth, contrast, hits, centre_hits),
        "intervals": bootstrap_intervals(outcomes, resamples),
    }


def _contrast(coco: dict, scr: Sequence[float] | None) -> np.ndarray | None:
    """Signal-to-clutter ratio of each annotation, NaN where it is not known; None where none is."""
    given = [annotation.get("scr") for annotation in coco["annotations"]] if scr is None else list(scr)
    known = [value if isinstance(value, (int, float)) else np.nan for value in given]
    values = np.array(known, dtype=float)
    return values if np.isfinite(values).any() else None


# ---- published protocol and COCO table --------------------------------------------------------------------


def _published(scores: CocoScores, notes: list[str]) -> PublishedProtocol:
    """The published protocol: final recall and curve mean at IoU 0.5, first category."""
    ap50 = _mean(scores.precision[0, :, :, 0])
    if scores.recall[0, 0, 0] < 0:
        return PublishedProtocol(ap50, 0.0, 0.0, 0.0)
    recall = float(scores.recall[0, 0, 0])
    precision = curve_precision(scores.precision[0, :, 0, 0], recall)
    if int(100 * recall) == 0:
        notes.append("published precision is 0: recall is below 1 %, so its mean has no point of the curve")
    return PublishedProtocol(ap50, precision, recall, harmonic_mean(precision, recall))


def _coco_table(scores: CocoScores) -> CocoTable:
    precision, recall = scores.precision, scores.recall  # IoU 0.50, 0.55, ..., 0.95: index 5 is 0.75
    return CocoTable(
        AP=_mean(precision[..., 0]),
        AP50=_mean(precision[0, :, :, 0]),
        AP75=_mean(precision[5, :, :, 0]),
        AP_small=_mean(precision[..., 1]),
        AR100=_mean(recall[..., 0]),
    )


def _mean(values: np.ndarray) -> float:
    """Mean over the categories that have targets (the others are marked by -1); 0 if none has."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else 0.0


# ---- what the figures leave out ---------------------------------------------------------------------------


def _skip_empty_frames(truth: GroundTruth, detections: Results, notes: list[str]) -> tuple[GroundTruth, Results]:
    """Leave out the frames without annotations and what was detected on them."""
    annotated = truth.only_annotated()
    skipped = len(truth.image_ids) - len(annotated.image_ids)
    if not skipped:
        return truth, detections
    used = np.unique(truth.image)
    kept = detections.select(np.isin(detections.image, used))
    notes.append(
        f"{skipped} frames without annotations and the {len(detections) - len(kept)} detections on them are "
        "left out, as in the published protocol: false alarms there are not counted"
    )
    return annotated, Results(np.searchsorted(used, kept.image), kept.category, kept.boxes, kept.scores)


def _note_gaps(truth: GroundTruth, detections: Results, matches: Matches, confidence: float, notes: list[str]) -> None:
    """Say why figures are 0."""
    if not len(matches.target_image):
        notes.append("no target in the ground truth: every figure but the false alarms is 0")
    if not len(detections):
        notes.append("no detection: every figure is 0")
    elif not (detections.scores >= confidence).any():
        highest = detections.scores.max()
        notes.append(f"no detection of confidence {confidence:g} or more; the highest is {highest:.4f}")
    if len(detections) and not 0 <= detections.scores.min() <= detections.scores.max() <= 1:
        low, high = detections.scores.min(), detections.scores.max()
        notes.append(f"scores from {low:g} to {high:g}, not 0 to 1: confidence {confidence:g} means little among them")
    for k, name in enumerate(truth.category_names):
        if len(matches.target_image) and not (matches.target_category == k).any():
            what = "so published precision and recall are 0" if k == 0 else "left out of the means"
            notes.append(f"category {name!r} has no target: {what}")
        elif len(detections) and len(matches.target_image) and not (detections.category == k).any():
            notes.append(f"no detection of category {name!r}")
    unsized = int((truth.sizes == 0).any(axis=1).sum())
    if unsized:
        notes.append(f"image size not stated for {unsized} frames: no false alarms per megapixel")


def _note_cut(truth: GroundTruth, detections: Results, notes: list[str]) -> None:
    """Say where weak detections seem to have been left out, which take part in mAP."""
    if len(detections) > len(truth.image_ids) / 2 and 1 >= detections.scores.min() >= CUT:
        notes.append(
            f"no score below {detections.scores.min():.4g}: if weaker detections were left out, as vid_predict.py "
            "does, mAP is not the detector's; vid_map_coco.py keeps what it needs"
        )
