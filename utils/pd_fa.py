"""Detection probability (Pd) and false alarms by centre distance, at one confidence and along all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.evaluation_input import GroundTruth, Results
from utils.evaluation_pairs import inside_crowd, near_pairs

CENTRE_DISTANCE = 3.0  # pixels between centres, at most, for a hit
CURVE_POINTS = 400  # of a Pd-Fa curve, at most
FALSE_ALARM_RATES = (0.01, 0.1, 1.0)  # per frame, at which the report states Pd


@dataclass(frozen=True)
class CentreMatches:
    """Hits and false alarms at every confidence at once.

    At a confidence c the hit targets are those with `found_at` >= c, the false alarms those of score >= c.
    """

    hit: np.ndarray  # (D,) bool: the detection hits a target
    target: np.ndarray  # (D,) which one, when all detections count; -1: none
    false_alarm: np.ndarray  # (D,) bool: it hits none and lies in no crowd region
    found_at: np.ndarray  # (G,) highest confidence at which the target is hit; -inf: at none, or a crowd region


def match_centres(truth: GroundTruth, results: Results, radius: float = CENTRE_DISTANCE) -> CentreMatches:
    """Assign detections to targets of the same frame and category whose centres are within `radius` pixels.

    A detection hits at most one target and a target takes at most one detection. Detections come in order of
    confidence (of equal ones the nearer first), and each is a hit if all hits so far and itself can be placed
    together, earlier ones moving on to another target where they must. So the number of hits is, at every
    confidence, the largest that any assignment of the detections of at least that confidence has.
    """
    detection, target, distance = near_pairs(truth, results, radius)
    order = np.lexsort((distance, detection, -results.scores[detection]))
    reach: dict[int, list[int]] = {}  # targets in reach of a detection, nearest first
    nearest: dict[int, float] = {}
    for d, g, away in zip(detection[order].tolist(), target[order].tolist(), distance[order].tolist(), strict=True):
        reach.setdefault(d, []).append(g)
        nearest.setdefault(d, away)
    scores = dict(zip(detection.tolist(), results.scores[detection].tolist(), strict=True))
    owner: dict[int, int] = {}  # target -> its detection
    found_at = np.full(len(truth.image), -np.inf)
    for d in sorted(reach, key=lambda d: (-scores[d], nearest[d], d)):
        found = _place(d, reach, owner)
        if found is not None:
            found_at[found] = scores[d]
    target_of = np.full(len(results), -1, dtype=np.int64)
    target_of[list(owner.values())] = list(owner)  # who is placed once stays placed
    hit = target_of >= 0
    return CentreMatches(hit, target_of, ~hit & ~inside_crowd(truth, results), found_at)


def _place(detection: int, reach: dict[int, list[int]], owner: dict[int, int]) -> int | None:
    """Give a detection a target, moving owners on; the target that had none before, or None where it is impossible.

    An augmenting path, depth first; a list of its steps, as a crowded frame's may be longer than Python can recurse.
    """
    tried: set[int] = set()
    path = [(detection, iter(reach[detection]))]  # who is to be placed, and the targets not yet tried
    wanted: list[int] = []  # the target that each of them is about to take
    while path:
        target = next((target for target in path[-1][1] if target not in tried), None)
        if target is None:
            path.pop()
            del wanted[-1:]
            continue
        tried.add(target)
        wanted.append(target)
        if target not in owner:
            owner.update(zip(wanted, (mover for mover, _ in path), strict=True))
            return target
        path.append((owner[target], iter(reach[owner[target]])))
    return None


@dataclass(frozen=True)
class PdFa:
    """Targets hit within 3 pixels of the centre, and detections that hit nothing, at the stated confidence.

    False alarms are counted in boxes: not the Fa of the segmentation papers, false pixels over all pixels.
    """

    pd: float
    false_alarms_per_frame: float
    false_alarms_per_megapixel: float | None  # None where the ground truth does not say the image sizes


def pd_fa(hits: int, targets: int, false_alarms: int, sizes: np.ndarray) -> PdFa:
    """From counts and the (height, width) of each frame (I, 2)."""
    pixels = sizes.prod(axis=1)
    known = bool(len(sizes)) and bool(pixels.all())
    return PdFa(
        pd=hits / targets if targets else 0.0,
        false_alarms_per_frame=false_alarms / len(sizes) if len(sizes) else 0.0,
        false_alarms_per_megapixel=float(false_alarms / (pixels.sum() / 1e6)) if known else None,
    )


@dataclass(frozen=True)
class PdFaCurve:
    """Pd over false alarms as the confidence falls: the points at which Pd rises, and the last one."""

    confidence: tuple[float, ...]
    pd: tuple[float, ...]
    false_alarms_per_frame: tuple[float, ...]
    false_alarms_per_megapixel: tuple[float, ...] | None  # None where image sizes are not stated
    pd_at: dict[str, float]  # highest Pd with at most so many false alarms per frame ("0.1"), over all confidences


def pd_fa_curve(matches: CentreMatches, scores: np.ndarray, targets: int, sizes: np.ndarray) -> PdFaCurve:
    """The curve of all detections (D,); at most `CURVE_POINTS` points, evenly spread over Pd."""
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)[: len(order)]  # no threshold parts equal confidences
    confidence = scores[order][last_of_tie]
    hits = np.cumsum(matches.hit[order])[last_of_tie]
    alarms = np.cumsum(matches.false_alarm[order])[last_of_tie]
    pd = hits / max(targets, 1)
    per_frame = alarms / max(len(sizes), 1)
    pd_at = {f"{rate:g}": float(pd[per_frame <= rate].max(initial=0.0)) for rate in FALSE_ALARM_RATES}
    rises = np.flatnonzero(np.diff(hits, prepend=0) > 0)
    if len(rises) > CURVE_POINTS:
        rises = rises[np.unique(np.linspace(0, len(rises) - 1, CURVE_POINTS).astype(int))]
    points = np.unique(np.append(rises, len(hits) - 1)) if len(hits) else rises
    megapixels = sizes.prod(axis=1).sum() / 1e6
    known = bool(len(sizes)) and bool(sizes.all())
    return PdFaCurve(
        confidence=tuple(confidence[points].tolist()),
        pd=tuple(pd[points].tolist()),
        false_alarms_per_frame=tuple(per_frame[points].tolist()),
        false_alarms_per_megapixel=tuple((alarms[points] / megapixels).tolist()) if known else None,
        pd_at=pd_at,
    )
