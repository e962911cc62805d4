"""What a run says to people and leaves for them: config.json, train.log, metrics.csv, TensorBoard, curves.png."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from utils.cli import UserError
from utils.json_files import whole_file, write_json
from utils.run_state import BEST, LAST, PREVIOUS
from utils.training_step import TERMS

LOSSES = (*(f"train_{term}" for term in TERMS), "val_loss")
COLUMNS = ("epoch", "lr", *LOSSES, "val_mAP50", "seconds")


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """Versions, device (if told), its name where it is a GPU, and git revision that a run was made with."""
    packages = ("torch", "torchvision", "numpy", "opencv-python-headless", "opencv-python", "pillow", "pycocotools")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    root = Path(__file__).resolve().parents[1]
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        revision = None  # not a git checkout, or no git: an archive of the code is a fine way to run it
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "device": None if device is None else str(device),
        "gpu": torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "git": revision,
    }


class RunLog:
    """The text side of a run folder; epochs count from 1. `config` and `files` are `TrainConfig`'s `to_json` and
    `files`; `rows` are those of the epochs done, as a checkpoint has them: whatever else metrics.csv held was written
    after it, and will be written again."""

    def __init__(
        self,
        run_dir: Path,
        config: dict[str, Any],
        files: dict[str, str],
        rows: Sequence[dict[str, Any]] = (),
        device: torch.device | None = None,
    ):
        self.run_dir = run_dir
        self.csv_path = run_dir / "metrics.csv"
        self.rows = list(rows)
        facts = {"config": config, "files": files, "environment": environment(device)}
        with self._writing():
            self._write_rows()
            write_json(run_dir / "config.json", facts)
            self.board = SummaryWriter(str(run_dir), purge_step=len(self.rows) + 1)
        made = facts["environment"]
        self.note(f"{' '.join(made['command'])}  (revision {made['git']}, torch {made['packages']['torch']})")

    def note(self, text: str) -> None:
        """Append to train.log, each line with the time."""
        time = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        with self._writing(), open(self.run_dir / "train.log", "a", encoding="utf-8") as file:
            file.writelines(f"{time}  {line}\n" for line in text.splitlines())

    def _write_rows(self) -> None:
        with whole_file(self.csv_path) as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Append an epoch's row (`COLUMNS`; what an epoch lacks stays empty) to the table, the board and the curves."""
        self.rows.append(row)
        with self._writing():
            with open(self.csv_path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, COLUMNS).writerow(row)
                file.flush()
                os.fsync(file.fileno())
            for name, value in row.items():
                if name != "epoch":
                    self.board.add_scalar(name.replace("_", "/", 1), value, row["epoch"])
            self.board.flush()
            draw_curves(self.rows, self.run_dir / "curves.png")

    def close(self) -> None:
        """End the board's writing thread. Where it has failed, `add` has said so."""
        with suppress(OSError):
            self.board.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.run_dir
            raise UserError(f"{where}: cannot be written ({error.strerror}); check the disk, then --resume") from error


class Messages:
    """What a run tells its user, once for all processes (`shown` in one of them): on the terminal, and in train.log
    as soon as there is one."""

    def __init__(self, shown: bool):
        self._shown = shown
        self._log: RunLog | None = None
        self._early: list[str] = []  # said before there was a log

    def say(self, text: str) -> None:
        """Tell on standard output."""
        self._tell(text, sys.stdout)

    def warn(self, text: str) -> None:
        """Tell on standard error."""
        self._tell(text, sys.stderr)

    def write_to(self, log: RunLog) -> None:
        """Keep what has been said, and all that will be, in a log."""
        self._log = log
        for text in self._early:
            log.note(text)

    def _tell(self, text: str, stream: TextIO) -> None:
        if not self._shown:
            return
        print(text, file=stream, flush=True)
        if self._log:
            self._log.note(text)
        else:
            self._early.append(text)


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Losses and validation mAP50 by epoch."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, score = figure.subplots(1, 2)
    for name in LOSSES:
        epochs, values = _series(rows, name)
        losses.plot(epochs, values, label=name.replace("_", " "), marker="." if len(values) < 20 else None)
    losses.set(xlabel="epoch", ylabel="loss", yscale="log")
    figure.legend(loc="outside lower center", ncols=6, fontsize=8)
    epochs, values = _series(rows, "val_mAP50")
    score.plot(epochs, [100 * value for value in values], marker="." if len(values) < 20 else None)
    score.set(xlabel="epoch", ylabel="validation mAP50 (%)", ylim=(0, 100))
    for axes in (losses, score):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _series(rows: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    pairs = [(int(row["epoch"]), float(row[name])) for row in rows if row.get(name) not in (None, "")]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def make_run_dir(path: Path, resume: bool) -> None:
    """Create the run folder; UserError where it cannot be written or holds a finished or broken-off run already."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); pass another --run-dir") from None
    if text := None if resume else held(path):
        raise UserError(text)


def held(path: Path) -> str | None:
    """What is wrong with a folder for a new run: it holds one, or the weights of one."""
    if any((path / name).exists() for name in (LAST, PREVIOUS)):
        return f"{path}: holds a run already; go on with --resume, or pass another --run-dir"
    if (path / BEST).exists():
        return f"{path}: holds {BEST} of a run that cannot go on, as its {LAST} is not there; pass another --run-dir"
    return None
