"""`get_map_coco.py` as its users run it: two files in, tables and metrics.json out, one line for an error."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation_cases import DETECTIONS, TARGETS, ClosedPipe, detection, ground_truth
from utils.cli import run_command
from utils_coco.get_map_coco import Config, main

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "tests" / "reference"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Ground truth and detections of the case worked out by hand, and an output folder."""
    paths = {"gt": tmp_path / "truth.json", "detections": tmp_path / "found.json", "output": tmp_path / "out"}
    paths["gt"].write_text(json.dumps(ground_truth(TARGETS, 2)))
    paths["detections"].write_text(json.dumps(DETECTIONS))
    return paths


def run(paths: dict[str, Path], *extra: str) -> int:
    """Exit status of the command."""
    arguments = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    with pytest.raises(SystemExit) as stop:
        run_command(main, Config, [*arguments, *extra])
    return stop.value.code


def error_line(paths: dict[str, Path], capsys: pytest.CaptureFixture, *extra: str) -> str:
    """The one line of a run that must fail."""
    assert run(paths, *extra) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def test_metrics_and_tables(files, capsys):
    assert run(files) == 0
    metrics = json.loads((files["output"] / "metrics.json").read_text())
    assert metrics["operating_point"]["precision"] == 0.5
    assert metrics["published"]["mAP50"] == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert metrics["protocol"]["detections"] == str(files["detections"])
    printed = capsys.readouterr().out
    assert "2 frames, 3 targets, 5 detections" in printed
    assert "published protocol  mAP50  55.45" in printed
    assert "P  50.00  R  66.67  F1  57.14  at confidence 0.500" in printed


def test_confidence_flag(files):
    assert run(files, "--confidence", "0.75") == 0
    metrics = json.loads((files["output"] / "metrics.json").read_text())
    assert metrics["operating_point"]["confidence"] == 0.75
    assert metrics["operating_point"]["recall"] == pytest.approx(1 / 3)


def test_without_output_nothing_is_written(files):
    before = sorted(files["gt"].parent.iterdir())
    del files["output"]
    assert run(files) == 0
    assert sorted(files["gt"].parent.iterdir()) == before


def test_files_are_written_before_the_report(files, monkeypatch):
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    with pytest.raises(BrokenPipeError):
        main(Config(**{**files, "detections": (files["detections"],)}))
    assert (files["output"] / "metrics.json").is_file()


def test_annotation_list_as_ground_truth(files):
    files["gt"] = files["gt"].with_suffix(".txt")
    files["gt"].write_text("seq/a/1.bmp 10,10,18,18,0\nseq/a/2.bmp 20,20,28,28,0 40,40,48,48,0\n")
    assert run(files) == 0
    metrics = json.loads((files["output"] / "metrics.json").read_text())
    assert metrics["operating_point"]["precision"] == 0.5
    assert metrics["pd_fa"]["pd"] == pytest.approx(2 / 3)
    assert metrics["pd_fa"]["false_alarms_per_megapixel"] is None  # a list does not say the frames' sizes


@pytest.mark.parametrize("command", [["utils_coco/get_map_coco.py"], ["-m", "utils_coco.get_map_coco"]])
def test_runs_as_script_and_as_module(files, command: list[str]):
    arguments = ["--gt", str(files["gt"]), "--detections", str(files["detections"].with_name("none.json"))]
    done = subprocess.run([sys.executable, *command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "none.json: detections cannot be read" in done.stderr


@pytest.mark.parametrize("which", ["gt", "detections"])
def test_missing_file_is_named(files, capsys, which: str):
    files[which].unlink()
    line = error_line(files, capsys)
    assert files[which].name in line and "check the path" in line


@pytest.mark.parametrize("which", ["gt", "detections"])
def test_malformed_json_is_named_with_its_line(files, capsys, which: str):
    files[which].write_text('[\n{"image_id": 1,,}\n]')
    assert f"{files[which].name}:2:" in error_line(files, capsys)


@pytest.mark.parametrize("which", ["gt", "detections"])
def test_packed_file_is_named(files, capsys, which: str):
    files[which].write_bytes(gzip.compress(files[which].read_bytes()))
    assert f"{files[which].name}: " in error_line(files, capsys)


def test_swapped_files(files, capsys):
    files["gt"], files["detections"] = files["detections"], files["gt"]
    assert "truth.json: not a COCO results file" in error_line(files, capsys)


def test_detections_of_another_data_set(files, capsys):
    files["detections"].write_text(json.dumps([{**DETECTIONS[0], "image_id": 4711}]))
    assert "found.json: 1 entries whose image_id the ground truth lacks (4711)" in error_line(files, capsys)


def test_nan_in_json(files, capsys):
    files["detections"].write_text(json.dumps([{**DETECTIONS[0], "score": float("nan")}]))
    assert "found.json: entry 0 (from 0): score is not finite" in error_line(files, capsys)


def test_output_that_is_a_file(files, capsys):
    files["output"].write_text("in the way")
    assert "out: cannot be made" in error_line(files, capsys)


@pytest.mark.parametrize("name", ["metrics.json", "comparison.json"])
def test_ground_truth_is_not_written_over(files, capsys, name):
    files["output"].mkdir()
    files["gt"] = files["gt"].rename(files["output"] / name)
    before = files["gt"].read_bytes()
    assert f"{name}: is a source" in error_line(files, capsys) and files["gt"].read_bytes() == before


def test_confidence_out_of_range(files, capsys):
    assert "confidence 2.0 is not between 0 and 1" in error_line(files, capsys, "--confidence", "2")


def test_several_detectors_in_one_table(files, capsys):
    second = files["detections"].with_name("second.json")
    second.write_text(json.dumps(DETECTIONS[:1]))
    arguments = ["--gt", files["gt"], "--detections", files["detections"], second, "--names", "full", "half"]
    with pytest.raises(SystemExit) as stop:
        run_command(main, Config, [*map(str, arguments), "--output", str(files["output"])])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    full, half = (next(line for line in lines if line.startswith(name)) for name in ("full", "half"))
    assert full.split()[1] == "55.45" and half.split()[1] == "33.66"  # 34 / 101
    metrics = json.loads((files["output"] / "comparison.json").read_text())
    assert metrics["full"]["operating_point"]["precision"] == 0.5
    assert metrics["half"]["operating_point"]["precision"] == 1.0
    with (files["output"] / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["detector"] for row in rows] == ["full", "half"]
    assert [float(row["Pd"]) for row in rows] == pytest.approx([2 / 3, 1 / 3])
    assert [float(row["Pd_at_0.1_per_frame"]) for row in rows] == pytest.approx([1 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("names", "message"),
    [(["one"], "--names: 1 for 2 detection files"), (["a", "a"], "two detectors of one name"), ([], "of one name")],
)
def test_names_that_do_not_tell_apart(files, capsys, names: list[str], message: str):
    found = str(files["detections"])
    arguments = ["--gt", str(files["gt"]), "--detections", found, found]
    with pytest.raises(SystemExit) as stop:
        run_command(main, Config, [*arguments, *(["--names", *names] if names else [])])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_different_protocols_are_told(files, capsys):
    """Detections that lie beside the metrics.json of their run say how they were made."""
    paths = []
    for name, nms in (("one", 0.65), ("two", 0.5)):
        folder = files["gt"].parent / name
        folder.mkdir()
        paths.append(folder / "detections.json")
        paths[-1].write_text(json.dumps(DETECTIONS))
        (folder / "metrics.json").write_text(json.dumps({"protocol": {"weights": f"{name}.pth", "nms": nms}}))
    arguments = ["--gt", files["gt"], "--detections", *paths]
    with pytest.raises(SystemExit):
        run_command(main, Config, [str(word) for word in arguments])
    captured = capsys.readouterr()
    assert captured.err == "warning: not the same protocol: one/detections and two/detections: nms 0.65 and 0.5\n"
    with pytest.raises(SystemExit):
        run_command(main, Config, [str(word) for word in [*arguments[:-1], files["detections"]]])
    assert "how the detections of found were made is not recorded" in capsys.readouterr().err
    words = ["--gt", files["gt"], "--detections", files["detections"], *paths]  # the first of unknown protocol
    with pytest.raises(SystemExit):
        run_command(main, Config, [str(word) for word in words])
    assert "one/detections and two/detections: nms 0.65 and 0.5" in capsys.readouterr().err
    other = {"weights": "two.pth", "detections": str(paths[0])}  # a comparison that was written into two's folder
    paths[1].with_name("metrics.json").write_text(json.dumps({"protocol": other}))
    with pytest.raises(SystemExit):
        run_command(main, Config, [str(word) for word in arguments])
    assert "how the detections of two/detections were made is not recorded" in capsys.readouterr().err


@pytest.fixture
def own_run(files) -> Path:
    """The folder of a network's evaluation, without frames that have no target."""
    folder = files["gt"].parent / "run"
    folder.mkdir()
    (folder / "detections.json").write_text(json.dumps(DETECTIONS))
    protocol = {"weights": "w.pth", "nms": 0.65, "detected_empty_frames": False}
    (folder / "metrics.json").write_text(json.dumps({"protocol": protocol, "speed": {"fps_network": 7.0}}))
    return folder


def test_frames_that_were_not_looked_at_cannot_be_scored(files, own_run, capsys):
    files |= {"detections": own_run / "detections.json"}
    line = error_line(files, capsys, "--include-empty-frames")
    assert "frames without annotations were not looked at" in line and "--include-empty-frames" in line
    assert run(files) == 0


def test_a_run_scored_again_into_its_folder_keeps_protocol_and_speed(files, own_run, monkeypatch):
    monkeypatch.chdir(own_run)
    files |= {"detections": Path("detections.json"), "output": Path(".")}
    for _ in range(2):
        assert run(files) == 0
        metrics = json.loads((own_run / "metrics.json").read_text())
        assert metrics["protocol"]["weights"] == "w.pth" and metrics["speed"] == {"fps_network": 7.0}
        monkeypatch.chdir(own_run.parent)
        files |= {"detections": Path("run/detections.json"), "output": Path("run")}


def test_another_file_does_not_take_the_place_of_a_run(files, own_run, capsys):
    """Nor after the run was scored anew and its folder moved."""
    assert run(files | {"detections": own_run / "detections.json", "output": own_run}) == 0
    moved = own_run.rename(own_run.with_name("moved"))
    before = (moved / "metrics.json").read_bytes()
    files["output"] = moved
    assert "holds the evaluation of w.pth" in error_line(files, capsys)
    assert (moved / "metrics.json").read_bytes() == before
    files |= {"detections": moved / "detections.json"}
    assert "were not looked at" in error_line(files, capsys, "--include-empty-frames")


def test_detections_of_a_class_that_the_list_does_not_use(files):
    files["gt"] = files["gt"].with_suffix(".txt")
    files["gt"].write_text("seq/a/1.bmp 10,10,18,18,0\n")
    files["detections"].write_text(json.dumps([detection(1, 1, 10, 10, 8, 8, 0.9), detection(1, 3, 40, 40, 8, 8, 0.8)]))
    assert run(files) == 0
    metrics = json.loads((files["output"] / "metrics.json").read_text())
    assert metrics["categories"] == ["class 0", "class 1", "class 2"]
    assert metrics["published"]["mAP50"] == 1.0 and metrics["pd_fa"]["false_alarms_per_frame"] == 1.0


def test_names_of_files_that_are_no_text(files, capsys):
    paths = [files["gt"].parent / os.fsdecode(b"caf\xe9.json"), files["detections"]]
    paths[0].write_text(json.dumps(DETECTIONS))
    words = ["--gt", files["gt"], "--detections", *paths, "--output", files["output"]]
    with pytest.raises(SystemExit) as stop:
        run_command(main, Config, [str(word) for word in words])
    assert stop.value.code == 0 and "caf\\udce9" in capsys.readouterr().out
    assert "caf\\udce9" in (files["output"] / "comparison.csv").read_text()


@pytest.mark.skipif("SSTNET_DAUB_ROOT" not in os.environ, reason="SSTNET_DAUB_ROOT names no DAUB folder")
def test_record_of_the_published_protocol_on_daub(tmp_path):
    """Made-up detections for the DAUB test annotations, and what the published protocol makes of them."""
    found = tmp_path / "found.json"
    found.write_bytes(gzip.decompress((REFERENCE / "daub_test_detections.json.gz").read_bytes()))
    truth = Path(os.environ["SSTNET_DAUB_ROOT"], "annotations", "instances_test2017.json")
    assert run({"gt": truth, "detections": found, "output": tmp_path}) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    record = json.loads((REFERENCE / "daub_test_metrics.json").read_text())
    for name in ("AP", "AP50", "AP75", "AP_small", "AR100"):
        assert metrics["coco"][name] == pytest.approx(record[name], abs=1e-6)
    for name in ("precision", "recall", "f1"):
        assert metrics["published"][name] == pytest.approx(record[name], abs=1e-6)
    assert metrics["counts"] == {"frames": 4795, "targets": 4795, "detections": 5725}
