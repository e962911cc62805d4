"""Metrics beyond the published table: Pd-Fa curve, sizes, contrasts, intervals, histogram, on cases worked by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from tests.evaluation_cases import DETECTIONS, TARGETS, detection, ground_truth, random_case
from utils.bootstrap import Outcomes, reweighted
from utils.evaluation import evaluate, score
from utils.evaluation_groups import number_sequences
from utils.evaluation_input import parse_ground_truth, parse_results
from utils.evaluation_pairs import frame_pairs
from utils.pd_fa import CURVE_POINTS, match_centres


def test_pd_fa_curve_by_hand():
    # By confidence: 0.9 hit, 0.8 false, 0.7 hit, 0.6 a second box on a target: false, 0.4 four pixels off: false.
    curve = evaluate(ground_truth(TARGETS, 2), DETECTIONS).pd_fa_curve
    assert curve.confidence == (0.9, 0.7, 0.4)
    assert curve.pd == pytest.approx((1 / 3, 2 / 3, 2 / 3))
    assert curve.false_alarms_per_frame == pytest.approx((0, 1 / 2, 3 / 2))
    assert curve.false_alarms_per_megapixel == pytest.approx((0, 1 / 0.04, 3 / 0.04))
    assert curve.pd_at == {"0.01": pytest.approx(1 / 3), "0.1": pytest.approx(1 / 3), "1": pytest.approx(2 / 3)}


def test_pd_fa_curve_does_not_part_equal_confidences():
    results = [detection(1, 1, 10, 10, 8, 8, 0.5), detection(1, 1, 100, 50, 8, 8, 0.5)]
    curve = evaluate(ground_truth(TARGETS[:1], 1), results).pd_fa_curve
    assert (curve.confidence, curve.pd, curve.false_alarms_per_frame) == ((0.5,), (1.0,), (1.0,))
    assert curve.pd_at == {"0.01": 0.0, "0.1": 0.0, "1": 1.0}


def test_pd_fa_curve_is_thinned():
    coco = ground_truth([(n, 1, 10, 10, 8, 8) for n in range(1, 1001)], 1000)
    curve = evaluate(coco, [detection(n, 1, 10, 10, 8, 8, n / 1000) for n in range(1, 1001)]).pd_fa_curve
    assert len(curve.pd) == CURVE_POINTS
    assert (curve.pd[0], curve.pd[-1], curve.confidence[-1]) == (pytest.approx(0.001), 1.0, 0.001)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_hits_are_the_most_that_any_assignment_has_at_every_confidence(seed: int):
    """The matching made once, by confidence, against the best assignment made anew for each confidence."""
    rng = np.random.default_rng(seed)
    targets = [(int(rng.integers(1, 3)), 1, *rng.uniform(10, 22, 2).tolist(), 4, 4) for _ in range(rng.integers(1, 9))]
    results = [
        detection(int(rng.integers(1, 3)), 1, *rng.uniform(10, 22, 2).tolist(), 4, 4, float(rng.integers(1, 6)) / 5)
        for _ in range(rng.integers(1, 12))
    ]
    truth = parse_ground_truth(ground_truth(targets, 2))
    found = parse_results(results, truth)
    matches = match_centres(truth, found)
    for confidence in (0.2, 0.4, 0.6, 0.8, 1.0):
        most = 0
        for frame in range(2):
            ours = found.centres((found.scores >= confidence) & (found.image == frame))
            offset = ours[:, None] - truth.centres(truth.image == frame)[None]
            near = np.linalg.norm(offset, axis=-1) <= 3.0
            most += near[linear_sum_assignment(~near)].sum()
        shown = found.scores >= confidence
        assert (matches.found_at >= confidence).sum() == (matches.hit & shown).sum() == most
        assert (matches.false_alarm & shown).sum() == shown.sum() - most


def test_a_chain_longer_than_python_can_recurse():
    """A row of targets 4 pixels apart, a detection between every two, and a last one that moves all of them on."""
    count = 2 * sys.getrecursionlimit()
    truth = parse_ground_truth(ground_truth([(1, 1, 4 * n, 0, 2, 2) for n in range(count)], 1))
    found = [detection(1, 1, 4 * n + 1.9, 0, 2, 2, 0.9) for n in range(count - 1)]  # nearer to the left
    matches = match_centres(truth, parse_results([*found, detection(1, 1, 0, 0, 2, 2, 0.5)], truth))
    assert matches.hit.all() and not matches.false_alarm.any()


def test_pairs_come_in_parts_of_bounded_size():
    truth = parse_ground_truth(ground_truth([(n % 3 + 1, 1, 5 * n, 0, 2, 2) for n in range(30)], 4))
    found = parse_results([detection(n % 4 + 1, 1, n, 0, 2, 2, 0.5) for n in range(40)], truth)
    whole = list(frame_pairs(truth, found))
    parts = list(frame_pairs(truth, found, chunk=25))
    assert len(whole) == 1 and len(parts) > 10 and all(len(part[0]) <= 25 for part in parts)
    for column in (0, 1):
        assert np.array_equal(np.concatenate([part[column] for part in parts]), whole[0][column])
    assert [len(part[0]) for part in frame_pairs(truth, found, chunk=5)][:2] == [10, 10]  # one detection's at least


def test_pd_of_the_curve_is_that_of_the_operating_point():
    coco, results = random_case(3, 12)
    for confidence in (0.1, 0.45, 0.8):
        evaluation = evaluate(coco, results, confidence)
        shown = sum(c >= confidence for c in evaluation.pd_fa_curve.confidence)
        assert evaluation.pd_fa.pd == pytest.approx(evaluation.pd_fa_curve.pd[shown - 1])


def test_per_size_by_hand():
    boxes = [(1, 1, 10, 10, 4, 4), (1, 1, 40, 10, 6, 8), (1, 1, 70, 10, 8, 8), (2, 1, 10, 10, 40, 40)]
    results = [
        detection(1, 1, 10, 10, 4, 4, 0.9),  # on the 4 x 4 box
        detection(1, 1, 41, 11, 4, 6, 0.8),  # on the 6 x 8 box: centres agree, IoU 24 / 48
        detection(1, 1, 66, 10, 8, 8, 0.9),  # 4 pixels beside the 8 x 8 box: IoU 32 / 96
        detection(2, 1, 14, 10, 40, 40, 0.3),  # on the large box, not confident
    ]
    bins = evaluate(ground_truth(boxes, 2), results).per_size
    assert [(b.least, b.below, b.targets, b.recall, b.pd) for b in bins] == [
        (0, 5, 1, 1.0, 1.0),
        (5, 8, 1, 1.0, 1.0),  # sqrt(48) = 6.9
        (8, 12, 1, 0.0, 0.0),  # a bin includes its lower end
        (32, None, 1, 0.0, 0.0),
    ]


def test_per_scr_by_hand():
    coco = ground_truth([*TARGETS, (1, 1, 60, 60, 8, 8)], 2)
    for annotation, scr in zip(coco["annotations"], (1.5, 1.0, 8.0, None), strict=True):
        annotation["scr"] = scr
    bins = evaluate(coco, DETECTIONS).per_scr
    assert [(b.least, b.below, b.targets, b.recall, b.pd) for b in bins] == [
        (1, 2, 2, 1.0, 1.0),
        (8, None, 1, 0.0, 0.0),
    ]
    given = evaluate(coco, DETECTIONS, scr=[0.5, 0.5, 0.5, 0.5]).per_scr
    assert [(b.least, b.targets, b.recall) for b in given] == [(0, 4, 0.5)]
    assert evaluate(ground_truth(TARGETS, 2), DETECTIONS).per_scr == ()


def test_crowd_regions_are_in_no_bin():
    coco = ground_truth([*TARGETS, (1, 1, 60, 60, 30, 30)], 2)
    coco["annotations"][3]["iscrowd"] = 1
    evaluation = evaluate(coco, DETECTIONS, scr=[1, 1, 1, 1])
    assert sum(b.targets for b in evaluation.per_size) == sum(b.targets for b in evaluation.per_scr) == 3


def test_contrasts_go_with_their_targets_where_frames_are_skipped():
    coco = ground_truth([(2, 1, 10, 10, 8, 8), (4, 1, 30, 30, 8, 8)], 5)
    bins = evaluate(coco, [detection(4, 1, 30, 30, 8, 8, 0.9)], scr=[0.5, 4.0]).per_scr
    assert [(b.least, b.recall) for b in bins] == [(0, 0.0), (3, 1.0)]


def test_confidence_histogram_by_hand():
    histogram = evaluate(ground_truth(TARGETS, 2), [*DETECTIONS, detection(2, 1, 90, 90, 4, 4, 1.0)]).confidences
    assert len(histogram.edges) == 51 and (histogram.edges[0], histogram.edges[-1]) == (0.0, 1.0)
    assert {k: n for k, n in enumerate(histogram.hits) if n} == {45: 1, 35: 1}  # 0.9 and 0.7
    assert {k: n for k, n in enumerate(histogram.others) if n} == {40: 1, 30: 1, 20: 1, 49: 1}  # 1.0 is in the last


def test_fewer_detections_scored_by_hand():
    evaluation = evaluate(ground_truth(TARGETS, 2), DETECTIONS, 0.0, max_detections=1)  # 0.9 and 0.7, both hits
    assert (evaluation.operating_point.precision, evaluation.operating_point.recall) == pytest.approx((1.0, 2 / 3))
    assert evaluation.published.mAP50 == pytest.approx(67 / 101)
    assert evaluation.protocol["max_detections_scored"] == 1
    assert evaluation.pd_fa.false_alarms_per_frame == 3 / 2  # by centre distance all are counted


# ---- intervals -----------------------------------------------------------------------------------------


def two_sequences() -> tuple[dict, list[dict]]:
    """Sequence a: its one target found. Sequence b: its one target missed and a false alarm more confident."""
    coco = ground_truth([(1, 1, 10, 10, 8, 8), (2, 1, 10, 10, 8, 8)], 2)
    coco["images"][1]["file_name"] = "test/b/2.bmp"
    return coco, [detection(1, 1, 10, 10, 8, 8, 0.8), detection(2, 1, 60, 60, 8, 8, 0.9)]


def test_intervals_by_hand():
    """Of two sequences a draw is aa, ab or bb: each extreme has a quarter of the draws, so the ends are theirs."""
    intervals = evaluate(*two_sequences(), resamples=400).intervals
    assert intervals["pd"] == intervals["recall"] == intervals["precision"] == intervals["f1"] == (0.0, 1.0)
    assert intervals["mAP50"] == (0.0, 1.0)
    assert intervals["false_alarms_per_frame"] == (0.0, 1.0)


def test_one_sequence_has_no_intervals_and_a_note():
    evaluation = evaluate(ground_truth(TARGETS, 2), DETECTIONS, resamples=100)
    assert evaluation.intervals == {} and any("one sequence" in note for note in evaluation.notes)
    assert evaluate(*two_sequences()).intervals == {}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_resample_scores_as_the_data_that_it_stands_for(seed: int):
    """A draw that takes sequence b twice and a never must score as b twice under two names."""
    coco, results = random_case(seed, 12)
    results = [{**r, "score": r["score"] / 2 + n / 10_000} for n, r in enumerate(results)]  # no two equal
    for image in coco["images"][4:]:
        image["file_name"] = f"test/b/{image['id']}.bmp"
    scored = score(coco, results)
    names, sequence = number_sequences(scored.truth.file_names)
    centre_hits = scored.centres.found_at >= 0.3
    alarms = scored.detections.image[scored.centres.false_alarm & (scored.detections.scores >= 0.3)]
    outcomes = Outcomes(scored.matches, scored.truth, sequence, 0.3, centre_hits, alarms)
    drawn = reweighted(outcomes, np.array([[0, 2]]))
    assert names == ["a", "b"]

    twice = {**coco, "images": coco["images"][4:]}
    twice["annotations"] = [a for a in coco["annotations"] if a["image_id"] > 4]
    own = [r for r in results if r["image_id"] > 4]
    twice["images"] = twice["images"] + [{**i, "id": i["id"] + 10} for i in twice["images"]]
    twice["annotations"] += [{**a, "image_id": a["image_id"] + 10} for a in twice["annotations"]]
    own += [{**r, "image_id": r["image_id"] + 10} for r in own]
    expected = evaluate(twice, own, 0.3)
    assert drawn["mAP50"] == pytest.approx(expected.published.mAP50)
    for name in ("precision", "recall", "f1"):
        assert drawn[name] == pytest.approx(getattr(expected.operating_point, name))
    for name in ("pd", "false_alarms_per_frame"):
        assert drawn[name] == pytest.approx(getattr(expected.pd_fa, name))
