"""A data set and settings small enough to train on within a test."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from train_DAUB import DAUBConfig
from utils.cli import run_command
from utils.config import TrainConfig
from utils.synthetic_dataset import write_dataset
from utils.synthetic_presets import PRESETS
from utils.trainer import train

ROOT = Path(__file__).resolve().parents[1]

SMALL = TrainConfig(
    classes=ROOT / "model_data" / "classes_DAUB.txt",
    preset="released",
    num_frames=3,
    width=0.125,
    input_size=(64, 64),
    epochs=2,
    epoch_share=1.0,
    init="kaiming",
    workers=0,
    device="cpu",
)


def make_data(root: Path) -> Path:
    """Two train sequences (16 clips) and one validation sequence of 8 frames, 64 x 64 pixels, in DAUB's layout."""
    write_dataset(root, PRESETS["easy"], seed=3, sequences=(2, 1), frames=8, frame_size=(64, 64))
    return root


def small_config(data_root: Path, run_dir: Path, **settings: object) -> TrainConfig:
    """`SMALL` on a data set, with other settings where given."""
    return replace(SMALL, data_root=data_root, run_dir=run_dir, **settings)


def flags(data_root: Path, run_dir: Path, **settings: object) -> list[str]:
    """The command line of `small_config`; `True` is a bare flag."""
    small = ("classes", "preset", "num_frames", "width", "input_size", "epochs", "epoch_share", "init", "workers")
    given = {name: getattr(SMALL, name) for name in (*small, "device")}
    words = []
    for name, value in {**given, "data_root": data_root, "run_dir": run_dir, **settings}.items():
        values = value if isinstance(value, tuple) else () if value is True else (value,)
        words += ["--" + name.replace("_", "-"), *map(str, values)]
    return words


def read_rows(run_dir: Path) -> list[dict[str, str]]:
    """metrics.csv."""
    with open(run_dir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def read_weights(path: Path) -> dict:
    """Everything in a checkpoint."""
    return torch.load(path, weights_only=True)


def run(capsys, arguments: list[str], config_type: type = DAUBConfig, main=train) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stop:
        run_command(main, config_type, arguments)
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def same_state(first: object, second: object) -> bool:
    """Whether two checkpoints' contents are equal, bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_state, first, second))
    return first == second


def same_run(first: Path, second: Path) -> bool:
    """Whether two runs ended with the same weights, states and rows (but for the time that they took)."""
    for name in ("last.pth", "best.pth"):
        contents = [read_weights(folder / name) for folder in (first, second)]
        for content in contents:
            training = content.get("training", {})
            for key in ("settings", "files"):  # the folders differ
                training.pop(key, None)
            for row in training.get("progress", {}).get("rows", []):
                row["seconds"] = None
        if not same_state(*contents):
            return False
    rows = [[{**row, "seconds": ""} for row in read_rows(folder)] for folder in (first, second)]
    return rows[0] == rows[1]


def truncate(path: Path, size: int) -> Path:
    """Keep the first `size` bytes, as a broken-off copy does."""
    path.write_bytes(path.read_bytes()[:size])
    return path
