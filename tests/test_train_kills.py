"""Runs that are killed, at random and at the worst moments, end with the bytes of a run that was not."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.training_cases import flags, read_rows, read_weights, same_run, truncate
from tests.training_process import Death, finish, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills by Linux's own means")

TINY = {"width": 0.0625, "num_frames": 2, "epochs": 5, "checkpoint_every": 1, "save_interval": 1}
RANDOM_KILLS = 12


@pytest.fixture(scope="module")
def whole(data_root, tmp_path_factory) -> Path:
    """A run that nothing disturbs."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    assert finish(start(flags(data_root, run_dir, **TINY), run_dir.with_name("output"))) == 0
    return run_dir


def same_bytes(first: Path, second: Path) -> bool:
    """Whether two runs left the same states and rows, and weight files that are equal byte by byte."""
    names = ["best.pth", *(f"epoch_{epoch:03d}.pth" for epoch in range(1, TINY["epochs"] + 1))]
    return same_run(first, second) and all((first / n).read_bytes() == (second / n).read_bytes() for n in names)


def wait_for_checkpoint(run_dir: Path, process) -> None:
    """Until a process has written a checkpoint (or ended): each life of a run gets somewhere."""
    before = stamp(run_dir)
    while process.is_alive() and stamp(run_dir) == before:
        time.sleep(0.002)


def stamp(run_dir: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(run_dir / "last.pth")
    except FileNotFoundError:  # for an instant of each save, too
        return None
    return status.st_ino, status.st_mtime_ns


def members(group: int) -> list[str]:
    """Living processes of a group, as /proc has them: after the name come state, parent and group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, _, number = path.read_text().rpartition(") ")[2].split()[:3]
            if int(number) == group and state != "Z":
                found.append(path.parent.name)
    return found


def wait_for_the_end_of(group: int) -> None:
    for _ in range(600):
        if not members(group):
            return
        time.sleep(0.1)
    raise AssertionError(f"processes {members(group)} of a killed run live on")


def test_killed_at_random_moments(data_root, whole, tmp_path):
    chance, kills, run = random.Random(5), 0, 0
    while kills < RANDOM_KILLS:
        run_dir, status, run = tmp_path / f"run{run}", None, run + 1
        while status != 0:
            process = start(flags(data_root, run_dir, **TINY, resume=True), tmp_path / "output")
            wait_for_checkpoint(run_dir, process)
            process.join(chance.uniform(0, 0.25))
            process.kill()
            status = finish(process)
            assert status in (0, -signal.SIGKILL), (tmp_path / "output").read_text()
            kills += status != 0
            assert kills < 10 * RANDOM_KILLS, "the run gets nowhere"
        assert same_bytes(whole, run_dir)


WORST_MOMENTS = [
    Death("open", "images/test", 8 + 2),  # validating, after the headers of 8 frames
    Death("os.rename", "best.pth.tmp"),
    Death("open", "epoch_001.pth.tmp"),
    Death("open", "last.pth.tmp"),  # nothing of the new checkpoint is written
    Death("write", count=5_000_000),  # some of it is
    Death("os.rename", "last.pth"),  # all of it is
    Death("os.rename", "last.pth.tmp"),  # between the two renames: there is no last.pth
    Death("open", "run/metrics.csv", 2),  # between validation and the epoch's row (the first opening is the start's)
    Death("open", "curves.png"),  # between the row and the checkpoint
    Death("open", "images/train", 16 + 4),  # reading clips, after the headers of 16 frames
    Death("open", "last.pth.tmp", 3),
]


def test_killed_at_the_worst_moments(data_root, whole, tmp_path):
    """One run that dies at each of them, one life after the other."""
    run_dir, output = tmp_path / "run", tmp_path / "output"
    for death in WORST_MOMENTS:
        process = start(flags(data_root, run_dir, **TINY, resume=True), output, death)
        expected = signal.SIGXFSZ if death.event == "write" else signal.SIGKILL
        assert finish(process) == -expected, (death, output.read_text())
        assert death.path != "last.pth.tmp" or death.event != "os.rename" or not (run_dir / "last.pth").exists()
    assert finish(start(flags(data_root, run_dir, **TINY, resume=True), output)) == 0
    assert same_bytes(whole, run_dir)


def test_killed_while_a_damaged_checkpoint_is_replaced(data_root, whole, tmp_path):
    """The damaged one must not have taken the place of the whole one before it."""
    run_dir, output = shutil.copytree(whole, tmp_path / "run"), tmp_path / "output"
    truncate(run_dir / "last.pth", 1000)
    arguments = flags(data_root, run_dir, **TINY, resume=True)
    assert finish(start(arguments, output, Death("os.rename", "last.pth.tmp"))) == -signal.SIGKILL
    assert finish(start(arguments, output)) == 0, output.read_text()
    assert same_bytes(whole, run_dir)


def test_random_numbers_of_a_step_go_on_too(data_root, tmp_path):
    """Dropout, loader processes and augmentation, killed between two steps of an epoch."""
    settings = {**TINY, "num_layers": 2, "flip": True, "photometric": 0.2, "epochs": 1, "workers": 1, "resume": True}
    for name in ("whole", "killed"):
        arguments = flags(data_root, tmp_path / name, **settings)
        if name == "killed":
            process = start(arguments, tmp_path / "output", Death("open", "last.pth.tmp", 3))
            assert finish(process) == -signal.SIGKILL
            wait_for_the_end_of(process.pid)  # the loader's processes do not outlive the run
            assert read_weights(tmp_path / name / "last.pth")["training"]["progress"]["step"] == 2
        assert finish(start(arguments, tmp_path / "output")) == 0
    assert same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_to_all_processes_save_and_stop(number, status, data_root, whole, tmp_path):
    run_dir, output = tmp_path / "run", tmp_path / "output"
    process = start(flags(data_root, run_dir, **TINY | {"checkpoint_every": 0}, workers=1), output)
    wait_for_checkpoint(run_dir, process)
    os.killpg(process.pid, number)  # the loader's processes too
    assert finish(process) == status, output.read_text()
    position = read_weights(run_dir / "last.pth")["training"]["progress"]
    assert position["epoch"] < TINY["epochs"]
    text = f"stopped by {number.name}; {run_dir / 'last.pth'} is of "
    assert text in output.read_text() and text in (run_dir / "train.log").read_text()
    assert finish(start(flags(data_root, run_dir, **TINY, resume=True), output)) == 0
    assert same_bytes(whole, run_dir)
    assert len(read_rows(run_dir)) == TINY["epochs"]
