"""--compile: the losses of the network as it is, and checkpoints that know nothing of it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.training_cases import flags, read_rows, read_weights
from tests.training_process import finish, start

COMPILER = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch.compile chooses it
SMALLEST = {"width": 0.0625, "depth": 0.1, "num_frames": 2, "attention_dropout": 0.0, "compile": True}
MINUTES = 60.0

pytestmark = pytest.mark.slow


def plain(settings: dict) -> dict:
    return {name: value for name, value in settings.items() if name != "compile"}


def losses(run_dir: Path) -> list[float]:
    return [float(row[name]) for row in read_rows(run_dir) for name in row if name.startswith(("train_", "val_loss"))]


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"torch.compile needs a C++ compiler, {COMPILER}")
def test_compiled_and_plain_runs_go_on_from_each_other(data_root, tmp_path):
    """Two epochs, the first compiled and the second not, or the other way round, beside two plain ones."""
    runs = {"whole": (plain, plain), "compiled first": (dict, plain), "compiled then": (plain, dict)}
    for name, kinds in runs.items():
        for epochs, kind in enumerate(kinds, start=1):
            arguments = flags(data_root, tmp_path / name, **kind(SMALLEST), epochs=epochs, resume=True)
            status = finish(start(arguments, tmp_path / "output"), 20 * MINUTES)
            assert status == 0, (tmp_path / "output").read_text()
    whole = read_weights(tmp_path / "whole" / "last.pth")
    for name in runs:
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)
        content = read_weights(tmp_path / name / "last.pth")
        assert content["model"].keys() == whole["model"].keys()
        assert content["training"]["network"].keys() == whole["training"]["network"].keys()


def test_without_a_compiler_it_is_one_line(data_root, tmp_path):
    environment = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    process = start(flags(data_root, tmp_path / "run", **SMALLEST), tmp_path / "output", environment=environment)
    assert finish(process, 5 * MINUTES) == 2
    error = [line for line in (tmp_path / "output").read_text().splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "error: --compile: the network cannot be compiled here (" in error[0]
    assert "or leave --compile out; no checkpoint has been written yet" in error[0]
    assert "Traceback" not in (tmp_path / "output").read_text()
