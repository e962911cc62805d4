"""The check of a data set: every fault in one run, no false alarm, and what training says of its data."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.damaged_data import JSON_LINES, LIST_LINES, make_damaged_data, moving_frames, save_sequence
from tests.training_cases import small_config
from utils.annotations import write_list
from utils.check_data import Config, check, main
from utils.cli import UserError
from utils.frame_order import FEWEST, RunJudge, distances, judge, thumbnail, windows
from utils.synthetic_dataset import write_dataset
from utils.synthetic_presets import PRESETS
from utils.trainer import train

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    root = tmp_path_factory.mktemp("damaged")
    train_list, val_list = make_damaged_data(root)
    lists = ["--data-root", root, "--train-list", train_list, "--val-list", val_list]
    settings = ["--num-classes", "1", "--decode", "--workers", "2", "--output", root / "out"]
    command = [sys.executable, "-m", "utils.check_data", *lists, *settings]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return root, run


def test_every_fault_has_its_line_in_one_run(damaged):
    root, run = damaged
    said = run.stdout.splitlines()
    expected = [
        (f"{root / 'train.txt'}:{number}: ", text) for number, (_, text) in enumerate(LIST_LINES, start=1) if text
    ] + [(f"{root / 'val.json'}: ", text) for text in JSON_LINES]
    assert len(expected) > 50
    lines = {}
    for where, text in expected:  # what is a sequence's fault is said of the line where it begins
        found = [line for line in said if line.partition(": ")[2].startswith(where) and text in line]
        assert len(found) == 1, (where, text, found)
        lines[found[0]] = text
    assert len(lines) == len(expected)
    assert run.returncode == 1
    assert "Traceback" not in run.stdout + run.stderr


def test_nothing_else_is_an_error(damaged):
    """Every error is one of the faults that were made."""
    texts = [text for _, text in LIST_LINES if text] + JSON_LINES
    errors = [line for line in damaged[1].stdout.splitlines() if line.startswith("error: ")]
    unexpected = [line for line in errors if not any(text in line for text in texts)]
    assert unexpected == []


def test_nothing_is_written_among_frames(tmp_path):
    save_sequence(tmp_path / "a", moving_frames(0, 12))
    write_list(tmp_path / "list.txt", [(f"a/{n}.bmp", []) for n in range(12)])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="a: holds frames"):
        main(Config(tmp_path, tmp_path / "list.txt", workers=1, output=tmp_path / "a"))
    assert sorted(tmp_path.rglob("*")) == before


def test_report_and_picture_are_written(damaged):
    root, run = damaged
    assert (root / "out" / "report.txt").read_text().startswith("error: ")
    with Image.open(root / "out" / "summary.png") as picture:
        assert picture.width > 600
    assert f"train ({root / 'train.txt'})" in run.stdout


def test_sound_sets_of_every_preset_raise_no_alarm(tmp_path, capsys):
    for name, model in PRESETS.items():
        write_dataset(tmp_path / name, model, seed=1, sequences=(2, 1), frames=24, frame_size=(64, 80))
        report = check(Config(data_root=tmp_path / name, decode=True, workers=1))
        assert report.errors == []
        assert not [line for line in report.warnings if "no box" not in line]
        told = [order.smoothness for split in report.splits for order in split.orders]
        assert len(told) == 3
        assert min(told) > 0.5


def test_exit_status_is_zero_with_warnings_alone(tmp_path, capsys):
    save_sequence(tmp_path / "images" / "1", moving_frames(1)[:4])
    save_sequence(tmp_path / "images" / "1", moving_frames(1)[10:14], start=10)
    write_list(tmp_path / "list.txt", [(f"images/1/{k}.bmp", []) for k in (0, 1, 2, 3, 10, 11, 12, 13)])
    config = Config(tmp_path, tmp_path / "list.txt", workers=1, output=tmp_path / "out")
    assert main(config) == 0
    said = capsys.readouterr().out
    assert "warning: " in said and "jump" in said and "8 frames have no box" in said and "0 errors, 2 warnings" in said


def test_a_sequence_named_like_a_formula(tmp_path, capsys):
    """Matplotlib takes what stands between $ signs for one."""
    for split, name in (("train", "x$^$y"), ("val", "z")):
        folder = tmp_path / "images" / name
        save_sequence(folder, moving_frames(1, 5))
        lines = [f"images/{name}/{path.name} 8,8,16,16,0" for path in sorted(folder.iterdir())]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines) + "\n")
    config = Config(tmp_path, tmp_path / "train.txt", tmp_path / "val.txt", output=tmp_path / "out")
    main(config)
    assert (tmp_path / "out" / "summary.png").is_file() and "x$^$y" in (tmp_path / "out" / "report.txt").read_text()


def test_annotation_files_alone(tmp_path):
    write_list(tmp_path / "list.txt", [("/home/public/D/images/1/0.bmp", [(1, 2, 9, 9, 0)])])
    report = check(Config(tmp_path, tmp_path / "list.txt", files=False))
    assert (report.errors, report.warnings) == ([], [])
    assert len(check(Config(tmp_path, tmp_path / "list.txt", workers=1)).errors) == 1


@pytest.mark.parametrize("seed", range(4))
def test_order_of_frames(seed):
    frames = [thumbnail(frame) for frame in moving_frames(seed)]
    matrix = distances(frames)
    order = np.random.default_rng(seed).permutation(len(frames))
    assert judge(matrix).smoothness > 0.95
    assert judge(matrix[order][:, order]).shuffled
    assert not judge(matrix[::-1, ::-1]).shuffled  # time reversed looks the same


def test_order_cannot_be_told_of_noise_alone_or_of_few_frames():
    rng = np.random.default_rng(0)
    noise = [thumbnail(rng.normal(128, 5, (64, 64)).round().astype(np.uint8)) for _ in range(24)]
    assert judge(distances(noise)).smoothness is None
    assert judge(distances(noise[: FEWEST - 1])).smoothness is None
    assert judge(np.zeros((24, 24))).smoothness is None  # the same frame again and again


def test_windows_cover_a_run():
    assert windows(30, every=False) == [range(30)]
    assert {k for window in windows(500, every=True) for k in window} == set(range(500))
    assert [window[0] for window in windows(500, every=False)] == [0, 226, 452]


def test_a_long_run_is_judged_window_by_window():
    frames = moving_frames(0, 120)
    places = windows(len(frames), every=True)
    thumbnails = [thumbnail(frame) for frame in frames]
    expected = [judge(distances([thumbnails[k] for k in window])).smoothness for window in places]
    run = RunJudge(places)
    for place, frame in enumerate(frames):
        run.add(place, frame)
    assert run.order().smoothness == pytest.approx(np.median(expected)) and run.order().frames == 120
    mixed = RunJudge(places)
    for place, k in enumerate(np.random.default_rng(0).permutation(120)):
        mixed.add(place, frames[k])
    assert mixed.order().shuffled
    mixed.add(120, frames[0][1:])  # of another size
    assert mixed.order() is None and RunJudge(places).order() is None


def test_training_says_what_to_know_of_its_data(tmp_path, capsys):
    write_dataset(tmp_path / "data", PRESETS["easy"], seed=3, sequences=(2, 1), frames=8, frame_size=(64, 64))
    config = small_config(tmp_path / "data", tmp_path / "run", epochs=1, check_data=True)
    assert train(config) == 0 and config.data_check.decode  # every frame, however long its sequence
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "run_data" / "summary.png").is_file()
    listed = tmp_path / "data" / "coco_train_DAUB.txt"
    train(small_config(tmp_path / "data", tmp_path / "run", epochs=1, val_list=listed))
    assert "warning: 2 sequences are in both splits" in capsys.readouterr().err
