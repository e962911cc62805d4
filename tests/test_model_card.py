"""The model card's tables: what the result files say, and result files are what an evaluation said."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.model_card import CARD, DATA, Config, card_tables, main, read_results, weights_table
from benchmarks.results import RESULTS, fill, table
from nets import SSTNet
from tests.training_cases import make_data, run
from utils.checkpoint import DEFAULT_WEIGHTS, save_weights
from utils.cli import UserError
from utils.published_curves import load_published_curves


def test_committed_card_says_what_the_result_files_say():
    page = CARD.read_text(encoding="utf-8")
    assert fill(page, card_tables(read_results(RESULTS / "card")), "the card") == page


def test_committed_results_are_of_the_committed_weights():
    """All or none: a card without weights, or numbers of other weights, would mislead."""
    digests = {json.loads(path.read_text())["weights_sha256"] for path in (RESULTS / "card").glob("*.json")}
    wanted = {hashlib.sha256(DEFAULT_WEIGHTS.read_bytes()).hexdigest()} if DEFAULT_WEIGHTS.is_file() else set()
    assert digests <= wanted


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = SSTNet(num_frames=2, num_slices=0, num_layers=0, width=0.0625)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    save_weights(path, model, ("target",), (64, 64))
    return path


def test_a_data_set_is_measured_and_its_tables_written(weights, tmp_path, capsys):
    data, card, results = make_data(tmp_path / "data"), tmp_path / "card.md", tmp_path / "results"
    shutil.copy(CARD, card)
    flags = ["--weights", weights, "--card", card, "--results", results, "--output", tmp_path / "out"]
    named = ["--name", "synthetic_easy", "--data-root", data]
    status, out, error = run(capsys, [*map(str, [*flags, *named])], Config, main)
    assert status == 0, error
    result = json.loads((results / "synthetic_easy.json").read_text())
    metrics = json.loads((tmp_path / "out" / "synthetic_easy" / "metrics.json").read_text())
    assert result["counts"] == metrics["counts"] and result["counts"]["frames"] > 0
    assert result["published"]["mAP50"] == round(metrics["published"]["mAP50"], 4)
    assert str(tmp_path) not in json.dumps(result) + (results / "weights.json").read_text()
    page = card.read_text()
    frames = result["counts"]["frames"]
    assert f"| {DATA['synthetic_easy']} | {frames} | {100 * result['published']['mAP50']:.1f} |" in page
    assert "| file | `tiny.pth`, 0." in page
    scr = result["per_scr"][0]
    assert f" | {100 * scr['pd']:.1f} ({scr['targets']}) |" in page

    # Weights that are not those of the older results: these are left out, not mixed.
    changed = json.loads((results / "synthetic_easy.json").read_text()) | {"weights_sha256": "0" * 64}
    (results / "synthetic_easy.json").write_text(json.dumps(changed))
    status, _, error = run(capsys, [*map(str, flags)], Config, main)
    assert status == 0 and "note: synthetic_easy: measured with other weights" in error
    assert DATA["synthetic_easy"] not in card.read_text()


def test_published_numbers_are_the_curves():
    curve = load_published_curves("DAUB").curves["SSTNet"]
    assert f"| DAUB | 4795 | {100 * sum(curve) / len(curve):.1f} |" in card_tables({})["published"]


def test_settings_are_written_as_they_are_typed():
    made = {"settings": {"crop": 160, "flip": True, "gate": False, "input_size": [64, 96]}, "epochs_done": 7}
    about = {
        "file": "w.pth", "bytes": 24_100_000, "weights_sha256": "0" * 64, "class_names": ["a", "b"], "confidence": 0.3,
        "architecture": {"num_frames": 5, "depth": 0.33, "width": 0.5}, "input_size": [512, 512],
        "frame_scales": [1, 2], "provenance": made,
    }  # fmt: skip
    lines = weights_table(about)
    assert "| `--crop 160` `--flip` `--no-gate` `--input-size 64 96` |" in lines and "| epochs done | 7 |" in lines
    assert "| trained by | not recorded |" in lines
    about["provenance"] = made | {"revision": "abc", "torch": "2.9"}
    assert "| trained by | revision abc, torch 2.9 |" in weights_table(about)


def test_a_name_needs_data(capsys):
    assert run(capsys, ["--name", "DAUB"], Config, main)[0] == 2


def test_pages_and_tables_must_agree():
    page = "a\n<!-- table: one -->\nold\n<!-- end -->\nb\n"
    new = table(("x", "y"), [("k", 1)])
    assert fill(page, {"one": new}, "p.md") == f"a\n<!-- table: one -->\n{new}\n<!-- end -->\nb\n"
    assert fill(page, {"one": None}, "p.md") == page  # no results to write it from
    assert new == "| x | y |\n| --- | ---: |\n| k | 1 |"
    for tables in ({}, {"one": "", "two": ""}):
        with pytest.raises(UserError, match=r"p\.md: has marks of the tables one"):
            fill(page, tables, "p.md")
