"""The documentation tells the truth: links lead somewhere, commands parse, worked examples run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import doc_checks
from tests.doc_pages import ROOT, Command, blocks, commands, flags, links, pages, section, split_command
from utils.video import open_source

SOURCES = ("nets", "utils", "utils_coco", "model_data")
RUN_ALL = """
import json, runpy, sys
for words in json.load(sys.stdin):
    module = words[0] == "-m"
    sys.argv = words[module:]
    try:
        if module:
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            sys.exit(f"{words}: status {stop.code}")
"""


# Nothing leads nowhere


@pytest.mark.parametrize(
    "check",
    [
        doc_checks.link_faults,
        doc_checks.file_faults,
        doc_checks.place_faults,
        doc_checks.equation_faults,
        doc_checks.command_faults,
        doc_checks.flag_faults,
    ],
)
def test_documentation_has_no_faults(check):
    assert check() == []


def test_checks_find_faults():
    faults = {
        "python train_DAUB.py --no-such-flag": "--no-such-flag",
        "python train_DAUB.py --epochs many": "many",
        "python train_DAUB.py --input-size 500 500": "multiples of 32",
        "python nobody.py --help": "no file nobody.py",
        "python nets/boxes.py --help": "nets/boxes.py is no command",
        "torchrun --nproc-per-node 2 train_IRDST.py --sizes 3": "--sizes",
        "vid_predict.py --trace": "vid_predict.py has no --trace",
        "python -m nobody": "no module nobody",
        "python -m utils.nobody --all": "no file utils/nobody.py",
        "torchrun --cards 2 train_IRDST.py": "torchrun does not take these flags",
        "make coffee": "no target coffee",
        "python -m pytest tests/test_nothing.py": "no file tests/test_nothing.py",
    }
    for line, part in faults.items():
        assert part in doc_checks.command_fault(Command("page", split_command(line, {})), set())
    for line in ("python train_DAUB.py --preset released|cross-slice", "vid_predict.py --track", "python -m venv a"):
        assert doc_checks.command_fault(Command("page", split_command(line, {})), set()) is None


def test_a_page_is_read_as_written():
    text = """Say `python a.py --b` or `--c`.

    F="--x 1"
    K=2 python d.py $F \\
        --y  # why

[z](z.md#t)
"""
    assert [command.words for command in commands("page", text)] == [
        ("python", "d.py", "--x", "1", "--y"),
        ("python", "a.py", "--b"),
    ]
    assert flags(text) == {"--c"} and links(text) == ["z.md#t"]


def test_readme_code_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    code = [block.text for block in blocks(pages()["README.md"]) if block.language == "python"]
    values = {"clips": torch.randn(2, 3, 5, 64, 64), "frames": torch.randn(6, 3, 64, 64)}
    values["targets"] = [torch.tensor([[30.0, 20.0, 8.0, 8.0, 0.0]]), torch.zeros(0, 5)]
    video = open_source(ROOT / "tests" / "data" / "drone_ir" / "IR_AIRPLANE_045.mp4")
    values["camera"] = (frame.image for frame in islice(video, 6))
    exec("\n".join(code), values)
    assert values["output"].shape == (6, 6, 8, 8)
    assert values["found"].boxes.shape == (1, 4) and values["found"].scores[0] > 0.25


# Worked examples


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the repository's code, with the page's small data set."""
    root = tmp_path_factory.mktemp("docs") / "checkout"
    root.mkdir()
    for name in SOURCES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.pth"))
    for path in ROOT.glob("*.py"):
        shutil.copy(path, root)
    run_commands(root, pages()["docs/extending.md"].partition("\n## ")[0])
    return root


def run_commands(root: Path, text: str) -> None:
    """Run the shell blocks of a text in a folder, all in one process, which imports torch once."""
    lines = [line for block in blocks(text) if block.language == "sh" for line in block.text.splitlines()]
    words = [split_command(line, {}) for line in lines]
    assert words and all(command[0] == "python" for command in words)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL], input=json.dumps([command[1:] for command in words]), cwd=root,
        env=environment, capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def apply_edit(root: Path, edit: str) -> None:
    """Apply a `diff` block: each of its parts must stand in the file exactly once."""
    name, *lines = edit.splitlines()
    path = root / name.removeprefix("--- ")
    for part in "\n".join(lines).split("\n@@\n"):
        old = [line[1:] for line in part.splitlines() if line[0] != "+"]
        new = [line[1:] for line in part.splitlines() if line[0] != "-"]
        text = path.read_text()
        assert text.count("\n".join(old)) == 1, part
        path.write_text(text.replace("\n".join(old), "\n".join(new)))


def make_my_data(root: Path) -> None:
    """The data set that the page speaks of: 16-bit frames with one target each, and a table of boxes."""
    rng = np.random.default_rng(0)
    rows = ["frame,x,y,w,h"]
    for flight in (1, 2, 3):
        folder = root / "datasets" / "MyData" / "frames" / f"flight{flight}"
        folder.mkdir(parents=True)
        background = rng.normal(20000, 2000, (64, 64))
        for number in range(8):
            frame = background + rng.normal(0, 300, background.shape)
            frame[20:24, 10 + number : 14 + number] += 20000
            Image.fromarray(frame.astype(np.uint16)).save(folder / f"{number:04}.png")
            rows.append(f"frames/flight{flight}/{number:04}.png,{10 + number},20,4,4")
    (root / "datasets" / "MyData" / "boxes.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(
    ("title", "prepare", "written"),
    [
        ("Add a data set", make_my_data, ("runs/MyData/best.pth",)),
        ("Change the neck", None, ("tiny/neck/best.pth", "tiny/neck/evaluation/metrics.json")),
        ("Change the head", None, ("tiny/head/best.pth", "tiny/head/evaluation/metrics.json")),
        ("Write your own motion branch", None, ("tiny/branch/best.pth",)),
        ("Change the loss", None, ("tiny/loss/best.pth",)),
    ],
)
def test_worked_example(title, prepare, written, checkout, tmp_path):
    text = section(pages()["docs/extending.md"], title)
    root = shutil.copytree(checkout, tmp_path / "checkout", ignore=shutil.ignore_patterns("__pycache__"))
    if prepare:
        prepare(root)
    for block in blocks(text):
        if found := doc_checks.FILE_BLOCK.match(block.text):
            (root / found[1]).write_text(block.text)
        elif block.language == "diff":
            apply_edit(root, block.text)
    run_commands(root, text)
    for name in written:
        assert (root / name).is_file()
