"""Evaluation: every metric on cases worked out by hand, and agreement with pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.evaluation_cases import DETECTIONS, TARGETS, detection, ground_truth, random_case
from utils.evaluation import evaluate
from utils.evaluation_input import parse_ground_truth, parse_results
from utils.evaluation_metrics import harmonic_mean
from utils.pd_fa import match_centres


def test_published_protocol_by_hand():
    published = evaluate(ground_truth(TARGETS, 2), DETECTIONS).published
    # Precision 1 up to recall 1/3 (points 0 to 0.33), 2/3 up to recall 2/3 (0.34 to 0.66), then 0.
    assert published.mAP50 == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert published.recall == pytest.approx(2 / 3)
    assert published.precision == pytest.approx((34 + 32 * 2 / 3) / 66)
    assert published.f1 == pytest.approx(harmonic_mean(published.precision, 2 / 3))


def test_operating_points_by_hand():
    evaluation = evaluate(ground_truth(TARGETS, 2), DETECTIONS, confidence=0.5)
    point = evaluation.operating_point
    assert (point.precision, point.recall, point.f1) == pytest.approx((2 / 4, 2 / 3, 4 / 7))
    best = evaluation.best_f1
    assert (best.confidence, best.precision, best.recall, best.f1) == pytest.approx((0.7, 2 / 3, 2 / 3, 2 / 3))


def test_confidence_is_inclusive():
    point = evaluate(ground_truth(TARGETS, 2), DETECTIONS, confidence=0.7).operating_point
    assert (point.precision, point.recall) == pytest.approx((2 / 3, 2 / 3))


def test_best_f1_does_not_part_equal_confidences():
    results = [detection(1, 1, 10, 10, 8, 8, 0.5), detection(1, 1, 100, 50, 8, 8, 0.5)]
    best = evaluate(ground_truth(TARGETS[:1], 1), results).best_f1
    assert (best.confidence, best.precision, best.recall) == (0.5, 0.5, 1.0)


def test_pd_and_false_alarms_by_hand():
    pd_fa = evaluate(ground_truth(TARGETS, 2), DETECTIONS, confidence=0.5).pd_fa
    assert pd_fa.pd == pytest.approx(2 / 3)
    assert pd_fa.false_alarms_per_frame == pytest.approx(1.0)  # the false box and the second box on a target
    assert pd_fa.false_alarms_per_megapixel == pytest.approx(2 / 0.04)


def test_per_sequence_by_hand():
    coco = ground_truth(TARGETS, 2)
    coco["images"][1]["file_name"] = "test/b/1.bmp"
    first, second = (evaluate(coco, DETECTIONS).per_sequence[name] for name in ("a", "b"))
    assert (first.frames, first.targets, first.mAP50) == (1, 1, pytest.approx(1.0))
    assert (first.precision, first.recall, first.pd) == pytest.approx((1 / 3, 1.0, 1.0))
    assert first.false_alarms_per_frame == 2
    # One of two targets, found first: precision 1 at recall 0 to 0.5, the 51 first points.
    assert (second.frames, second.targets, second.mAP50) == (1, 2, pytest.approx(51 / 101))
    assert (second.precision, second.recall, second.pd) == pytest.approx((1.0, 0.5, 0.5))
    assert second.false_alarms_per_megapixel == 0


# ---- centre matching -----------------------------------------------------------------------------------


def centres_matched(targets: list[float], detections: list[float]) -> tuple[list[bool], list[bool]]:
    """Targets and detections as points on a line of one frame."""
    coco = ground_truth([(1, 1, 50 + x - 2, 10, 4, 4) for x in targets], 1)
    truth = parse_ground_truth(coco)
    results = parse_results([detection(1, 1, 50 + x - 4, 8, 8, 8, 0.9) for x in detections], truth)
    matches = match_centres(truth, results)
    return np.isfinite(matches.found_at).tolist(), matches.false_alarm.tolist()


def test_centre_distance_limit():
    assert centres_matched([0], [3]) == ([True], [False])
    assert centres_matched([0], [3.01]) == ([False], [True])


def test_a_detection_hits_one_target_only():
    assert centres_matched([0, 4], [2]) in (([True, False], [False]), ([False, True], [False]))


def test_a_target_takes_one_detection_the_nearest():
    assert centres_matched([0], [2, 1]) == ([True], [True, False])


def test_assignment_gives_the_most_hits():
    # The detection at 1.9 is nearer to the target at 0, which is the only one that the other detection can hit.
    assert centres_matched([0, 4], [1.9, -2.5]) == ([True, True], [False, False])


def test_centre_matching_respects_category():
    coco = ground_truth([(1, 1, 10, 10, 8, 8)], 1, categories=2)
    pd_fa = evaluate(coco, [detection(1, 2, 10, 10, 8, 8, 0.9)]).pd_fa
    assert (pd_fa.pd, pd_fa.false_alarms_per_frame) == (0.0, 1.0)


def test_crowd_regions_are_neither_targets_nor_false_alarms():
    coco = ground_truth([(1, 1, 10, 10, 8, 8), (1, 1, 100, 20, 60, 60)], 1)
    coco["annotations"][1]["iscrowd"] = 1
    evaluation = evaluate(coco, [detection(1, 1, 10, 10, 8, 8, 0.9), detection(1, 1, 120, 40, 8, 8, 0.8)])
    assert evaluation.counts.targets == 1
    assert (evaluation.pd_fa.pd, evaluation.pd_fa.false_alarms_per_frame) == (1.0, 0.0)
    assert (evaluation.operating_point.precision, evaluation.operating_point.recall) == (1.0, 1.0)
    assert evaluation.per_sequence["a"].targets == 1


# ---- agreement with pycocotools ------------------------------------------------------------------------


def pycocotools_stats(coco: dict, results: list[dict]) -> np.ndarray:
    """The twelve numbers of pycocotools' own summary."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, **copy.deepcopy(coco)}
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), largest=st.sampled_from([12, 60]))
def test_coco_table_is_that_of_pycocotools(seed: int, largest: int):
    coco, results = random_case(seed, largest)
    evaluation = evaluate(coco, results)
    table = evaluation.coco
    expected = np.maximum(pycocotools_stats(coco, results)[[0, 1, 2, 3, 8]], 0.0)
    assert [table.AP, table.AP50, table.AP75, table.AP_small, table.AR100] == pytest.approx(expected, abs=1e-12)
    # The whole set as one sequence goes through the project's own precision curve.
    assert evaluation.per_sequence["a"].mAP50 == pytest.approx(table.AP50, abs=1e-12)
    assert evaluation.published.mAP50 == table.AP50


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_sequence_figures_are_those_of_the_sequence_alone(seed: int):
    coco, results = random_case(seed, 12)
    for image in coco["images"][4:]:
        image["file_name"] = f"test/b/{image['id']}.bmp"
    together = evaluate(coco, results).per_sequence["b"]
    alone = copy.deepcopy(coco)
    alone["images"] = coco["images"][4:]
    alone["annotations"] = [a for a in coco["annotations"] if a["image_id"] > 4]
    assert evaluate(alone, [r for r in results if r["image_id"] > 4]).per_sequence["b"] == together
