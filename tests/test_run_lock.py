"""A run folder belongs to one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training_cases import ROOT, flags, run
from utils.cli import UserError
from utils.run_lock import LOCK, RunLock

pytest.importorskip("fcntl")
HOLDER = """
import sys
from pathlib import Path
from utils.cli import UserError
from utils.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
if sys.stdin.readline():  # a line lets the folder go, the end of the input ends the process
    lock.release()
    print("released", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path) -> Iterator[subprocess.Popen]:
    """Another process that has the run folder."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("more", [{}, {"resume": True}])
def test_a_second_run_in_the_folder_is_refused(data_root, tmp_path, capsys, holder, more):
    status, _, error = run(capsys, flags(data_root, tmp_path, epochs=1, **more))
    assert status == 2 and error.count("\n") == 1
    assert error.startswith(f"error: {tmp_path}: process {holder.pid} trains there; wait for its end, or pass another")
    assert files(tmp_path) == {LOCK}


def test_a_folder_without_room_for_the_lock_is_named(tmp_path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(UserError, match=r"\.lock: cannot be written"):
        RunLock(tmp_path)


def test_a_killed_run_leaves_the_folder_free(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    RunLock(tmp_path).release()


def test_a_released_folder_is_free(tmp_path, holder):
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "released\n"
    lock = RunLock(tmp_path)
    lock.release()
    lock.release()


def test_a_run_lets_go_of_its_folder(data_root, tmp_path, capsys):
    status, _, error = run(capsys, flags(data_root, tmp_path, epochs=1))
    assert status == 0, error
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, input="", capture_output=True, text=True, timeout=60)
    assert process.stdout == "held\n", process.stderr
