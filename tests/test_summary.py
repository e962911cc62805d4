"""utils.summary: the published sizes, the counts that tests hold elsewhere, another network, and its errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from nets import SSTNet
from utils import summary
from utils.checkpoint import save_weights
from utils.cli import run_command

LATENCY = re.compile(r"^latency_ms: ([\d.]+)$", re.MULTILINE)


def summarise(*argv: object) -> int:
    with pytest.raises(SystemExit) as stop:
        run_command(summary.main, summary.Config, [str(word) for word in argv])
    return stop.value.code


def rows(text: str) -> dict[str, list[str]]:
    """Cells of the table's rows, by their first."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in cells}


def test_the_published_network(capsys):
    assert summarise("--preset", "released", "--frames", 0) == 0
    printed = capsys.readouterr().out
    table = rows(printed)
    for part in ("extractor", "neck", "head", "detector"):
        ours, published = map(float, table[part][:2])
        assert ours == pytest.approx(published, abs=0.005)
    assert table["detector"][2:] == ["122.9", "123.6", "115.6", "74.1"]
    assert table["motion branch"][4] == "50.9 in training"
    assert 0 < float(table["motion branch"][0]) < float(table["motion branch"][1]) == 9.741
    assert not LATENCY.search(printed)


def test_a_weight_file_says_its_own_network_and_is_timed(tmp_path: Path, capsys):
    torch.manual_seed(0)
    model = SSTNet(num_classes=2, num_frames=3, num_slices=0, depth=0.1, width=0.0625)
    save_weights(tmp_path / "small.pth", model, ("plane", "bird"), (64, 96))
    assert summarise("--weights", tmp_path / "small.pth", "--frames", 4, "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert "2 class(es), clips of 3 frames of 64 x 96, depth 0.1, width 0.0625, no motion branch" in printed
    table = rows(printed)
    assert float(table["detector"][0]) == pytest.approx(sum(p.numel() for p in model.parameters()) / 1e6, abs=5e-4)
    assert table["motion branch"][0] == "0.000" and table["motion branch"][4] == ""
    assert float(LATENCY.search(printed)[1]) > 0 and "input_size: 64 x 96" in printed and "frames_timed: 4" in printed


def test_a_network_without_gate_is_counted(tmp_path: Path, capsys):
    """The gate is two convolutions over all reference frames, of the clip and of the equations alike."""
    neck = {}
    for gate in (True, False):
        model = SSTNet(num_slices=0, width=0.25, gate=gate)
        save_weights(tmp_path / "w.pth", model, ("target",), (512, 512))
        assert summarise("--weights", tmp_path / "w.pth", "--frames", 0) == 0
        neck[gate] = [float(cell) for cell in rows(capsys.readouterr().out)["neck"][2:] if cell]
    assert all(ours < gated for ours, gated in zip(neck[False], neck[True], strict=True))


def test_the_smallest_input_is_counted(capsys):
    assert summarise("--input-size", 32, 32, "--width", 0.0625, "--frames", 0) == 0
    assert "clips of 5 frames of 32 x 32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--weights", "missing.pth"), "no such file"),
        (("--weights", "missing.pth", "--width", 0.25), "--width is for a network without --weights"),
        (("--input-size", 100, 64), "multiples of 32"),
        (("--num-frames", 1), "num_frames must be 2 or more"),
        (("--num-classes", 0), "num_classes 0: must be 1 or more"),
        (("--depth", -3), "depth -3"),
        (("--width", 0.01), "width 0.01: must be above 0 and at least 1/64"),
        (("--frames", -1), "--frames -1: must be 0 or more"),
    ],
)
def test_bad_flags_are_one_line(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert summarise(*flags) == 2
    assert re.fullmatch(rf"error: .*{re.escape(message)}.*\n", capsys.readouterr().err)
