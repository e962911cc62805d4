"""`vid_map_coco.py` on a few frames and a small untrained network: files, protocol, comparisons, errors."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nets import SSTNet
from tests.evaluation_cases import ClosedPipe, detection
from utils.checkpoint import save_weights
from utils.cli import run_command
from utils.detector import Detector
from utils.prediction_files import OutputFolder
from utils.video import open_source
from vid_map_coco import Config, main, time_frames

FIGURES = ("pr_curve", "pd_fa_curve", "ap_by_sequence", "confidence")
FAST = ("--speed-frames", "0", "--no-report")
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


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an untrained network of two classes, bird and drone, that takes everything for a drone."""
    path = tmp_path_factory.mktemp("weights") / "two.pth"
    model = SSTNet(num_classes=2, num_frames=3, num_slices=1, num_layers=1, width=0.125)
    torch.nn.init.zeros_(model.head.cls_preds[0].weight)
    model.head.cls_preds[0].bias.data = torch.tensor([-1.0, 1.0])
    save_weights(path, model, ("bird", "drone"), (64, 64))
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
        "intensity": "full",
        "frame_interval": 1,
        "detected_empty_frames": False,
        "include_empty_frames": False,
        "max_detections_scored": 100,
        "operating_point_iou": 0.5,
        "pd_centre_distance": 3.0,
    }
    speed = metrics["speed"]
    assert speed["frames_timed"] == FRAMES - 2 and speed["input_size"] == "64 x 64"
    assert min(speed[name] for name in ("fps_network", "fps_without_reading", "fps_with_reading")) > 0
    assert speed["latency_ms"] > 0
    results = read(out, "detections.json")
    assert {result["image_id"] for result in results} <= set(range(1, FRAMES - 1)) and results
    assert all((out / f"{name}.png").is_file() for name in FIGURES)
    assert sum(b["targets"] for b in metrics["per_scr"]) == FRAMES - 2  # measured in the frames
    assert (out / "gallery_misses.png").is_file() or metrics["pd_fa"]["pd"] == 1.0
    captured = capsys.readouterr()
    assert "published protocol" in captured.out and "data1" in captured.out
    # The data root is called DAUB, but this is neither its test set nor its protocol.
    assert "warning: not comparable with the published curves: input_size [64, 64]" in captured.err
    assert "6 frames; the test set of DAUB has 4795" in captured.err


def test_own_detections_file_scores_the_same(data_root, weights, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("--weights", weights, "--data-root", data_root, "--output", first, *FAST) == 0
    found = first / "detections.json"
    assert {path.name for path in first.iterdir()} == {"metrics.json", "detections.json"}
    assert run("--detections", found, "--data-root", data_root, "--output", second, "--no-report") == 0
    for name in set(read(first)) - {"protocol"}:
        assert read(first)[name] == read(second)[name]
    assert read(second)["protocol"]["detections"] == str(found)
    assert read(second)["protocol"]["weights"] == str(weights)  # metrics.json beside the file says so
    assert read(first)["speed"] == {} and not (second / "detections.json").exists()


def test_a_file_finds_frames_as_the_network_did(data_root, weights, tmp_path):
    """Of an annotation list whose frames lie in a folder below the data root, and say no sizes."""
    (tmp_path / "list.txt").write_text(
        "".join(f"images/test/data1/{n}.bmp {8 + n},16,{16 + n},24,0\n" for n in range(FRAMES - 2))
    )
    first, second = tmp_path / "first", tmp_path / "second"
    common = ("--data-root", data_root.parent, "--annotations", tmp_path / "list.txt", "--no-report")
    assert run("--weights", weights, *common, "--output", first, "--speed-frames", "0") == 0
    assert run("--detections", first / "detections.json", *common, "--output", second) == 0
    assert read(first)["pd_fa"]["false_alarms_per_megapixel"] is not None and read(first)["per_scr"]
    for name in set(read(first)) - {"protocol"}:
        assert read(first)[name] == read(second)[name]


def test_detections_file_needs_no_frames(data_root, tmp_path):
    found = tmp_path / "found.json"
    found.write_text(json.dumps([detection(n + 1, 1, 8 + n, 16, 8, 8, 0.9) for n in range(FRAMES - 2)]))
    annotations = data_root / "annotations" / "instances_test2017.json"
    out = tmp_path / "out"
    flags = ("--data-root", tmp_path, "--output", out, "--no-report")
    assert run("--detections", found, "--annotations", annotations, *flags) == 0
    metrics = read(out)
    assert metrics["published"]["mAP50"] == pytest.approx(1.0) and metrics["pd_fa"]["pd"] == 1.0
    assert metrics["per_scr"] == []


def test_gallery_and_report_of_a_file(data_root, tmp_path):
    """One target missed, one false alarm: each is a strip of the page and of the report, which needs nothing else."""
    found = tmp_path / "found.json"
    results = [detection(n + 1, 1, 8 + n, 16, 8, 8, 0.9) for n in range(FRAMES - 2)]
    results[3] = detection(4, 1, 40, 40, 8, 8, 0.8)
    found.write_text(json.dumps(results))
    out = tmp_path / "out"
    assert run("--detections", found, "--data-root", data_root, "--output", out, "--gallery", "3") == 0
    for name in ("gallery_misses.png", "gallery_false_alarms.png"):
        width, height = Image.open(out / name).size
        assert width > 5 * 240 and 240 < height < 2 * 240  # five frames, one strip
    page = (out / "report.html").read_text()
    assert "missed in data1/3.bmp" in page and "false alarm in data1/3.bmp" in page
    assert page.count('src="data:image/png;base64,') == 10 and page.count('src="data:image/svg+xml') == 4
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_several_files_are_compared(data_root, tmp_path, capsys):
    files = []
    for name, shift in (("near", 0), ("far", 30)):
        files.append(tmp_path / f"{name}.json")
        results = [detection(n + 1, 1, 8 + n + shift, 16, 8, 8, 0.9) for n in range(FRAMES - 2)]
        files[-1].write_text(json.dumps(results))
    out = tmp_path / "out"
    flags = ("--data-root", data_root, "--output", out, "--gallery", "1", "--published", "none")
    assert run("--detections", *files, *flags) == 0
    assert {name: run["pd_fa"]["pd"] for name, run in read(out, "comparison.json").items()} == {"near": 1, "far": 0}
    assert (out / "gallery_misses_2.png").is_file() and not (out / "gallery_misses_1.png").exists()
    assert "Worst misses of far" in (out / "report.html").read_text()
    printed = capsys.readouterr().out
    assert printed.index("near") < printed.index("far") and not (out / "confidence.png").exists()


def test_empty_frames_on_request(data_root, weights, tmp_path):
    flags = ("--include-empty-frames", *FAST, "--min-confidence", "0")
    assert run("--weights", weights, "--data-root", data_root, "--output", tmp_path, *flags) == 0
    assert read(tmp_path)["counts"]["frames"] == FRAMES
    assert {result["image_id"] for result in read(tmp_path, "detections.json")} == set(range(1, FRAMES + 1))


def test_protocol_flags_reach_the_detector(data_root, weights, tmp_path):
    flags = ("--max-detections", "3", "--input-size", "96", "64", "--resize", "stretch", "--nms", "0.5")
    more = ("--repeat-key-frame", "--speed-frames", "8", "--min-confidence", "0", "--no-report")
    assert run("--weights", weights, "--data-root", data_root, "--output", tmp_path, *flags, *more) == 0
    protocol = read(tmp_path)["protocol"]
    assert protocol["input_size"] == [96, 64] and protocol["resize"] == "stretch" and protocol["nms"] == 0.5
    assert protocol["repeat_key_frame"] is True
    assert len(read(tmp_path, "detections.json")) == 3 * (FRAMES - 2)
    assert read(tmp_path)["speed"]["input_size"] == "96 x 64"


def test_repeated_key_frame_is_a_single_frame_detector(data_root, weights, tmp_path):
    common = ("--weights", weights, "--data-root", data_root, *FAST, "--min-confidence", "0")
    assert run(*common, "--output", tmp_path / "clips") == 0
    assert run(*common, "--output", tmp_path / "single", "--repeat-key-frame") == 0
    by_frame = [
        [[r["score"] for r in read(tmp_path / name, "detections.json") if r["image_id"] == frame] for frame in (1, 2)]
        for name in ("clips", "single")
    ]
    (first, second), (first_alone, second_alone) = by_frame
    assert first == pytest.approx(first_alone, abs=1e-5)  # the first clip repeats its only frame anyway
    assert second != pytest.approx(second_alone, abs=1e-3)


def test_clips_of_every_third_frame(data_root, weights, tmp_path, capsys):
    common = ("--weights", weights, "--data-root", data_root, *FAST, "--min-confidence", "0")
    scores = {}
    for interval in (1, 3):
        output = tmp_path / str(interval)
        assert run(*common, "--output", output, "--frame-interval", interval) == 0
        assert read(output)["protocol"]["frame_interval"] == interval
        scores[interval] = [r["score"] for r in read(output, "detections.json")]
    assert scores[1] != pytest.approx(scores[3], abs=1e-3)
    assert run(*common, "--output", tmp_path, "--frame-interval", "0") == 2
    assert "--frame-interval 0 is less than 1" in capsys.readouterr().err


def test_a_list_serves_a_network_of_several_classes(data_root, two_classes, tmp_path, capsys):
    """A list names no classes, and all its boxes may be of the first."""
    boxes = tmp_path / "list.txt"
    boxes.write_text("".join(f"images/test/data1/{n}.bmp {8 + n},16,{16 + n},24,0\n" for n in range(4)))
    common = ("--weights", two_classes, "--data-root", data_root, "--output", tmp_path, "--published", "none")
    assert run(*common, "--annotations", boxes, *FAST, "--min-confidence", "0") == 0
    assert {result["category_id"] for result in read(tmp_path, "detections.json")} == {2}
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("order", "warns", "drone"),
    [(("bird", "drone"), False, 2), (("drone", "bird"), False, 1), (("plane", "bird", "drone"), False, 3),
     (("drone", "plane"), True, 2)],
)  # fmt: skip
def test_classes_are_matched_by_name_or_else_told(data_root, two_classes, tmp_path, capsys, order, warns, drone):
    coco = read(data_root / "annotations", "instances_test2017.json")
    coco["categories"] = [{"id": n + 1, "name": name} for n, name in enumerate(order)]
    annotations = tmp_path / "two.json"
    annotations.write_text(json.dumps(coco))
    common = ("--weights", two_classes, "--data-root", data_root, "--output", tmp_path, "--published", "none")
    assert run(*common, "--annotations", annotations, *FAST, "--min-confidence", "0") == 0
    assert {result["category_id"] for result in read(tmp_path, "detections.json")} == {drone}
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert len(warnings) == warns
    assert not warns or "two.json: categories drone, plane, but the network's are bird, drone" in warnings[0]


@pytest.mark.parametrize("name", ["detections.json", "metrics.json"])
def test_annotations_are_not_written_over(data_root, weights, tmp_path, capsys, name):
    annotations = tmp_path / name
    shutil.copy(data_root / "annotations" / "instances_test2017.json", annotations)
    before = annotations.read_bytes()
    assert run("--weights", weights, "--data-root", data_root, "--annotations", annotations, "--output", tmp_path) == 2
    assert f"{annotations}: is a source" in capsys.readouterr().err and annotations.read_bytes() == before


def test_a_prediction_is_not_written_over(data_root, weights, tmp_path, capsys):
    Image.new("L", (64, 64)).save(tmp_path / "1.png")
    with OutputFolder(tmp_path / "out", open_source(tmp_path / "1.png"), "frames"):
        pass
    assert run("--weights", weights, "--data-root", data_root, "--output", tmp_path / "out", *FAST) == 2
    assert "out: holds what vid_predict.py wrote" in capsys.readouterr().err
    assert read(tmp_path / "out", "detections.json") == []


def test_a_damaged_frame_beside_a_failure_costs_its_picture_alone(data_root, weights, tmp_path, capsys):
    """A repeated key frame needs no other; the gallery shows the whole clip."""
    root, out = tmp_path / "set", tmp_path / "out"
    shutil.copytree(data_root, root)
    (root / "images" / "test" / "data1" / f"{FRAMES - 2}.bmp").write_bytes(b"BM")
    truth = root / "annotations" / "instances_test2017.json"
    coco = json.loads(truth.read_text())
    coco["images"] = [image for image in coco["images"] if image["id"] in (1, FRAMES)]
    coco["annotations"] = [{**box, "image_id": FRAMES} if box["id"] == 2 else box for box in coco["annotations"][:2]]
    truth.write_text(json.dumps(coco))
    common = ("--weights", weights, "--data-root", root, "--output", out, "--repeat-key-frame", "--speed-frames", "0")
    assert run(*common) == 0
    assert "warning: not in the gallery: " in capsys.readouterr().err and (out / "report.html").is_file()


def test_nothing_is_written_among_annotated_frames(data_root, weights, capsys):
    folder = data_root / "images" / "test" / "data1"
    before = sorted(folder.iterdir())
    assert run("--weights", weights, "--data-root", data_root, "--output", folder, *FAST) == 2
    assert "holds annotated frames" in capsys.readouterr().err and sorted(folder.iterdir()) == before


def test_what_somebody_else_wrote_stays(data_root, weights, tmp_path, capsys):
    (tmp_path / "report.html").write_text("mine")
    assert run("--weights", weights, "--data-root", data_root, "--output", tmp_path, *FAST) == 2
    assert "report.html: of no evaluation, and would be lost" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_what_an_earlier_evaluation_drew_does_not_stay(data_root, weights, tmp_path):
    common = ("--weights", weights, "--data-root", data_root, "--output", tmp_path, "--speed-frames", "0")
    assert run(*common) == 0 and (tmp_path / "report.html").is_file()
    (tmp_path / "comparison.csv").write_text("of two detectors")
    (tmp_path / "gallery_misses_of_mine.png").write_bytes(b"")
    assert run(*common, "--no-report") == 0
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["detections.json", "gallery_misses_of_mine.png", "metrics.json"]


def test_a_damaged_frame_that_no_clip_needs_does_no_harm(data_root, weights, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(data_root, root)
    (root / "images" / "test" / "data1" / f"{FRAMES - 1}.bmp").write_bytes(b"BM")
    truth = root / "annotations" / "instances_test2017.json"
    coco = json.loads(truth.read_text())
    coco["images"] = [image for image in coco["images"] if image["id"] != FRAMES]  # in the folder, not annotated
    truth.write_text(json.dumps(coco))
    out = tmp_path / "out"
    flags = ("--speed-frames", "100", "--no-report")
    assert run("--weights", weights, "--data-root", root, "--output", out, *flags) == 0
    assert read(out)["speed"]["frames_timed"] == FRAMES - 2


def test_a_timing_that_fails_is_a_note(weights, tmp_path):
    speed = time_frames(Detector.from_file(weights), [tmp_path / "gone.bmp"])
    assert list(speed) == ["note"] and "not measured" in speed["note"] and "gone.bmp" in speed["note"]


def test_files_are_written_before_the_report(data_root, tmp_path, monkeypatch):
    found = tmp_path / "found.json"
    found.write_text(json.dumps([detection(1, 1, 8, 16, 8, 8, 0.9)]))
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    with pytest.raises(BrokenPipeError):
        main(Config(detections=(found,), data_root=data_root, output=tmp_path / "out"))
    figures = {f"{name}{kind}" for name in FIGURES for kind in (".png", ".svg")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "report.html", *figures}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weights", "a.pth", "--detections", "b.json"], "give either --weights"),
        (["--weights", "a.pth", "--nms", "1.5"], "--nms 1.5 is not between 0 and 1"),
        (["--weights", "a.pth", "--max-detections", "0"], "--max-detections 0 is less than 1"),
        (["--weights", "{weights}", "--data-root", "nowhere"], "nowhere"),
        (["--weights", "a.pth"], "a.pth"),
        (["--weights", "{weights}", "--input-size", "500", "500"], "500"),
        (["--weights", "{weights}", "--device", "tpu9"], "--device tpu9: no such device"),
        (["--detections", "none.json"], "none.json: detections cannot be read"),
        (["--weights", "a.pth", "--published", "SIRST"], "SIRST"),
        (["--weights", "a.pth", "--gallery", "-1"], "--gallery -1 is less than 0"),
        (["--weights", "a.pth", "--gallery", "1", "--no-report"], "--gallery is part of the report"),
        (["--weights", "a.pth", "--names", "a"], "--names is for --detections"),
        (["--detections", "none.json", "--nms", "0.5"], "--nms is for --weights"),
        (["--detections", "none.json", "--names", "a", "b"], "--names: 2 for 1 detection files"),
        (["--detections", "{found}", "--gallery", "2", "--data-root", "nowhere", "--annotations", "{truth}"],
         "nowhere: no such folder; pass the folder of the data set"),
    ],
)
def test_errors_are_one_line(data_root, weights, tmp_path, capsys, flags: list[str], message: str):
    found = tmp_path / "found.json"
    found.write_text(json.dumps([detection(1, 1, 50, 50, 8, 8, 0.9)]))
    truth = data_root / "annotations" / "instances_test2017.json"
    flags = [flag.format(weights=weights, found=found, truth=truth) for flag in flags]
    defaults = ["--output", str(tmp_path), "--device", "cpu", "--data-root", str(data_root)]
    with pytest.raises(SystemExit) as stop:
        run_command(main, Config, [*defaults, *flags])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
