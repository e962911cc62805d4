"""The study: its commands run, its rows are resumed and not repeated, its tables say what the files say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.results import RESULTS, fill
from benchmarks.study import ROWS, SUITES, Config, main
from benchmarks.study_tables import LABELS, read_rows, row_table, study_tables
from tests.training_cases import run
from train_DAUB import DAUBConfig
from utils.cli import UserError, parse_config

PAGE = Path(__file__).resolve().parents[1] / "docs" / "study.md"


def test_committed_page_says_what_the_result_files_say():
    page = PAGE.read_text(encoding="utf-8")
    assert fill(page, study_tables(RESULTS / "study"), "the page") == page


def test_every_row_has_a_label_and_settings_that_are_its_own():
    assert [row.name for row in ROWS] == list(LABELS)
    settings = {}
    for row in ROWS:
        config = parse_config(DAUBConfig, f"{SUITES['hard'].training} {row.flags}".split())
        clip = (config.num_frames, config.frame_interval)
        settings[(*clip, config.motion_weight, config.slices_layers, config.gate, row.tested)] = row.name
    assert len(settings) == len(ROWS)
    assert settings[(5, 1, 1.0, (3, 2), True, "")] == "stack_3x2"
    assert settings[(5, 1, 0.0, (0, 0), True, "")] == "motion_0"
    assert settings[(5, 1, 1.0, (1, 1), False, "")] == "no_gate"
    assert settings[(7, 1, 1.0, (1, 1), True, "")] == "frames_7"
    assert settings[(5, 2, 1.0, (1, 1), True, "")] == "interval_2"


@pytest.fixture
def study(tmp_path, capsys):
    """Run the study in its quick form, in a folder of its own."""
    shutil.copy(PAGE, tmp_path / "study.md")
    places = {"work": tmp_path / "work", "results": tmp_path / "results", "page": tmp_path / "study.md"}
    flags = [word for name, path in places.items() for word in (f"--{name}", str(path))]

    def command(*more: str) -> tuple[int, str, str]:
        return run(capsys, ["--quick", "--device", "cpu", "--seeds", "1", *flags, *more], Config, main)

    return command


def test_rows_are_run_once_and_make_the_table(study, tmp_path):
    rows = ("--rows", "base", "key_frame", "no_gate")
    status, out, _ = study("--list", *rows)
    assert status == 0 and out.count("python train_DAUB.py") == 3 and not (tmp_path / "results").exists()
    assert "--no-gate" in out and "--seed 1" in out and "--repeat-key-frame" in out

    status, out, error = study(*rows)
    assert status == 0, error
    results = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results" / "hard").iterdir()}
    assert sorted(results) == ["base_seed1", "key_frame_seed1", "no_gate_seed1"]
    assert results["key_frame_seed1"]["protocol"]["repeat_key_frame"]
    assert results["no_gate_seed1"]["training"].endswith("--no-gate")
    assert all(result["seed"] == 1 and result["counts"]["frames"] > 0 for result in results.values())
    assert str(tmp_path) not in json.dumps(results)
    page = (tmp_path / "study.md").read_text()
    assert "| T = 3 | 0 | not run yet |" in page and f"| {LABELS['base']} | 1 | " in page

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.pth")}
    status, out, _ = study(*rows)
    assert status == 0 and "train_DAUB" not in out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.pth")} == before

    status, out, error = study(*rows[:2], "--recalibrated")
    assert status == 0 and "python -m utils.recalibrate" in out, error
    (found,) = (tmp_path / "results" / "hard_recalibrated").iterdir()
    assert found.name == "base_seed1.json" and "finished already" in out

    other = tmp_path / "results" / "hard" / "base_seed1.json"
    other.write_text(json.dumps(results["base_seed1"] | {"training": "--epochs 99"}))
    status, _, error = study(*rows)
    assert status == 2 and f"{other}: made with other settings (--epochs 99); remove it" in error
    other.write_text(json.dumps(results["base_seed1"] | {"training_frames": 1396}))
    status, _, error = study(*rows)
    assert status == 2 and f"{other}: of 1396 training frames, and" in error and "--results" in error


def result(seed: int, score: float, data: str = "a") -> dict:
    return {
        "seed": seed, "data": data, "training_frames": 20, "counts": {"frames": 10, "targets": 10}, 
        "published": {"mAP50": score}, "intervals": {"mAP50": [score - 0.1, score + 0.1]}, "per_scr": [
            {"least": 2.0, "below": 3.0, "targets": 5, "recall": 0.5, "pd": score / 2},
            {"least": 8.0, "below": None, "targets": 5, "recall": 0.5, "pd": score},
        ],
        "per_sequence": {"one": {"mAP50": score}},
    }  # fmt: skip


def write_rows(folder: Path, rows: dict[str, tuple[float, ...]]) -> None:
    folder.mkdir(exist_ok=True)
    for name, scores in rows.items():
        for seed, score in enumerate(scores, start=1):
            (folder / f"{name}_seed{seed}.json").write_text(json.dumps(result(seed, score)))


def test_what_a_table_says_of_seeds(tmp_path):
    write_rows(tmp_path, {
        "base": (0.5, 0.6, 0.7), "frames_3": (0.4, 0.5, 0.69), "frames_7": (0.6, 0.7, 0.8), "no_gate": (0.4, 0.7, 0.7),
        "motion_0": (0.9,),
    })  # fmt: skip
    lines = {line.split(" | ")[0].strip("| "): line for line in row_table(read_rows(tmp_path), "contrast").splitlines()}
    assert lines[LABELS["base"]].endswith("| 3 | 60.0 | 50.0 to 70.0 | 50.0 to 70.0 |  |  | 30.0 | 60.0 |")
    assert " | -7.0 (-10.0 to -1.0) | worse | " in lines["T = 3"]
    assert " | +10.0 (+10.0 to +10.0) | better | " in lines["T = 7"]
    assert " | +0.0 (-10.0 to +10.0) | nothing | " in lines["neck without gate"]
    assert " | +40.0 (+40.0 to +40.0) | too few seeds | " in lines["no motion term"]
    assert "Pd, SCR 2 to 3 | Pd, SCR 8 or more |" in next(iter(lines.values()))  # the head
    assert "| one |" in row_table(read_rows(tmp_path), "sequence").splitlines()[0]


def test_results_on_different_data_make_no_table(tmp_path):
    write_rows(tmp_path, {"base": (0.5, 0.5)})
    (tmp_path / "no_gate_seed1.json").write_text(json.dumps(result(1, 0.5, data="b")))
    with pytest.raises(UserError, match="results on different data"):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows", "frames_9"], "--rows frames_9: no such row; there are base key_frame"),
        (["--seeds", "1", "1"], "--seeds: give one seed or more, each once"),
        (["--quick"], "--quick: measures nothing"),
    ],
)
def test_studies_that_cannot_be(flags, message, capsys):
    status, _, error = run(capsys, flags, Config, main)
    assert status == 2 and message in error and error.count("\n") == 1
