"""`vid_map_coco.py` on a few frames and a small untrained network: files, protocol, comparisons, errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nets import SSTNet
from tests.evaluation_cases import detection
from utils.checkpoint import save_weights
from utils.cli import run_command
from vid_map_coco import Config, main

FRAMES = 8  # of which the last two have no target


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in the published layout, named after one: noise frames 64 x 64 with a box each."""
    root = tmp_path_factory.mktemp("data") / "DAUB"
    folder = root / "images" / "test" / "data1"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(FRAMES):
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(folder / f"{n}.bmp")
    coco = {
        "images": [
            {"id": n + 1, "file_name": f"images/test/data1/{n}.bmp", "height": 64, "width": 64} for n in range(FRAMES)
        ],
        "annotations": [
            {"id": n + 1, "image_id": n + 1, "category_id": 1, "bbox": [8 + n, 16, 8, 8], "area": 64, "iscrowd": 0}
            for n in range(FRAMES - 2)
        ],
        "categories": [{"id": 1, "name": "target"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_test2017.json").write_text(json.dumps(coco))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = SSTNet(num_frames=3, num_slices=1, num_layers=1, width=0.125)
    for parameter in model.parameters():
        if parameter.ndim == 4:  # the recipe's small start would hide what the frames show
            torch.nn.init.kaiming_normal_(parameter)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    save_weights(path, model, ("target",), (64, 64))
    return path


def run(*arguments: object) -> int:
    """Exit status of the command, on the CPU."""
    with pytest.raises(SystemExit) as stop:
        run_command(main, Config, [*map(str, arguments), "--device", "cpu"])
    return stop.value.code


def read(folder: Path, name: str = "metrics.json"):
    return json.loads((folder / name).read_text())


def test_network_to_files(data_root, weights, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("--weights", weights, "--data-root", data_root, "--output", out, "--speed-frames", "8") == 0
    metrics = read(out)
    assert metrics["counts"]["frames"] == FRAMES - 2
    assert metrics["protocol"] == {
        "weights": str(weights),
        "resize": "letterbox",
        "input_size": [64, 64],
        "nms": 0.65,
        "min_confidence": 0.001,
        "max_detections": 100,
        "repeat_key_frame": False,
        "include_empty_frames": False,
        "max_detections_scored": 100,
        "operating_point_iou": 0.5,
        "pd_centre_distance": 3.0,
    }
    speed = metrics["speed"]
    assert speed["frames_timed"] == 8 and speed["input_size"] == "64 x 64"
    assert min(speed[name] for name in ("fps_network", "fps_without_reading", "fps_with_reading")) > 0
    assert speed["latency_ms"] > 0
    results = read(out, "detections.json")
    assert {result["image_id"] for result in results} <= set(range(1, FRAMES - 1)) and results
    assert Image.open(out / "pr_curve.png").size[0] >= 1000
    captured = capsys.readouterr()
    assert "published protocol" in captured.out and "data1" in captured.out
    # The data root is called DAUB, but this is neither its test set nor its protocol.
    assert "warning: not comparable with the published curves: input_size [64, 64]" in captured.err
    assert "6 frames; the test set of DAUB has 4795" in captured.err


def test_own_detections_file_scores_the_same(data_root, weights, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("--weights", weights, "--data-root", data_root, "--output", first, "--speed-frames", "0") == 0
    found = first / "detections.json"
    assert run("--detections", found, "--data-root", data_root, "--output", second) == 0
    for name in ("published", "coco", "operating_point", "best_f1", "pd_fa", "per_sequence", "counts"):
        assert read(first)[name] == read(second)[name]
    assert read(second)["protocol"]["detections"] == str(found)
    assert read(first)["speed"] == {} and not (second / "detections.json").exists()


def test_detections_file_needs_no_frames(data_root, tmp_path):
    found = tmp_path / "found.json"
    found.write_text(json.dumps([detection(n + 1, 1, 8 + n, 16, 8, 8, 0.9) for n in range(FRAMES - 2)]))
    annotations = data_root / "annotations" / "instances_test2017.json"
    out = tmp_path / "out"
    assert run("--detections", found, "--annotations", annotations, "--data-root", tmp_path, "--output", out) == 0
    metrics = read(out)
    assert metrics["published"]["mAP50"] == pytest.approx(1.0) and metrics["pd_fa"]["pd"] == 1.0


def test_empty_frames_on_request(data_root, weights, tmp_path):
    flags = ("--include-empty-frames", "--speed-frames", "0", "--min-confidence", "0")
    assert run("--weights", weights, "--data-root", data_root, "--output", tmp_path, *flags) == 0
    assert read(tmp_path)["counts"]["frames"] == FRAMES
    assert {result["image_id"] for result in read(tmp_path, "detections.json")} == set(range(1, FRAMES + 1))


def test_protocol_flags_reach_the_detector(data_root, weights, tmp_path):
    flags = ("--max-detections", "3", "--input-size", "96", "64", "--resize", "stretch", "--nms", "0.5")
    more = ("--repeat-key-frame", "--speed-frames", "8", "--min-confidence", "0", "--published", "none")
    assert run("--weights", weights, "--data-root", data_root, "--output", tmp_path, *flags, *more) == 0
    protocol = read(tmp_path)["protocol"]
    assert protocol["input_size"] == [96, 64] and protocol["resize"] == "stretch" and protocol["nms"] == 0.5
    assert protocol["repeat_key_frame"] is True
    assert len(read(tmp_path, "detections.json")) == 3 * (FRAMES - 2)
    assert read(tmp_path)["speed"]["input_size"] == "96 x 64"


def test_repeated_key_frame_is_a_single_frame_detector(data_root, weights, tmp_path):
    common = ("--weights", weights, "--data-root", data_root, "--speed-frames", "0", "--min-confidence", "0")
    assert run(*common, "--output", tmp_path / "clips") == 0
    assert run(*common, "--output", tmp_path / "single", "--repeat-key-frame") == 0
    by_frame = [
        [[r["score"] for r in read(tmp_path / name, "detections.json") if r["image_id"] == frame] for frame in (1, 2)]
        for name in ("clips", "single")
    ]
    (first, second), (first_alone, second_alone) = by_frame
    assert first == pytest.approx(first_alone, abs=1e-5)  # the first clip repeats its only frame anyway
    assert second != pytest.approx(second_alone, abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either --weights FILE (a network) or --detections FILE"),
        (["--weights", "a.pth", "--detections", "b.json"], "give either --weights"),
        (["--weights", "a.pth", "--nms", "1.5"], "--nms 1.5 is not between 0 and 1"),
        (["--weights", "a.pth", "--max-detections", "0"], "--max-detections 0 is less than 1"),
        (["--weights", "a.pth", "--data-root", "nowhere"], "nowhere"),
        (["--weights", "a.pth"], "a.pth"),
        (["--weights", "{weights}", "--input-size", "500", "500"], "500"),
        (["--weights", "{weights}", "--device", "tpu9"], "--device tpu9: no such device"),
        (["--detections", "none.json"], "none.json: detections cannot be read"),
        (["--weights", "a.pth", "--published", "SIRST"], "SIRST"),
    ],
)
def test_errors_are_one_line(data_root, weights, tmp_path, capsys, flags: list[str], message: str):
    flags = [flag.format(weights=weights) for flag in flags]
    defaults = ["--output", str(tmp_path), "--device", "cpu", "--data-root", str(data_root)]
    with pytest.raises(SystemExit) as stop:
        run_command(main, Config, [*defaults, *flags])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
