"""Command lines: what a user reads after --help, after a typing error and after a failure."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from tests.training_cases import ROOT
from train_DAUB import DAUBConfig
from train_IRDST import IRDSTConfig
from utils.cli import MAX_ERROR_LENGTH, Several, Unset, UserError, parse_config, run_command
from utils.config import TrainConfig
from utils.trainer import train

# Those that scripts of users rely on and that exist so far.
TRAIN_FLAGS = (
    "data-root", "train-list", "val-list", "run-dir", "preset", "num-frames", "num-slices", "num-layers", "depth",
    "width", "input-size", "epochs", "batch-size", "optimizer", "lr", "seed", "workers", "device", "pretrained",
    "resume", "amp", "channels-last",
)  # fmt: skip


@dataclass
class Settings:
    """Does a thing."""

    source: str
    """What to read."""
    epochs: int = 3
    """How long."""
    size: tuple[int, int] = (64, 64)
    """Height and width."""
    kind: Literal["plain", "fancy"] = "plain"
    """Which way, in a text that is so long that it has to be wrapped in a box of eighty characters, and once more."""


def run(main, capsys, *arguments: str, config_type: type = Settings) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stop:
        run_command(main, config_type, list(arguments))
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "culprit"),  # the rest of the words is tyro's, other ones in each of its versions
    [
        (["--source", "a", "--epochs", "many"], "--epochs"),
        (["--source", "a", "--epoks", "3"], "--epoks"),
        (["--source", "a", "stray"], "stray"),
        (["--source", "a", "--kind", "x"], "--kind"),
        (["--source", "a", "--size", "5"], "--size"),
        ([], "--source"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])  # tyro draws its boxes with other characters
def test_bad_command_line_is_one_readable_line(arguments, culprit, encoding, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/do_it.py"])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    status, _, error = run(print, capsys, *arguments)
    assert status == 2 and sys.stdout.buffer.getvalue() == b""
    assert error.startswith("error: ") and culprit in error and error.count("\n") == 1
    assert error.endswith("; do_it.py --help lists all flags\n") and error.count("--help") == 1
    assert not set("│─╭╮╰╯") & set(error) and "---" not in error and "How long" not in error and len(error) < 250


def test_similar_flags_are_named_without_their_help(capsys):
    status, _, error = run(train, capsys, "--pretraned", "x", config_type=DAUBConfig)
    assert status == 2 and "--pretrained" in error and "Weight file" not in error
    assert error.count("\n") == 1


def test_run_reads_flags_and_ends_with_the_status_of_main(capsys):
    seen = []
    status, _, error = run(lambda settings: seen.append(settings), capsys, "--source", "a b", "--size", "32", "96")
    assert (status, error) == (0, "") and seen == [Settings("a b", size=(32, 96))]
    assert run(lambda settings: settings.epochs, capsys, "--source", "a")[0] == 3


def test_user_error_is_one_line_after_what_was_printed(capsys):
    def main(_: Settings) -> None:
        print("read 3 files")
        raise UserError("a.txt:3: wrong\n  number;   write 5")

    assert run(main, capsys, "--source", "a") == (2, "read 3 files\n", "error: a.txt:3: wrong number; write 5\n")


def test_long_error_keeps_its_file_and_its_remedy(capsys):
    def main(_: Settings) -> None:
        raise UserError("list.txt:3: " + "x, " * 5000 + "; pass --data-root")

    _, _, error = run(main, capsys, "--source", "a")
    assert len(error) <= MAX_ERROR_LENGTH + len("error: \n")
    assert error.startswith("error: list.txt:3: x,") and " ... " in error and error.endswith("; pass --data-root\n")


def test_keyboard_interrupt_is_no_traceback(capsys):
    def main(_: Settings) -> None:
        raise KeyboardInterrupt

    assert run(main, capsys, "--source", "a") == (130, "", "stopped by the keyboard\n")


def test_memory_that_is_short_is_one_line(capsys):
    def main(_: Settings) -> None:
        np.zeros(2**62, np.uint8)

    status, _, error = run(main, capsys, "--source", "a")
    assert status == 2 and error.startswith("error: out of memory (Unable to allocate") and error.count("\n") == 1

    def on_a_gpu(_: Settings) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")

    assert run(on_a_gpu, capsys, "--source", "a")[2].startswith("error: out of memory (CUDA out of memory. Tried")


def test_a_place_that_is_closed_is_one_line(capsys):
    def main(_: Settings) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "closed/folder")

    status, _, error = run(main, capsys, "--source", "a")
    assert status == 2 and error.startswith("error: closed/folder: Permission denied; check") and error.count("\n") == 1


def test_faults_of_the_program_keep_their_traceback():
    def main(_: Settings) -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run_command(main, Settings, ["--source", "a"])


@pytest.mark.parametrize("config_type", [DAUBConfig, IRDSTConfig])
def test_help_of_the_training_lists_every_flag(config_type, capsys):
    status, out, error = run(train, capsys, "--help", config_type=config_type)
    assert status == 0 and error == ""
    for flag in TRAIN_FLAGS:
        assert f"--{flag}" in out
    for value in ("{cross-slice,released}", "{sgd,adam,adamw}"):
        assert value in out
    assert f"datasets/{config_type.__name__.removesuffix('Config')}" in out


def test_every_setting_has_a_help_text(capsys):
    _, out, _ = run(train, capsys, "--help", config_type=DAUBConfig)
    words = " ".join(out.replace("│", " ").split())
    for field in fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        text = re.split(rf"{flag}(?: |, --no-\S+ )", words, maxsplit=1)[1].split(" --")[0]
        assert len(text.split("(default")[0].split()) >= 4, flag


@dataclass
class Optional:
    """Flags whose texts say what stands for nothing."""

    rate: Unset[float] = None
    """Frames a second (default: the source's)."""
    names: Several[str] = ()
    """Names to show (default: the files')."""
    size: int = 3
    """Of a box."""


def test_a_flag_that_may_be_left_out_says_what_then(capsys):
    with pytest.raises(SystemExit):
        parse_config(Optional, ["--help"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(default: 3)" in out and "(default: the source's)" in out
    assert "(default: None)" not in out and "(default: )" not in out
    assert parse_config(Optional, []) == Optional()
    assert parse_config(Optional, ["--rate", "2", "--names", "a", "b"]) == Optional(2.0, ("a", "b"))


def test_the_two_trainings_differ_in_three_defaults():
    daub, irdst = DAUBConfig(), IRDSTConfig()
    differing = {field.name for field in fields(TrainConfig) if getattr(daub, field.name) != getattr(irdst, field.name)}
    assert differing == {"data_root", "classes", "run_dir"}
    assert {f.name for f in fields(DAUBConfig)} == {f.name for f in fields(IRDSTConfig)}
    assert (ROOT / daub.classes).is_file() and (ROOT / irdst.classes).is_file()
    methods = {name for cls in (DAUBConfig, IRDSTConfig) for name, value in vars(cls).items() if callable(value)}
    assert all(name.startswith("__") for name in methods)  # what dataclass makes


def test_recipe_is_the_default():
    config = DAUBConfig()
    recipe = {
        "input_size": (512, 512), "num_frames": 5, "frame_interval": 1, "batch_size": 4, "optimizer": "sgd",
        "schedule": "cosine", "epochs": 100, "epoch_share": 0.2, "init": "release", "seed": 2023, "iou_loss": "iou",
        "best_by": "loss",
        "depth": 0.33, "width": 0.5, "crop": 0, "flip": False, "photometric": 0.0, "amp": "off",
    }  # fmt: skip
    assert {name: getattr(config, name) for name in recipe} == recipe
    assert config.nominal_lr == 1e-2 and config.slices_layers == (2, 2)
    assert str(config.annotations("train")) == "datasets/DAUB/annotations/instances_train2017.json"
    assert str(config.annotations("val")) == "datasets/DAUB/annotations/instances_test2017.json"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input-size", "500", "500"], "--input-size 500 500: both sides must be multiples of 32, such as 512 512"),
        (["--input-size", "0", "64"], "--input-size 0 64"),
        (["--epochs", "0"], "--epochs 0: must be 1 or more"),
        (["--batch-size", "-1"], "--batch-size -1: must be 1 or more"),
        (["--batch-size", "1", "--crop", "32"], "--batch-size 1"),
        (["--num-frames", "1"], "--num-frames 1: a clip needs 2 frames"),
        (["--frame-interval", "0"], "--frame-interval 0: must be 1 or more"),
        (["--num-slices", "0"], "must be 1 or more"),
        (["--epoch-share", "1.5"], "--epoch-share 1.5"),
        (["--epoch-share", "nan"], "--epoch-share nan"),
        (["--lr", "0"], "--lr 0.0: must be above 0"),
        (["--motion-weight", "0", "--num-slices", "2"], "--num-slices and --num-layers are of the motion branch"),
        (["--motion-weight", "0", "--recompute", "motion"], "--recompute motion: --motion-weight 0 leaves no motion"),
        (["--target-share", "0.5"], "--target-share is for --crop"),
        (["--cache", "off", "--cache-mb", "5"], "--cache-mb is for --cache ram"),
        (["--cache-dir", "kept"], "--cache-dir is for --cache disk"),
        (["--preset", "released", "--attention-dropout", "0.2"], "--attention-dropout: one node has no attention"),
        (["--lr-bounds", "1e-3", "1e-4"], "--lr-bounds: the least rate must be above 0"),
        (["--crop", "50"], "--crop 50: must be a multiple of 32"),
        (["--photometric", "1"], "--photometric 1.0"),
        (["--workers", "-2"], "--workers -2: must not be negative"),
        (["--width", "0.001"], "--width 0.001"),
        (["--depth", "0"], "--depth 0.0"),
        (["--attention-dropout", "1"], "--attention-dropout 1.0"),
        (["--seed", "4294967296"], "--seed 4294967296: must be below 2^32"),
        (["--preset", "huge"], "'huge'"),
    ],
)
def test_settings_out_of_range_are_named(arguments, message, capsys):
    status, _, error = run(train, capsys, *arguments, config_type=DAUBConfig)
    assert status == 2 and error.startswith("error: ") and message in error and error.count("\n") == 1


def start(script: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / script), "--help"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_help_from_another_folder(tmp_path):
    process = start("train_DAUB.py", tmp_path)
    out, error = process.communicate()
    assert process.returncode == 0 and b"train_DAUB.py" in out and error == b""


def test_help_into_a_reader_that_has_enough(tmp_path):
    """As `python train_IRDST.py --help | head -1` does to it."""
    process = start("train_IRDST.py", tmp_path)
    process.stdout.close()
    error = process.stderr.read()
    assert (process.wait(), error) == (141, b"")
