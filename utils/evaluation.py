"""How good detections are: COCO ground truth and COCO results in, one dataclass of metrics out.

The core of `vid_map_coco.py`, `utils_coco/get_map_coco.py` and the validation during training. All metrics
are fractions. Where a figure has no meaning (no detection, no target) it is 0.0 and `notes` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

import numpy as np

from utils.cli import UserError
from utils.evaluation_coco import MAX_DETECTIONS, CocoScores, Matches, precision_curve, run_cocoeval
from utils.evaluation_input import GroundTruth, Results, parse_ground_truth, parse_results
from utils.pd_fa import CENTRE_DISTANCE, match_centres

SCORING = {  # what every evaluation records in `protocol`
    "max_detections_scored": MAX_DETECTIONS,
    "operating_point_iou": 0.5,
    "pd_centre_distance": CENTRE_DISTANCE,
}


@dataclass(frozen=True)
class PublishedProtocol:
    """The figures of the papers' tables; precision is a mean over the PR curve, not an operating point."""

    mAP50: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class CocoTable:
    """COCO's summary, mean over the categories that have targets."""

    AP: float
    AP50: float
    AP75: float
    AP_small: float
    AR100: float


@dataclass(frozen=True)
class OperatingPoint:
    """What a user sees who shows the detections of at least this confidence (match: IoU 0.5)."""

    confidence: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class PdFa:
    """Targets hit within 3 pixels of the centre, and detections that hit nothing, at the stated confidence.

    False alarms are counted in boxes: not the Fa of the segmentation papers, false pixels over all pixels.
    """

    pd: float
    false_alarms_per_frame: float
    false_alarms_per_megapixel: float | None  # None where the ground truth does not say the image sizes


@dataclass(frozen=True)
class SequenceMetrics:
    """One sequence (a folder of frames); precision and recall at the stated confidence."""

    frames: int
    targets: int
    mAP50: float
    precision: float
    recall: float
    pd: float
    false_alarms_per_frame: float
    false_alarms_per_megapixel: float | None


@dataclass(frozen=True)
class Counts:
    """What was scored."""

    frames: int
    targets: int
    detections: int


@dataclass(frozen=True)
class Evaluation:
    """All metrics of one set of detections."""

    published: PublishedProtocol
    coco: CocoTable
    operating_point: OperatingPoint
    best_f1: OperatingPoint
    pd_fa: PdFa
    per_sequence: dict[str, SequenceMetrics]
    counts: Counts
    pr_curve: tuple[float, ...]  # precision at recall 0, 0.01, ..., 1; IoU 0.5, first category
    categories: tuple[str, ...]
    protocol: dict
    speed: dict
    notes: tuple[str, ...]

    def to_json(self) -> dict:
        """The content of `metrics.json`: plain types, every metric a fraction."""
        return asdict(self)


def evaluate(
    coco: dict,
    results: list[dict],
    confidence: float = 0.5,
    *,
    include_empty_frames: bool = False,
    protocol: dict | None = None,
    speed: dict | None = None,
    truth_source: str = "ground truth",
    results_source: str = "detections",
) -> Evaluation:
    """Score COCO results against a COCO ground truth dict; neither is changed.

    Frames without annotations are skipped, as the published protocol does, unless `include_empty_frames`.
    `protocol` (how the detections were made) and `speed` are recorded as they are. Raises `UserError` naming
    the source for ground truth or detections that cannot be used.
    """
    if not 0.0 <= confidence <= 1.0:
        raise UserError(f"confidence {confidence} is not between 0 and 1")
    truth = parse_ground_truth(coco, truth_source)
    detections = parse_results(results, truth, results_source)
    notes: list[str] = []
    if not include_empty_frames:
        truth, detections = _skip_empty_frames(truth, detections, notes)
    scores = run_cocoeval(truth, detections)
    _note_gaps(truth, detections, scores.matches, confidence, notes)
    shown = detections.select(detections.scores >= confidence)
    centre_hits, false_alarms = match_centres(truth, shown)
    counted = ~truth.crowd  # targets proper
    alarm_frames = shown.image[false_alarms]
    return Evaluation(
        published=_published(scores, notes),
        coco=_coco_table(scores),
        operating_point=operating_point(scores.matches, confidence),
        best_f1=best_f1_point(scores.matches),
        pd_fa=_pd_fa(centre_hits[counted], alarm_frames, truth.sizes),
        per_sequence=_per_sequence(truth, scores.matches, confidence, centre_hits, alarm_frames),
        counts=Counts(len(truth.image_ids), int(counted.sum()), len(detections)),
        pr_curve=tuple(np.maximum(scores.precision[0, :, 0, 0], 0.0).tolist()),
        categories=truth.category_names,
        protocol={**(protocol or {}), "include_empty_frames": include_empty_frames, **SCORING},
        speed=dict(speed or {}),
        notes=tuple(notes),
    )


# ---- published protocol and COCO table --------------------------------------------------------------------


def curve_precision(curve: Sequence[float], recall: float) -> float:
    """Precision of the published protocol: mean of the curve's first int(100 recall) of 101 points."""
    points = int(100 * recall)
    return float(np.mean(curve[:points])) if points else 0.0


def harmonic_mean(precision: float, recall: float) -> float:
    """F1; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


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
    """Mean over the categories that have targets (pycocotools marks the others by -1); 0 if none has."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else 0.0


# ---- operating points -------------------------------------------------------------------------------------


def operating_point(matches: Matches, confidence: float) -> OperatingPoint:
    """Precision, recall and F1 of all categories together, detections of at least `confidence`."""
    shown = matches.scores >= confidence
    hits = np.count_nonzero(matches.hits[shown])
    precision = _ratio(hits, np.count_nonzero(shown))
    recall = _ratio(hits, len(matches.target_image))
    return OperatingPoint(float(confidence), precision, recall, harmonic_mean(precision, recall))


def best_f1_point(matches: Matches) -> OperatingPoint:
    """The operating point of the best F1 over all confidences; of equal ones the highest confidence."""
    if not matches.hits.any():
        return OperatingPoint(0.0, 0.0, 0.0, 0.0)
    order = np.argsort(-matches.scores, kind="stable")
    scores, true_positives = matches.scores[order], np.cumsum(matches.hits[order])
    f1 = 2 * true_positives / (np.arange(1, len(scores) + 1) + len(matches.target_image))
    last_of_tie = np.append(scores[1:] != scores[:-1], True)  # a threshold cannot part equal confidences
    best = int(np.argmax(np.where(last_of_tie, f1, -1.0)))
    return operating_point(matches, float(scores[best]))


def _ratio(part: int, whole: float) -> float:
    return float(part / whole) if whole else 0.0


# ---- Pd, false alarms, sequences --------------------------------------------------------------------------


def _pd_fa(hits: np.ndarray, alarm_frames: np.ndarray, sizes: np.ndarray) -> PdFa:
    """From each target's hit flag, each false alarm's frame and each frame's (height, width)."""
    pixels = sizes.prod(axis=1)
    known = bool(len(sizes)) and bool(pixels.all())
    return PdFa(
        pd=_ratio(np.count_nonzero(hits), len(hits)),
        false_alarms_per_frame=_ratio(len(alarm_frames), len(sizes)),
        false_alarms_per_megapixel=_ratio(len(alarm_frames), pixels.sum() / 1e6) if known else None,
    )


def sequence_names(file_names: Sequence[str]) -> list[str]:
    """The sequence of each frame: its folder, without the leading folders that all frames share.

    `images/test/data6/0.bmp` and `images/test/data11/0.bmp` give `data6` and `data11`.
    """
    folders = [PurePosixPath(name.replace("\\", "/")).parent.parts for name in file_names]
    distinct = set(folders)
    shared = 0
    while all(len(f) > shared + 1 for f in distinct) and len({f[shared] for f in distinct}) == 1:
        shared += 1
    return ["/".join(parts[shared:]) or "." for parts in folders]


def _per_sequence(
    truth: GroundTruth, matches: Matches, confidence: float, centre_hits: np.ndarray, alarm_frames: np.ndarray
) -> dict[str, SequenceMetrics]:
    """The metrics of every sequence, in the order of first appearance."""
    names = sequence_names(truth.file_names)
    number = {name: n for n, name in enumerate(dict.fromkeys(names))}
    sequence = np.array([number[name] for name in names], dtype=np.int64)  # (I,)
    found: dict[str, SequenceMetrics] = {}
    for name, n in number.items():
        frames = sequence == n
        part = matches.select(frames)
        point = operating_point(part, confidence)
        hits = centre_hits[frames[truth.image] & ~truth.crowd]
        alarms = _pd_fa(hits, alarm_frames[frames[alarm_frames]], truth.sizes[frames])
        found[name] = SequenceMetrics(
            frames=int(frames.sum()),
            targets=len(hits),
            mAP50=_mean_average_precision(part),
            precision=point.precision,
            recall=point.recall,
            **asdict(alarms),
        )
    return found


def _mean_average_precision(matches: Matches) -> float:
    """AP at IoU 0.5, mean over the categories that have targets here."""
    values = []
    for category in np.unique(matches.target_category):
        own = matches.category == category
        targets = np.count_nonzero(matches.target_category == category)
        values.append(precision_curve(matches.scores[own], matches.hits[own], targets).mean())
    return float(np.mean(values)) if values else 0.0


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
    for k, name in enumerate(truth.category_names):
        if len(matches.target_image) and not (matches.target_category == k).any():
            what = "so published precision and recall are 0" if k == 0 else "left out of the means"
            notes.append(f"category {name!r} has no target: {what}")
        elif len(detections) and len(matches.target_image) and not (detections.category == k).any():
            notes.append(f"no detection of category {name!r}")
    unsized = int((truth.sizes == 0).any(axis=1).sum())
    if unsized:
        notes.append(f"image size not stated for {unsized} frames: no false alarms per megapixel")
