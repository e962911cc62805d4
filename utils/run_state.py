"""Where a run is: all that must be in a checkpoint so that going on is the same as never having stopped."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.cli import UserError
from utils.json_files import read_json
from utils.tensor_files import DamagedFile, read_checkpoint, save_atomically

LAST, PREVIOUS, BEST = "last.pth", "previous.pth", "best.pth"
# Settings that decide which clips the steps of an epoch see, and those that say nothing of the training itself.
ORDER = ("seed", "epoch_share", "batch_size", "data_root", "train_list")
JUDGED = ("best_by", "iou_loss", "data_root", "val_list", "input_size", "intensity")  # what scores depend on
AT_START = ("init", "pretrained")  # what only the first step sees
PASSING = ("resume", "run_dir", "dry_run", "cache", "cache_mb", "cache_dir")


@dataclass
class Progress:
    """Position of a run and what it has gathered on the way."""

    epoch: int = 0  # whole epochs
    step: int = 0  # steps of the epoch after them
    sums: dict[str, float] = field(default_factory=dict)  # of the loss terms over these steps
    counted: int = 0  # steps behind the sums: all but those skipped
    seconds: float = 0.0  # that these steps took
    skipped: int = 0  # steps that were not finite, in the whole run
    best: float = float("inf")  # what best.pth has: validation loss, or minus mAP50
    rows: list[dict[str, Any]] = field(default_factory=list)  # of metrics.csv, one for each whole epoch

    def add(self, values: dict[str, float] | None) -> None:
        """Count a step; None: it was skipped."""
        self.step += 1
        if values is None:
            self.skipped += 1
            return
        self.counted += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Mean of each loss term over the epoch's steps so far; none while all of them were skipped."""
        return {name: value / self.counted for name, value in self.sums.items()}

    def begin_epoch(self) -> None:
        """Forget the steps of the epoch, done or not."""
        self.step, self.sums, self.counted, self.seconds = 0, {}, 0, 0.0

    def finish_epoch(self, row: dict[str, Any]) -> None:
        """Count an epoch, whose row of the log this is."""
        self.epoch += 1
        self.rows.append(row)
        self.begin_epoch()

    def __str__(self) -> str:
        return f"step {self.step} of epoch {self.epoch + 1}" if self.step else f"epoch {self.epoch}"


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of all random number generators of this process, as plain values and tensors."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Undo what was drawn since `random_states`."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def save_run(content: dict[str, Any], run_dir: Path) -> None:
    """Write last.pth; the one before it becomes previous.pth, once the new one is whole and on the disk."""
    save_atomically(content, run_dir / LAST, keep_as=run_dir / PREVIOUS)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def newest_run(run_dir: Path, warn: Callable[[str], None] = _to_stderr) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a run and its content; None where there is none at all.

    A damaged one is named to `warn` and the one before it taken; UserError where no whole one is left, or where a
    file cannot be read, which says nothing of what is in it. The damaged one is set aside, or the next save would
    keep it in the place of the whole one.
    """
    last, previous = run_dir / LAST, run_dir / PREVIOUS
    if last.exists():
        try:
            return last, _read_run(last)
        except DamagedFile as error:
            if not previous.exists():
                raise
            warn(f"{error}; going back to {PREVIOUS}")
            content = _read_run(previous)
            os.replace(last, last.with_name(f"{LAST}.damaged"))
            return previous, content
    return (previous, _read_run(previous)) if previous.exists() else None


def _read_run(path: Path) -> dict[str, Any]:
    content = read_checkpoint(path)
    if not isinstance(content.get("training"), dict) or "progress" not in content["training"]:
        raise DamagedFile(f"{path}: weights without a run's state; pass another --run-dir, and this as --pretrained")
    return content


def check_same_network(path: Path, content: dict[str, Any], architecture: dict[str, Any], optimizer: str) -> None:
    """UserError where a checkpoint's network or optimiser is not the one that the settings ask for."""
    theirs = {"gate": True, "frame_interval": 1, **content.get("architecture", {})}  # older files do not say
    other = [f"{n} {theirs.get(n)}, not {architecture[n]}" for n in architecture if theirs.get(n) != architecture[n]]
    if other:
        raise UserError(f"{path}: of a run with {', '.join(other)}; pass the same flags, or another --run-dir")
    before = content["training"]["settings"]["optimizer"]
    if before != optimizer:
        raise UserError(f"{path}: made with --optimizer {before}; pass that or another --run-dir")


def restore_progress(
    training: dict[str, Any], settings: dict[str, Any], files: dict[str, str], num_clips: int
) -> tuple[Progress, list[str]]:
    """A run's progress under settings and `TrainConfig.files` that may have changed since, and what there is to say."""
    progress, before, files_before = Progress(**training["progress"]), training["settings"], training.get("files", {})

    def changed(name: str) -> bool:
        same_file = name in files_before and files_before[name] == files[name]  # however it is spelled
        return before.get(name, settings[name]) != settings[name] and not same_file

    told = [name for name in settings if name not in PASSING and changed(name)]
    notes = [
        f"--{n} is not used, the run has weights already" if n in AT_START else f"{n} {before[n]} -> {settings[n]}"
        for n in told
    ]
    if any(map(changed, JUDGED)):  # scores cannot be compared
        progress.best = float("inf")
        notes.append("scores that cannot be compared with those before: the best begins anew")
    moved = num_clips != training["num_clips"] or any(map(changed, ORDER))
    if moved and progress.step:
        progress.begin_epoch()
        notes.append(f"other batches: epoch {progress.epoch + 1} begins anew")
    return progress, notes


def state_of_run(
    progress: Progress, settings: dict[str, Any], files: dict[str, str], num_clips: int, **states: Any
) -> dict[str, Any]:
    """What `newest_run` and `restore_progress` want to find under `training`, beside the `states` of objects."""
    return {"progress": asdict(progress), "settings": settings, "files": files, "num_clips": num_clips, **states}


def recorded_run(weights: Path) -> dict[str, Any]:
    """The `config`, `files` and `environment` of the config.json beside a run's weights; empty without one."""
    path = weights.with_name("config.json")
    content = read_json(path, "run's settings") if path.is_file() else {}
    parts = {"config": {}, "files": {}, "environment": {}}
    known = isinstance(content, dict) and all(isinstance(content.get(name, {}), dict) for name in parts)
    return {**parts, **content} if known else parts  # of another program's file nothing
