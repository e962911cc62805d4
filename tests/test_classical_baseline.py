"""The classical filters: answers known beforehand, and files that the scoring command takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.classical_baseline import Config, components, main, max_median, maxima, white_top_hat
from tests.training_cases import run
from utils_coco import get_map_coco

POINTS = ((10, 12, 60), (30, 40, 200), (50, 20, 120))  # row, column, grey levels above the ground


@pytest.fixture
def frame() -> np.ndarray:
    """A ramp with a bright half, and three points of one pixel."""
    picture = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    picture[:, 32:] += 20
    for row, column, height in POINTS:
        picture[row, column] = min(int(picture[row, column]) + height, 255)
    return picture


@pytest.mark.parametrize("respond", [lambda f: white_top_hat(f, 3), lambda f: max_median(f, 5)])
def test_points_stand_out_and_edges_do_not(respond, frame):
    response = respond(frame)
    assert response.shape == frame.shape and response.min() == 0
    found = {(row, column) for row, column in np.argwhere(response > 20).tolist()}
    assert found == {(row, column) for row, column, _ in POINTS}


def test_maxima_are_where_the_points_are(frame):
    boxes, scores = maxima(white_top_hat(frame, 3), 8)
    best = np.argsort(-scores)[:3]
    wanted = {(column + 0.5 - 4, row + 0.5 - 4, 8, 8) for row, column, _ in POINTS}
    assert {tuple(box) for box in boxes[best].tolist()} == wanted
    strongest = [column for x, _, _, _ in boxes[best].tolist() for column in [int(x + 3.5)]]
    assert strongest == [40, 20, 12]


def test_a_plateau_is_one_maximum():
    response = np.zeros((9, 9), np.float32)
    response[3:5, 2:6] = 7
    boxes, scores = maxima(response, 2)
    assert boxes.tolist() == [[3.0, 3.0, 2.0, 2.0]] and scores.tolist() == [7.0]  # centre (4, 4)
    response[:] = 0
    response[2:5, 2:5] = 7
    response[3, 3] = 5  # a ring round its centre
    boxes, scores = maxima(response, 2)
    assert boxes.tolist() == [[2.5, 2.5, 2.0, 2.0]] and scores.tolist() == [7.0]


def test_components_have_their_own_boxes_or_those_asked_for():
    response = np.zeros((32, 32), np.float32)
    response[3:5, 2:6] = (5, 6, 7, 8)
    response[20, 20] = 9
    boxes, scores = components(response, 2.0, 0)
    assert boxes.tolist() == [[2, 3, 4, 2], [20, 20, 1, 1]] and scores.tolist() == [8, 9]
    boxes, _ = components(response, 2.0, 4)
    assert boxes.tolist() == [[2, 2, 4, 4], [18.5, 18.5, 4, 4]]


def test_a_flat_frame_has_no_target():
    flat = np.zeros((16, 16), np.float32)
    assert len(maxima(flat, 8)[0]) == len(components(flat, 5.0, 8)[0]) == 0


@pytest.fixture
def data_root(frame, tmp_path) -> Path:
    """Two frames, of which the second is not annotated; the strongest point is no target."""
    folder = tmp_path / "data" / "images" / "test" / "data1"
    folder.mkdir(parents=True)
    for number in range(2):
        Image.fromarray(frame).save(folder / f"{number}.bmp")
    boxes = [[column - 4, row - 4, 8, 8] for row, column, _ in POINTS[::2]]
    content = {
        "images": [{"id": n, "file_name": f"images/test/data1/{n}.bmp", "height": 64, "width": 64} for n in range(2)],
        "annotations": [
            {"id": n, "image_id": 0, "category_id": 1, "bbox": box, "area": 64, "iscrowd": 0}
            for n, box in enumerate(boxes, start=1)
        ],
        "categories": [{"id": 1, "name": "target"}],
    }
    (tmp_path / "data" / "annotations").mkdir()
    (tmp_path / "data" / "annotations" / "instances_test2017.json").write_text(json.dumps(content))
    return tmp_path / "data"


@pytest.mark.parametrize("flags", [[], ["--method", "max-median", "--kernel", "5", "--peaks", "components"]])
def test_detections_are_scored_as_anybodys(flags, data_root, tmp_path, capsys):
    out = tmp_path / "out"
    more = ["--max-detections", "3", "--result", tmp_path / "result.json", "--data", "two frames", "--resamples", "0"]
    arguments = ["--data-root", data_root, "--output", out, *more, *flags]
    assert run(capsys, [*map(str, arguments)], Config, main)[0] == 0
    metrics = json.loads((out / "metrics.json").read_text())
    # Hits of confidence ranks 2 and 3 behind a false alarm: precision 2/3 at every recall.
    assert metrics["counts"] == {"frames": 1, "targets": 2, "detections": 3}
    assert metrics["published"]["mAP50"] == pytest.approx(2 / 3)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["data"] == "two frames" and result["published"]["mAP50"] == 0.6667

    truth = data_root / "annotations" / "instances_test2017.json"
    scoring = ["--gt", truth, "--detections", out / "detections.json", "--output", tmp_path / "scores"]
    assert run(capsys, [*map(str, scoring)], get_map_coco.Config, get_map_coco.main)[0] == 0
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["published"] == metrics["published"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kernel", "4"], "--kernel 4: must be odd"),
        (["--box", "0"], "--box 0: must be 1 or more; 0, a component's own box, is for --peaks components"),
        (["--threshold", "9"], "--threshold 9: is for --peaks components"),
        (["--max-detections", "0"], "--max-detections must be 1 or more"),
    ],
)
def test_settings_that_make_no_filter(flags, message, data_root, capsys):
    status, _, error = run(capsys, ["--data-root", str(data_root), *flags], Config, main)
    assert status == 2 and message in error and error.count("\n") == 1
