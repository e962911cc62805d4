"""Benchmarks run in their quick form and print what they promise. Their times are nobody's business here."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks import counts, growth, inference, kernel_gradient, loading, training
from benchmarks.timing import Times, interleave, ratios
from nets import SSTNet
from utils.cli import UserError


def test_ways_take_turns():
    order: list[str] = []
    times = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warmup=0)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(value.seconds) for name, value in times.items()} == {"a": 3, "b": 3}


def test_ratios_pair_the_rounds():
    found = ratios(Times((2.0, 6.0, 3.0)), Times((1.0, 2.0, 2.0)))
    assert found.values == (2.0, 3.0, 1.5) and found.median == 2.0
    assert str(found) == "2.00 x  (1.50 to 3.00)"


def test_clips_of_a_video_are_those_the_stream_sees():
    torch.manual_seed(0)
    model = SSTNet(width=0.125, num_slices=1, num_layers=1).eval()
    frames = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(inference.clips_of(frames, 5)), model.forward_video(frames))


@pytest.mark.parametrize(
    ("module", "flags", "message"),
    [
        (inference, {"frames": 0}, "--frames 0: must be 1 or more"),
        (inference, {"rounds": 0}, "--rounds 0: must be 1 or more"),
        (training, {"batch_size": 0}, "--batch-size 0: must be 1 or more"),
        (loading, {"epochs": 1}, "--epochs 1: must be 2 or more"),
        (loading, {"folder": Path("nowhere")}, "nowhere: no such folder"),
        (kernel_gradient, {"input_size": (60, 64)}, "--input-size 60 64: both sides must be multiples of 32"),
        (counts, {"num_frames": 1}, "--num-frames 1: must be 2 or more"),
        (growth, {"width": 0.001}, "--width 0.001: must be 1/64"),
    ],
)
def test_what_cannot_be_timed_is_said_first(module, flags, message):
    with pytest.raises(UserError, match=message):
        module.main(module.Config(**flags))


@pytest.mark.parametrize(
    ("module", "lines"),
    [
        (inference, (r"^matrix product .* GFLOP/s", r"^clip by clip / video: [\d.]+ x  \([\d.]+ to [\d.]+\)$")),
        (training, (r"^released, bf16 .* clips/s .* MiB$", r"^released, recompute motion .* MiB$",
                    r"^released, freed memory given back / kept: [\d.]+ x  ")),
        (loading, (r"^cache ram +clips/s.*: [\d.]+, [\d.]+$", r"^off / disk, after the first epoch: [\d.]+ x")),
        (kernel_gradient, (r"^\| neck, conv_final: 256 to 256 channels( \| \d+){5} \|$",
                           r"^released, oneDNN, not channels-last: .* over strips: [\d.]+ x")),
        (counts, (r"^\| extractor ", r"^\| cross-slice ")),
        (growth, (r"^\| 5 \| [\d.,]+ \| [\d.,]+ \|$", r"^\| 1 x 1 \| [\d.,]+ \|$", r"^\| 10 \| [\d.,]+ \|$")),
    ],
    ids=["inference", "training", "loading", "kernel_gradient", "counts", "growth"],
)
def test_quick_forms_print_their_tables(module, lines, capsys):
    on_cpu = {"device": "cpu"} if hasattr(module.Config, "device") else {}  # a GPU's tables have other lines
    module.main(module.Config(quick=True, **on_cpu))
    printed = capsys.readouterr().out
    for line in lines:
        assert re.search(line, printed, re.MULTILINE), (line, printed)
    if module is inference:
        exporters = all(map(find_spec, ("onnx", "onnxscript", "onnxruntime")))
        assert bool(re.search(r"^video, ONNX / video: [\d.]+ x", printed, re.MULTILINE)) == exporters
