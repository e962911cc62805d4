"""What goes wrong in a user's first hour: each fault is one line that names the file and the remedy, status 2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import vid_map_coco
import vid_predict
from nets import SSTNet
from tests.training_cases import ROOT, flags, make_data, truncate
from train_DAUB import DAUBConfig
from train_IRDST import IRDSTConfig
from utils.checkpoint import save_weights
from utils.cli import run_command
from utils.trainer import train

COMMANDS = {
    "train_DAUB": (train, DAUBConfig),
    "train_IRDST": (train, IRDSTConfig),
    "vid_map_coco": (vid_map_coco.main, vid_map_coco.Config),
    "vid_predict": (vid_predict.main, vid_predict.Config),
}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("hostile") / "data")


@pytest.fixture
def own_data(data_root, tmp_path) -> Path:
    """A copy of the data set to break."""
    return Path(shutil.copytree(data_root, tmp_path / "own"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    save_weights(path, SSTNet(num_frames=3, num_slices=1, num_layers=1, width=0.125), ("target",), (64, 64))
    return path


@pytest.fixture
def fails(capsys, monkeypatch, tmp_path):
    """Run a command that must fail, in an empty folder; returns the text after `error: `."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *arguments: object) -> str:
        with pytest.raises(SystemExit) as stop:
            run_command(*COMMANDS[command], [*map(str, arguments), "--device", "cpu"])
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert error.startswith("error: ") and error.count("\n") == 1 and len(error) < 700
        assert "Traceback" not in error
        return error.removeprefix("error: ").rstrip("\n")

    return run


# Data


@pytest.mark.parametrize("command", ["train_DAUB", "train_IRDST", "vid_map_coco"])
def test_no_data_root(command, fails, weights, tmp_path):
    more = ["--weights", weights] if command == "vid_map_coco" else ["--classes", ROOT / "model_data/classes_DAUB.txt"]
    missing = tmp_path / "nowhere"
    error = fails(command, "--data-root", missing, *more)
    assert error == f"{missing}: no such folder; pass the folder of the data set with --data-root"


def test_data_root_without_annotations(fails, tmp_path):
    (tmp_path / "empty").mkdir()
    error = fails("train_DAUB", *flags(tmp_path / "empty", tmp_path / "run"))
    missing = tmp_path / "empty" / "annotations" / "instances_train2017.json"
    assert error == f"{missing}: no such file; pass the train list or COCO JSON with --train-list"


def test_list_that_points_nowhere(fails, own_data, tmp_path):
    lines = (own_data / "coco_train_DAUB.txt").read_text().replace("images/train/", "/home/authors/pictures/")
    (tmp_path / "list.txt").write_text(lines)
    error = fails("train_DAUB", *flags(own_data, tmp_path / "run", train_list=tmp_path / "list.txt"))
    assert error.startswith(f"{tmp_path / 'list.txt'}:1: 16 of 16 frames are missing, the first is /home/authors")
    assert "--data-root" in error and not (tmp_path / "run").exists()


def test_malformed_line_of_a_list(fails, own_data, weights, tmp_path):
    lines = (own_data / "coco_val_DAUB.txt").read_text().splitlines()
    lines[4] = lines[4].rsplit(",", 1)[0]  # a box of four numbers
    (own_data / "coco_val_DAUB.txt").write_text("\n".join(lines))
    where = own_data / "coco_val_DAUB.txt"
    error = fails("train_DAUB", *flags(own_data, tmp_path / "run", val_list=where))
    assert error.startswith(f"{where}:5: malformed box") and "expected five whole numbers" in error
    assert fails("vid_map_coco", "--weights", weights, "--data-root", own_data, "--annotations", where) == error


@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_frame_in_training(workers, fails, own_data, tmp_path):
    frame = truncate(own_data / "images" / "train" / "data1" / "3.bmp", 2000)
    error = fails("train_DAUB", *flags(own_data, tmp_path / "run", workers=workers))
    assert error.startswith(f"{frame}: truncated or broken image")
    assert error.endswith("; replace the file by a whole copy")
    assert not list(tmp_path.glob("run/*.pth"))


def test_truncated_frame_in_evaluation(fails, own_data, weights, tmp_path):
    frame = truncate(own_data / "images" / "test" / "data3" / "3.bmp", 2000)
    error = fails("vid_map_coco", "--weights", weights, "--data-root", own_data, "--output", tmp_path / "out")
    assert error.startswith(f"{frame}: truncated or broken image") and "replace the file" in error


def test_truncated_frame_in_prediction(fails, own_data, weights, tmp_path):
    frame = truncate(own_data / "images" / "test" / "data3" / "3.bmp", 2000)
    error = fails("vid_predict", "--weights", weights, "--source", frame.parent, "--output", tmp_path / "out")
    assert error.startswith(f"{frame}: ") and "replace the file" in error


def test_frame_cut_off_in_its_header_is_found_before_training(fails, own_data, tmp_path):
    frame = truncate(own_data / "images" / "train" / "data2" / "0.bmp", 10)
    lists = {"train_list": own_data / "coco_train_DAUB.txt"}
    error = fails("train_DAUB", *flags(own_data, tmp_path / "run", **lists))
    assert error.startswith(f"{own_data / 'coco_train_DAUB.txt'}:9: {frame}: truncated or broken image")
    assert not (tmp_path / "run").exists()


def test_other_number_of_classes(fails, own_data, tmp_path):
    (tmp_path / "classes.txt").write_text("drone\nplane\n")
    error = fails("train_DAUB", *flags(own_data, tmp_path / "run", classes=tmp_path / "classes.txt"))
    assert error.startswith(f"{own_data / 'annotations' / 'instances_train2017.json'}: 1 categories, but ")
    assert f"{tmp_path / 'classes.txt'} names 2 classes" in error and "--classes" in error


def test_class_out_of_range(fails, own_data, tmp_path):
    where = own_data / "coco_train_DAUB.txt"
    lines = where.read_text().splitlines()
    number = next(n for n, line in enumerate(lines) if line.endswith(",0"))  # the first with a box
    lines[number] = lines[number][:-1] + "1"
    where.write_text("\n".join(lines))
    error = fails("train_DAUB", *flags(own_data, tmp_path / "run", train_list=where))
    assert error.startswith(f"{where}:{number + 1}: box ") and "has class 1; expected 0 to 0" in error


def test_empty_list(fails, own_data, tmp_path):
    (tmp_path / "list.txt").touch()
    error = fails("train_DAUB", *flags(own_data, tmp_path / "run", train_list=tmp_path / "list.txt"))
    assert error.startswith(f"{tmp_path / 'list.txt'}: the list is empty; expected one `path x1,y1,x2,y2,class ...`")


def test_too_few_clips_for_a_batch(fails, own_data, tmp_path):
    error = fails("train_DAUB", *flags(own_data, tmp_path / "run", batch_size=32))
    assert error.startswith(f"{own_data / 'annotations' / 'instances_train2017.json'}: 16 clips")
    assert "lower --batch-size or raise --epoch-share" in error


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "cannot be read"), (b"", "no class name in it"), (b"\xff\xfe", "not a text file")]
)
def test_class_file(content, reason, fails, data_root, tmp_path):
    if content is not None:
        (tmp_path / "classes.txt").write_bytes(content)
    error = fails("train_DAUB", *flags(data_root, tmp_path / "run", classes=tmp_path / "classes.txt"))
    assert error.startswith(f"{tmp_path / 'classes.txt'}: {reason}")


# Weights


def other_weights(kind: str, path: Path) -> Path:
    """A file that is not SSTNet's weights."""
    if kind == "missing":
        return path
    if kind == "another network":
        torch.save({"model": torch.nn.Conv2d(3, 8, 3).state_dict()}, path)
    elif kind == "another width":
        save_weights(path, SSTNet(num_frames=3, num_slices=1, num_layers=1, width=0.125), ("target",), (64, 64))
        content = torch.load(path, weights_only=True)
        torch.save({**content, "architecture": {**content["architecture"], "width": 0.25}}, path)
    elif kind == "not finite":
        model = SSTNet(num_frames=3, num_slices=1, num_layers=1, width=0.125)
        model.head.stems[0].bn.bias.data[0] = float("nan")
        save_weights(path, model, ("target",), (64, 64))
    elif kind == "a pickle that runs code":
        torch.save({"model": {"w": torch.zeros(1)}, "run": os.getcwd}, path)
    elif kind == "truncated":
        save_weights(path, SSTNet(num_frames=3, num_slices=1, num_layers=1, width=0.125), ("target",), (64, 64))
        truncate(path, 100_000)
    else:
        path.write_bytes({"a table": b"epoch,lr\n0,0.1\n", "empty": b"", "a picture": b"BM" + bytes(2000)}[kind])
    return path


WEIGHT_FAULTS = (
    "missing", "another network", "another width", "a pickle that runs code", "truncated", "empty", "a picture",
    "a table",
)  # fmt: skip


@pytest.mark.parametrize("kind", WEIGHT_FAULTS)
def test_weights_that_do_not_fit(kind, fails, data_root, tmp_path):
    path = other_weights(kind, tmp_path / "weights.pth")
    source = data_root / "images" / "test" / "data3"
    errors = [
        fails("vid_map_coco", "--weights", path, "--data-root", data_root, "--output", tmp_path / "out"),
        fails("vid_predict", "--weights", path, "--source", source, "--output", tmp_path / "out"),
    ]
    for error in errors:
        assert error.startswith(f"{path}: ")
        if kind.startswith("another"):
            assert error.startswith(f"{path}: weights of another network")


@pytest.mark.parametrize("kind", [*(kind for kind in WEIGHT_FAULTS if kind != "another width"), "not finite"])
def test_pretrained_weights_that_do_not_fit(kind, fails, data_root, tmp_path):
    path = other_weights(kind, tmp_path / "weights.pth")
    error = fails("train_DAUB", *flags(data_root, tmp_path / "run", pretrained=path))
    assert error.startswith(f"{path}: ")
    if kind == "missing":
        assert error == f"{path}: no such file; --pretrained takes a weight file (.pth)"
    if kind == "another network":
        assert error.startswith(f"{path}: weights of another network, no kernel of the detector fits (")
    if kind == "not finite":
        assert "values that are not finite, the first in head.stems.0.bn.bias" in error


def test_pretrained_weights_of_another_width(fails, data_root, tmp_path):
    """BatchNorm's counters and the motion branch's nodes fit, of whatever width."""
    path = tmp_path / "wide.pth"
    save_weights(path, SSTNet(num_frames=3, num_slices=1, num_layers=1, width=0.25), ("target",), (64, 64))
    error = fails("train_DAUB", *flags(data_root, tmp_path / "run", pretrained=path))
    assert error.startswith(f"{path}: weights of another network, no kernel of the detector fits (")
    assert "0 tensors loaded" not in error


def test_damaged_checkpoint_of_a_run(fails, data_root, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pth").write_bytes(b"PK\x03\x04 and then nothing")
    error = fails("train_DAUB", *flags(data_root, tmp_path / "run", resume=True))
    assert error.startswith(f"{tmp_path / 'run' / 'last.pth'}: ")


def test_weights_put_in_place_of_a_checkpoint(fails, data_root, weights, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(weights, tmp_path / "run" / "last.pth")
    error = fails("train_DAUB", *flags(data_root, tmp_path / "run", resume=True))
    assert error.startswith(f"{tmp_path / 'run' / 'last.pth'}: weights without a run's state; pass another --run-dir")


# Sources of a prediction


@pytest.mark.parametrize("name", ["missing.mp4", "missing_folder/", "notes.txt", "film.mp4", "*.png", "empty"])
def test_source_that_is_not_one(name, fails, weights, tmp_path):
    folder = tmp_path / "sources"
    (folder / "empty").mkdir(parents=True)
    (folder / "notes.txt").write_text("no frames here\n")
    (folder / "film.mp4").write_bytes(np.random.default_rng(0).bytes(3000))
    source = f"{folder}/{name}"
    error = fails("vid_predict", "--weights", weights, "--source", source, "--output", tmp_path / "out")
    assert error.startswith(source.rstrip("/")) and ("; " in error or "expected" in error)
    assert not list(tmp_path.glob("out/*"))


def test_two_sizes_in_one_folder(fails, own_data, weights, tmp_path):
    folder = own_data / "images" / "test" / "data3"
    cv2.imwrite(str(folder / "5.bmp"), np.zeros((80, 64), np.uint8))
    assert "64 x 80" in fails("vid_predict", "--weights", weights, "--source", folder, "--output", tmp_path / "out")
    error = fails("train_DAUB", *flags(own_data, tmp_path / "run", epochs=1))
    assert "image id 6: says 64 x 64 pixels" in error and f"{folder / '5.bmp'} has 64 x 80" in error


# Settings and folders


@pytest.mark.parametrize("command", ["train_DAUB", "train_IRDST", "vid_map_coco", "vid_predict"])
def test_input_size_that_is_no_multiple_of_32(command, fails, data_root, weights, tmp_path):
    arguments = {
        "vid_map_coco": ["--weights", weights, "--data-root", data_root],
        "vid_predict": ["--weights", weights, "--source", data_root / "images" / "test" / "data3"],
    }
    error = fails(command, *arguments.get(command, []), "--input-size", 500, 500)
    assert "input" in error and "500" in error and "both sides must be multiples of 32" in error


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_flag(command, fails):
    needed = ["--weights", "w.pth", "--source", "s"] if command == "vid_predict" else []
    error = fails(command, *needed, "--bogus", 3)
    assert error.startswith("Unrecognized options: --bogus, 3; ") and error.endswith("--help lists all flags")


@pytest.mark.parametrize("command", ["train_DAUB", "train_IRDST"])
def test_value_that_is_no_number(command, fails):
    error = fails(command, "--epochs", "many")
    assert error.startswith("Error parsing --epochs: ") and "'many'" in error


@pytest.mark.parametrize("name", ["tpu9", "cuda:99", "meta", "gpu"])
def test_unknown_device(name, capsys, data_root, weights, tmp_path):
    source = data_root / "images" / "test" / "data3"
    for command, arguments in (
        ("train_DAUB", flags(data_root, tmp_path / "run", device=name)),
        ("vid_map_coco", ["--weights", weights, "--data-root", data_root, "--output", tmp_path, "--device", name]),
        ("vid_predict", ["--weights", weights, "--source", source, "--output", tmp_path, "--device", name]),
    ):
        with pytest.raises(SystemExit) as stop:
            run_command(*COMMANDS[command], [*map(str, arguments)])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.startswith(f"error: --device {name}: ") and error.count("\n") == 1
        assert "use auto" in error


def test_folder_that_holds_a_run(fails, data_root, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pth").write_bytes(b"of an earlier run")
    error = fails("train_DAUB", *flags(data_root, tmp_path / "run"))
    assert error == f"{tmp_path / 'run'}: holds a run already; go on with --resume, or pass another --run-dir"
    assert (tmp_path / "run" / "last.pth").read_bytes() == b"of an earlier run"


def test_output_below_a_file(fails, data_root, weights, tmp_path):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "out"
    error = fails("train_DAUB", *flags(data_root, below))
    assert error.startswith(f"{below}: cannot be written") and error.endswith("pass another --run-dir")
    error = fails("vid_map_coco", "--weights", weights, "--data-root", data_root, "--output", below)
    assert error.startswith(f"{below}: ") and "--output" in error
    source = data_root / "images" / "test" / "data3"
    error = fails("vid_predict", "--weights", weights, "--source", source, "--output", below)
    assert str(below) in error and "--output" in error


# In a process of its own, as a user's shell runs it


@pytest.mark.parametrize("script", ["train_DAUB.py", "vid_map_coco.py"])
def test_errors_in_a_process(script, own_data, weights, tmp_path):
    folder, place = ("train", "data1") if script.startswith("train") else ("test", "data3")
    frame = truncate(own_data / "images" / folder / place / "3.bmp", 2000)
    arguments = {
        "train_DAUB.py": flags(own_data, tmp_path / "run", workers=1),
        "vid_map_coco.py": ["--weights", weights, "--data-root", own_data, "--output", tmp_path / "out"],
    }[script]
    command = [sys.executable, str(ROOT / script), *map(str, arguments), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stdout
    assert done.stderr.startswith(f"error: {frame}: truncated or broken image") and done.stderr.count("\n") == 1
