"""Thousands of steps: memory and open files do not grow. `pytest -s` prints the figures."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from statistics import median

import pytest

from tests.training_cases import flags, read_rows
from tests.training_process import finish, start
from utils.synthetic_dataset import write_dataset
from utils.synthetic_presets import PRESETS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

EPOCHS = int(os.environ.get("SOAK_EPOCHS", "10"))  # of 100 steps


def resident_mib(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def test_memory_and_open_files_do_not_grow(tmp_path):
    write_dataset(tmp_path / "data", PRESETS["easy"], seed=3, sequences=(4, 1), frames=50, frame_size=(64, 64))
    settings = {"width": 0.0625, "num_frames": 2, "batch_size": 2, "epochs": EPOCHS, "workers": 1}
    run_dir = tmp_path / "run"
    process = start(flags(tmp_path / "data", run_dir, **settings, checkpoint_every=50), tmp_path / "output")
    samples: list[tuple[int, float, int]] = []
    while process.is_alive():
        done = len(read_rows(run_dir)) if (run_dir / "metrics.csv").exists() else 0
        if done > (samples[-1][0] if samples else 0):
            try:
                files = len(os.listdir(f"/proc/{process.pid}/fd"))
                samples.append((done, resident_mib(process.pid), files))
            except (FileNotFoundError, StopIteration):  # it has just ended
                break
            print(f"{100 * done} steps: {samples[-1][1]:.0f} MiB, {files} open files", flush=True)
        time.sleep(0.2)
    assert finish(process) == 0 and len(read_rows(run_dir)) == EPOCHS
    settled = [sample for sample in samples if sample[0] >= EPOCHS // 5]  # caches have filled by then
    first, last = settled[: len(settled) // 3], settled[-(len(settled) // 3) :]
    assert max(sample[1] for sample in last) < 1.05 * max(sample[1] for sample in first)
    # One sample may catch a file being written, most do not.
    assert median(sample[2] for sample in last) <= median(sample[2] for sample in first)
