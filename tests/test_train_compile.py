"""--compile: the losses of the network as it is, and checkpoints that know nothing of it.

Compiling for a CPU takes minutes even at the smallest size: COMPILE_TESTS=1 runs these tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training_cases import ROOT, flags, read_rows, read_weights
from tests.training_process import finish, start

COMPILER = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch.compile chooses it
SMALLEST = {"width": 0.0625, "depth": 0.1, "num_frames": 2, "attention_dropout": 0.0}
MINUTES = 60.0

pytestmark = pytest.mark.skipif("COMPILE_TESTS" not in os.environ, reason="COMPILE_TESTS=1 runs it, in minutes")


def losses(run_dir: Path, epoch: int) -> list[float]:
    row = read_rows(run_dir)[epoch - 1]
    return [float(row[name]) for name in row if name.startswith(("train_", "val_loss"))]


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"torch.compile needs a C++ compiler, {COMPILER}")
def test_compiled_and_plain_runs_go_on_from_each_other(data_root, tmp_path):
    """Two epochs, the first compiled and the second not, or the other way round, beside two plain ones."""
    runs = {"whole": (False, False), "compiled first": (True, False), "compiled then": (False, True)}
    for name, compiled in runs.items():
        for epochs, flag in enumerate(compiled, start=1):
            how = {"compile": True} if flag else {}
            arguments = flags(data_root, tmp_path / name, **SMALLEST, **how, epochs=epochs, resume=True)
            status = finish(start(arguments, tmp_path / "output"), 20 * MINUTES)
            assert status == 0, (tmp_path / "output").read_text()
    whole = read_weights(tmp_path / "whole" / "last.pth")
    for name in runs:
        assert losses(tmp_path / name, 1) == pytest.approx(losses(tmp_path / "whole", 1), rel=1e-3)
        # Rounding grows through an epoch of steps: the assigner's choices turn on it.
        assert losses(tmp_path / name, 2) == pytest.approx(losses(tmp_path / "whole", 2), rel=0.05)
        content = read_weights(tmp_path / name / "last.pth")
        assert content["model"].keys() == whole["model"].keys()
        assert content["training"]["network"].keys() == whole["training"]["network"].keys()


def test_without_a_compiler_it_is_one_line(data_root, tmp_path):
    arguments = flags(data_root, tmp_path / "run", **SMALLEST, compile=True)
    environment = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "train_DAUB.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=5 * MINUTES)
    assert done.returncode == 2, done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "error: --compile: the network cannot be compiled here (" in error[0]
    assert "or leave --compile out; no checkpoint has been written yet" in error[0]
    assert "Traceback" not in done.stderr
