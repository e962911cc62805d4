"""The command that makes the shipped weights: data, training and file, on two tiny videos."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.infrared_weights import SETS, Config, main
from tests.test_converters import make_video
from tests.training_cases import run
from utils.checkpoint import load_network


@pytest.fixture
def videos(tmp_path):
    """A video to train on and one that is held back: a bright square that moves over noise."""
    folder, rng = tmp_path / "videos", np.random.default_rng(0)
    folder.mkdir()
    boxes = {}
    for name in ("IR_AIRPLANE_045", "IR_BIRD_002"):
        frames = rng.integers(60, 90, (8, 64, 64), dtype=np.uint8)
        for number, frame in enumerate(frames):
            frame[20:26, 10 + number : 16 + number] = 220
        make_video(folder / f"{name}.avi", list(frames))
        boxes[name] = {"boxes": [[10 + number, 20, 6, 6] for number in range(8)]}
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return folder


def test_one_command_makes_the_file(videos, tmp_path, capsys):
    work = tmp_path / "work"
    words = ["--videos", str(videos), "--work", str(work), "--quick", "--device", "cpu"]
    work = work / "quick"  # which real sets do not share
    status, out, _ = run(capsys, [*words, "--list"], Config, main)
    assert status == 0 and out.count("make_synthetic_dataset.py") == len(SETS) and not work.exists()
    assert "\npython train_DAUB.py" in out and "--init kaiming" in out and "--confidence 0.25 " in out

    status, out, error = run(capsys, [*words, "--processes", "2"], Config, main)
    assert status == 0, error
    assert "\ntorchrun --standalone --nproc-per-node 2 train_DAUB.py" in out
    trained_on = (work / "train.txt").read_text().splitlines()
    assert {line.split("/")[0] for line in trained_on} == {"videos", *(made.name for made in SETS)}
    assert [line for line in trained_on if line.startswith("videos")] == [
        *(f"videos/images/train/IR_BIRD_002/00000{k}.png {9 + k},20,{15 + k},26,0" for k in (5, 6, 7, 8))
    ]
    assert "IR_AIRPLANE_045" not in "".join(trained_on)
    network = load_network(work / "sstnet_infrared.pth")
    assert network.confidence == 0.25 and network.frame_scales == (1.6, 2.0)
    assert "videos of the Drone-detection-dataset" in network.provenance["data"]

    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.bmp")}
    start = work / "sstnet_infrared.pth"
    status, out, _ = run(capsys, [*words, "--start", str(start), "--list"], Config, main)
    assert status == 0 and "make_synthetic_dataset.py" not in out and f"--pretrained {start}" in out
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.bmp")} == before
    assert torch.load(start, weights_only=True)["architecture"]["num_slices"] == 0
