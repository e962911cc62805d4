"""Ground truth beside the detections of one frame."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from utils.cli import UserError
from utils.detections import Detections
from utils.evaluation import score
from utils.overlay import Truth, judge
from utils.video import open_source

# Whole pixels would move the second target's centre out of reach; the last is a crowd region.
BOXES = ([12, 11, 8, 8], [10.9, 50.9, 2.9, 2.9], [80, 80, 8, 8], [40, 40, 20, 20])
FOUND = ([10, 10, 18, 18], [13.2, 53.2, 15.2, 55.2], [81, 84, 89, 92], [44, 44, 48, 48], [81, 80, 89, 88])
CLASSES = (0, 0, 0, 0, 1)


def test_track_numbers_may_begin_anew_in_every_sequence(tmp_path):
    images = [{"id": n, "file_name": f"{folder}/1.png"} for n, folder in enumerate("ab", start=1)]
    boxes = [
        {"id": n, "image_id": 1 + n // 2, "category_id": 1, "bbox": [10 * n, 1, 4, 4], "track_id": n % 2}
        for n in range(4)
    ]
    for folder in "ab":
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / folder / "1.png")
    coco = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "target"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    truth = Truth(tmp_path / "boxes.json", open_source(str(tmp_path / "*" / "1.png")), ("target",))
    found = [truth.tracks(truth.find(tmp_path / folder / "1.png"), 0).tolist() for folder in "ab"]
    assert found == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("size", "box", "said"), [
    ((128, 96), [1, 1, 4, 4], "96 x 128 pixels, but the source's frames have 64 x 64"),
    ((None, None), [70, 1, 4, 4], "a box outside, but the source's frames have 64 x 64"),
])  # fmt: skip
def test_annotations_of_another_size_are_refused(tmp_path, size, box, said):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "1.png")
    image = {"id": 1, "file_name": "1.png"} | ({"height": size[0], "width": size[1]} if size[0] else {})
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box}]
    coco = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "target"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    with pytest.raises(UserError, match=f"boxes.json: 1.png: {said}"):
        Truth(tmp_path / "boxes.json", open_source(tmp_path / "1.png"), ("target",))


@pytest.mark.parametrize(("names", "warns", "kinds"), [
    (("bird", "drone"), False, ["hit", "false alarm", "miss"]),
    (("heron", "drone"), True, ["false alarm", "false alarm", "miss", "miss"]),  # which is the JSON's second
])  # fmt: skip
def test_categories_are_matched_by_name_or_else_told(tmp_path, capsys, names, warns, kinds):
    """A network's drone on a box of the JSON's drone, which stands first there, and on one of a class it has not."""
    Image.fromarray(np.zeros((96, 96), np.uint8)).save(tmp_path / "1.png")
    boxes = [{"id": n, "image_id": 1, "category_id": n, "bbox": [20 * n, 20, 8, 8]} for n in (1, 3)]
    categories = [{"id": n, "name": name} for n, name in enumerate(("drone", "bird", "plane"), start=1)]
    coco = {"images": [{"id": 1, "file_name": "1.png"}], "annotations": boxes, "categories": categories}
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    truth = Truth(tmp_path / "boxes.json", open_source(tmp_path / "1.png"), names)
    assert ("matched by order" in capsys.readouterr().err) == warns
    found = Detections(np.array([[20, 20, 28, 28], [60, 20, 68, 28]], np.float32), np.full(2, 0.9), np.array([1, 1]))
    marks = judge(found, truth.targets(truth.find(tmp_path / "1.png")), names)
    assert [mark.kind for mark in marks] == kinds


def test_a_frame_is_judged_as_the_evaluation_counts(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("0.png", "1.png"):
        Image.fromarray(np.zeros((96, 96), np.uint8)).save(tmp_path / "a" / name)
    coco = {
        "images": [{"id": 7 + n, "file_name": f"a/{n}.png", "width": 96, "height": 96} for n in (0, 1)],
        "annotations": [
            {"id": n + 1, "image_id": 8, "category_id": 3, "bbox": box, "area": 9, "iscrowd": int(n == 3)}
            for n, box in enumerate(BOXES)
        ],
        "categories": [{"id": 3, "name": "bird"}, {"id": 5, "name": "drone"}],
    }
    coco["annotations"].insert(0, coco["annotations"].pop())  # the crowd region first
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    truth = Truth(tmp_path / "boxes.json", open_source(tmp_path / "a"), ("bird", "drone"))
    detections = Detections(np.array(FOUND, np.float32), np.full(5, 0.9), np.array(CLASSES))
    record = truth.find(tmp_path / "a" / "1.png")
    marks = judge(detections, truth.targets(record), ("bird", "drone"))
    # 2.2 pixels off; 2 pixels off; 4 pixels off; in the crowd region; another class
    kinds = ["hit", "hit", "false alarm", "detection", "false alarm", "miss"]
    assert [mark.kind for mark in marks] == kinds and marks[-1].box.tolist() == [80, 80, 88, 88]
    empty = truth.targets(truth.find(tmp_path / "a" / "0.png"))
    assert {mark.kind for mark in judge(detections, empty, ("bird", "drone"))} == {"false alarm"}
    results = [
        {"image_id": 8, "category_id": (3, 5)[k], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.9}
        for (x1, y1, x2, y2), k in zip(FOUND, CLASSES, strict=True)
    ]
    found = score(coco, results, resamples=0).evaluation.pd_fa
    assert found.pd == 2 / 3 and found.false_alarms_per_frame == 2
