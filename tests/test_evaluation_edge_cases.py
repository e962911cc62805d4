"""Evaluation: nothing found, nothing to find, classes missing, odd files, and bad input named in one line."""

from __future__ import annotations

import copy
import json

import pytest

from tests.evaluation_cases import DETECTIONS, TARGETS, detection, ground_truth, random_case
from utils.cli import UserError
from utils.evaluation import evaluate
from utils.evaluation_groups import sequence_names
from utils.evaluation_report import format_report


def finite_json(evaluation) -> dict:
    """metrics.json as a strict reader gets it; fails on NaN."""
    return json.loads(json.dumps(evaluation.to_json(), allow_nan=False))


def test_metrics_json_has_the_documented_keys():
    metrics = finite_json(evaluate(ground_truth(TARGETS, 2), DETECTIONS, protocol={"nms": 0.65}, speed={"fps": 1.0}))
    assert set(metrics["published"]) == {"mAP50", "precision", "recall", "f1"}
    assert set(metrics["coco"]) == {"AP", "AP50", "AP75", "AP_small", "AR100"}
    for name in ("operating_point", "best_f1"):
        assert set(metrics[name]) == {"confidence", "precision", "recall", "f1"}
    assert set(metrics["pd_fa"]) == {"pd", "false_alarms_per_frame", "false_alarms_per_megapixel"}
    assert metrics["protocol"]["nms"] == 0.65 and metrics["speed"] == {"fps": 1.0}
    assert set(metrics["per_sequence"]) == {"a"} and metrics["notes"] == []
    assert len(metrics["pr_curve"]) == 101


def test_no_detection_gives_zeros_and_a_note():
    evaluation = evaluate(ground_truth(TARGETS, 2), [])
    metrics = finite_json(evaluation)
    assert set(metrics["coco"].values()) == set(metrics["published"].values()) == {0.0}
    assert metrics["best_f1"]["f1"] == metrics["operating_point"]["f1"] == metrics["pd_fa"]["pd"] == 0.0
    assert any("no detection" in note for note in metrics["notes"])
    assert "note: no detection" in format_report(evaluation)


def test_scores_in_percent_are_noted():
    percent = [{**entry, "score": 100 * entry["score"]} for entry in DETECTIONS]
    assert any("not 0 to 1" in note for note in evaluate(ground_truth(TARGETS, 2), percent).notes)
    assert not any("not 0 to 1" in note for note in evaluate(ground_truth(TARGETS, 2), DETECTIONS).notes)


def test_detections_that_end_at_a_high_confidence_are_noted():
    """Where nobody says how they were made; a network that was evaluated says it."""

    def noted(results: list[dict], **options: dict) -> bool:
        notes = evaluate(ground_truth(TARGETS, 2), results, **options).notes
        return any("no score below 0.4:" in note for note in notes)

    weak = detection(1, 1, 50, 50, 8, 8, 0.01)
    assert noted(DETECTIONS) and not noted([*DETECTIONS, weak])
    assert noted(DETECTIONS, protocol={"detections": "a.json"})
    assert not noted(DETECTIONS, protocol={"detections": "a.json", "weights": "w.pth"})


@pytest.mark.parametrize("include_empty_frames", [False, True])
@pytest.mark.parametrize("results", [[], DETECTIONS])
def test_no_target_gives_zeros_and_a_note(include_empty_frames: bool, results: list[dict]):
    evaluation = evaluate(ground_truth([], 2), results, include_empty_frames=include_empty_frames)
    metrics = finite_json(evaluation)
    assert set(metrics["published"].values()) == {0.0}
    assert any("no target" in note for note in metrics["notes"])
    assert metrics["pd_fa"]["false_alarms_per_frame"] == (2.0 if include_empty_frames and results else 0.0)
    assert "note: no target" in format_report(evaluation)


def test_empty_ground_truth():
    metrics = finite_json(evaluate(ground_truth([], 0), []))
    assert metrics["counts"] == {"frames": 0, "targets": 0, "detections": 0}


def test_category_without_targets_is_left_out_of_means():
    evaluation = evaluate(ground_truth(TARGETS[:1], 1, categories=2), DETECTIONS[:1], protocol={"weights": "w.pth"})
    assert (evaluation.coco.AP, evaluation.published.precision) == pytest.approx((1.0, 1.0))
    assert evaluation.notes == ("category 'kind 2' has no target: left out of the means",)


def test_first_category_without_targets_is_noted():
    coco = ground_truth([(1, 2, 10, 10, 8, 8)], 1, categories=2)
    evaluation = evaluate(coco, [detection(1, 2, 10, 10, 8, 8, 0.9)])
    assert (evaluation.published.mAP50, evaluation.published.precision) == pytest.approx((1.0, 0.0))
    assert "'kind 1' has no target" in evaluation.notes[0]


def test_category_without_detections_counts_as_zero():
    coco = ground_truth([TARGETS[0], (1, 2, 50, 50, 8, 8)], 1, categories=2)
    evaluation = evaluate(coco, DETECTIONS[:1], protocol={"weights": "w.pth"})
    assert pytest.approx(0.5) == evaluation.coco.AP50
    assert evaluation.notes == ("no detection of category 'kind 2'",)


def test_empty_frames_count_on_request():
    coco = ground_truth(TARGETS, 4)
    results = [*DETECTIONS, detection(3, 1, 10, 10, 8, 8, 0.95)]
    skipped = evaluate(coco, results)
    assert skipped.counts.frames == 2 and skipped.counts.detections == 5
    assert skipped.pd_fa.false_alarms_per_frame == 1.0
    assert "2 frames without annotations and the 1 detections" in skipped.notes[0]
    included = evaluate(coco, results, include_empty_frames=True)
    assert included.counts.frames == 4 and included.protocol["include_empty_frames"]
    assert included.pd_fa.false_alarms_per_frame == 3 / 4
    assert included.operating_point.precision == pytest.approx(2 / 5)


def test_frames_without_targets_between_others_do_not_shift_the_detections():
    coco = ground_truth([(2, 1, 10, 10, 8, 8), (4, 1, 30, 30, 8, 8)], 5)
    results = [detection(2, 1, 10, 10, 8, 8, 0.9), detection(4, 1, 30, 30, 8, 8, 0.8)]
    evaluation = evaluate(coco, results)
    assert (evaluation.coco.AP, evaluation.pd_fa.pd) == pytest.approx((1.0, 1.0))


def test_ids_from_zero_lose_nothing():
    coco = ground_truth(TARGETS[:1], 1)
    coco["annotations"][0].update(id=0, image_id=0)
    coco["images"][0]["id"] = 0
    evaluation = evaluate(coco, [detection(0, 1, 10, 10, 8, 8, 0.9)])
    assert pytest.approx(1.0) == evaluation.coco.AP


def test_optional_keys_may_be_missing():
    coco = ground_truth(TARGETS, 2)
    for annotation in coco["annotations"]:
        del annotation["area"], annotation["iscrowd"], annotation["id"]
    for image in coco["images"]:
        del image["height"], image["width"]
    evaluation = evaluate(coco, DETECTIONS)
    assert evaluation.coco == evaluate(ground_truth(TARGETS, 2), DETECTIONS).coco
    assert evaluation.pd_fa.false_alarms_per_megapixel is None
    assert any("image size not stated" in note for note in evaluation.notes)
    assert "unknown per megapixel" in format_report(evaluation)


def test_more_than_100_detections_in_a_frame():
    results = [detection(1, 1, 100, 50, 8, 8, 0.9 - n / 1000) for n in range(100)]
    results.append(detection(1, 1, 10, 10, 8, 8, 0.1))  # a hit, but the 101st of its frame
    assert evaluate(ground_truth(TARGETS[:1], 1), results).published.recall == 0.0


def test_input_is_unchanged_and_nothing_is_printed(capsys):
    coco, results = random_case(1, 12)
    before = copy.deepcopy((coco, results))
    evaluate(coco, results)
    assert (coco, results) == before
    assert capsys.readouterr() == ("", "")


def test_order_of_files_does_not_matter():
    coco, results = random_case(5, 12)
    shuffled = copy.deepcopy(coco)
    for key in ("images", "annotations", "categories"):
        shuffled[key].reverse()
    assert evaluate(shuffled, results).coco == evaluate(coco, results).coco


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["images/test/data6/0.bmp", "images/test/data11/3.bmp"], ["data6", "data11"]),
        (["/home/x/DAUB/images/6/0.bmp", "/home/x/DAUB/images/6/1.bmp"], ["6", "6"]),
        (["a\\b\\0.bmp", "a\\c\\0.bmp"], ["b", "c"]),
        (["0.bmp", "1.bmp"], [".", "."]),
        (["0.bmp", "a/1.bmp"], [".", "a"]),
        (["x/a/frames/0.bmp", "x/b/frames/0.bmp"], ["a/frames", "b/frames"]),
        ([], []),
    ],
)
def test_sequence_names(names: list[str], expected: list[str]):
    assert sequence_names(names) == expected


# ---- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 77}, r"D: 1 entries whose image_id the ground truth lacks \(77\)"),
        ({"category_id": 9}, r"D: 1 entries whose category_id .*\(9\)"),
        ({"score": float("nan")}, r"D: entry 1 \(from 0\): score is not finite: nan"),
        ({"score": "high"}, r"D: entry 1 \(from 0\): score is not a number: 'high'"),
        ({"score": None}, r"entry 1 .* score is not a number"),
        ({"score": [0.9]}, r"entry 1 .* score is not a number: \[0.9\]"),
        ({"bbox": [1, 2, 3]}, r"entry 1 .* bbox is not \[x, y, w, h\]"),
        ({"bbox": [1, 2, "3", 4]}, r"entry 1 .* bbox is not a number"),
        ({"bbox": [1, 2, -3, 4]}, r"entry 1 .* negative side"),
        ({"bbox": [1, float("inf"), 3, 4]}, r"entry 1 .* bbox is not finite"),
        ({"image_id": "1"}, r"entry 1 .* image_id is not a whole number: '1'"),
        ({"image_id": 1.5}, r"entry 1 .* image_id is not a whole number"),
    ],
)
def test_bad_detection_is_named(change: dict, message: str):
    results = [DETECTIONS[0], {**DETECTIONS[1], **change}, DETECTIONS[2]]
    with pytest.raises(UserError, match=message):
        evaluate(ground_truth(TARGETS, 2), results, results_source="D")


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score"])
def test_missing_key_of_a_detection_is_named(key: str):
    faulty = {name: value for name, value in DETECTIONS[1].items() if name != key}
    with pytest.raises(UserError, match=rf"D: entry 1 \(from 0\) has no '{key}'"):
        evaluate(ground_truth(TARGETS, 2), [DETECTIONS[0], faulty], results_source="D")


@pytest.mark.parametrize("results", [{"detections": []}, "x", None])
def test_results_that_are_no_list(results):
    with pytest.raises(UserError, match="D: not a COCO results file"):
        evaluate(ground_truth(TARGETS, 2), results, results_source="D")


def test_many_unknown_images_are_counted_and_some_named():
    results = [detection(n, 1, 1, 1, 8, 8, 0.5) for n in range(10, 20)]
    with pytest.raises(UserError, match=r"10 entries .*\(10, 11, 12, 13, 14, \.\.\.\)"):
        evaluate(ground_truth(TARGETS, 2), results)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda coco: coco.pop("images"), "needs lists 'images', 'annotations', 'categories'"),
        (lambda coco: coco["categories"].clear(), "'categories' is empty"),
        (lambda coco: coco["annotations"][0].update(image_id=5), r"annotations: 1 entries whose image_id .*\(5\)"),
        (lambda coco: coco["annotations"][0].pop("bbox"), r"annotations: entry 0 \(from 0\) has no 'bbox'"),
        (lambda coco: coco["images"][1].pop("file_name"), r"images: entry 1 \(from 0\) has no 'file_name'"),
        (lambda coco: coco["images"][1].update(width="x"), r"images: entry 1 .*height and width is not a number"),
        (lambda coco: coco["images"][1].update(id=1), "images: id 1 appears twice"),
        (lambda coco: coco["annotations"][0].update(iscrowd="0"), r"entry 0 \(from 0\): iscrowd is not 0 or 1: '0'"),
        (lambda coco: [a.update(bbox=[[1, 2, 3, 4]] * 4) for a in coco["annotations"]], "entry 0 .* bbox is not a n"),
        (lambda coco: coco["annotations"][1].update(area=[36]), r"entry 1 .* area is not a number: \[36\]"),
        (lambda coco: coco["annotations"][1].update(area=-1), "entry 1 .* area is negative: -1"),
        (lambda coco: coco["images"][1].update(height=[64]), "images: entry 1 .*height and width is not a number"),
        (lambda coco: coco["images"][1].update(height=-64), "images: entry 1 .*height and width is negative"),
    ],
)
def test_bad_ground_truth_is_named(spoil, message: str):
    coco = ground_truth(TARGETS, 2)
    spoil(coco)
    with pytest.raises(UserError, match=f"G.*{message}"):
        evaluate(coco, DETECTIONS, truth_source="G")


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_confidence_out_of_range(confidence: float):
    with pytest.raises(UserError, match="confidence"):
        evaluate(ground_truth(TARGETS, 2), DETECTIONS, confidence)
