"""--intensity: 16-bit frames whose window shows what 8-bit frames show are the same data to every command."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vid_map_coco
import vid_predict
from tests.training_cases import flags, make_data, read_weights, run, same_state, small_config
from utils.check_data import Config as CheckConfig
from utils.check_data import main as check_data
from utils.checkpoint import load_network
from utils.cli import UserError
from utils.show_batch import first_pairs
from utils.trainer import Trainer

LOW, HIGH = 1000.0, 2020.0  # a grey level is 4 counts


@pytest.fixture(scope="module")
def shallow(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "shallow")


@pytest.fixture(scope="module")
def deep(shallow) -> Path:
    """The same frames as 16-bit PNG files."""
    root = shallow.with_name("deep")
    shutil.copytree(shallow, root)
    for path in root.rglob("*.bmp"):
        counts = 1000 + 4 * np.array(Image.open(path)).astype(np.uint16)
        Image.fromarray(counts).save(path.with_suffix(".png"))
        path.unlink()
    for path in root.rglob("*2017.json"):
        path.write_text(path.read_text().replace(".bmp", ".png"))
    return root


@pytest.fixture(scope="module")
def weights(shallow, deep, tmp_path_factory) -> dict[str, Path]:
    """Runs of one epoch on each."""
    folder = tmp_path_factory.mktemp("runs")
    for root, rule in ((shallow, "full"), (deep, (LOW, HIGH))):
        Trainer(small_config(root, folder / root.name, epochs=1, intensity=rule)).fit()
    return {root.name: folder / root.name / "best.pth" for root in (shallow, deep)}


def test_training_and_validation_see_the_same(weights):
    first, second = (read_weights(weights[name].with_name("last.pth")) for name in ("shallow", "deep"))
    assert same_state(first["model"], second["model"])
    rows = [list(csv.DictReader(weights[name].with_name("metrics.csv").open())) for name in weights]
    assert [row["val_loss"] for row in rows[0]] == [row["val_loss"] for row in rows[1]]
    assert load_network(weights["shallow"]).intensity == "full"
    assert load_network(weights["deep"]).intensity == (LOW, HIGH)


def test_weights_from_before_there_was_a_choice_mean_the_full_range(weights, tmp_path):
    content = read_weights(weights["shallow"])
    del content["intensity"]
    torch.save(content, tmp_path / "old.pth")
    assert load_network(tmp_path / "old.pth").intensity == "full"
    torch.save({**content, "intensity": [2.0, 1.0]}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"odd\.pth.*intensity"):
        load_network(tmp_path / "odd.pth")


def test_detection_follows_the_weights_unless_told_otherwise(weights, shallow, deep, tmp_path):
    found = {}
    for name, root in (("shallow", shallow), ("deep", deep)):
        config = vid_map_coco.Config(
            weights[name],
            data_root=root,
            output=tmp_path / name,
            device="cpu",
            min_confidence=0.0,
            report=False,
            resamples=0,
            speed_frames=0,
        )
        vid_map_coco.main(config)
        found[name] = json.loads((tmp_path / name / "detections.json").read_text())
    assert found["deep"] == found["shallow"] and found["deep"]
    protocol = json.loads((tmp_path / "deep" / "metrics.json").read_text())["protocol"]
    assert protocol["intensity"] == [LOW, HIGH]
    vid_map_coco.main(replace(config, intensity="full", output=tmp_path / "other"))
    assert json.loads((tmp_path / "other" / "detections.json").read_text()) != found["deep"]


def test_prediction_follows_the_weights(weights, shallow, deep, tmp_path):
    found = []
    for name, root in (("shallow", shallow), ("deep", deep)):
        source = next((root / "images" / "test").iterdir())
        vid_predict.main(
            vid_predict.Config(
                str(source), weights[name], output=tmp_path / name, confidence=0.0, device="cpu", save="frames"
            )
        )
        results = json.loads((tmp_path / name / "detections.json").read_text())
        found.append([{**result, "file_name": Path(result["file_name"]).stem} for result in results])
    assert found[0] == found[1] and found[0]


def test_pictures_of_a_batch_follow_the_rule(shallow, deep, tmp_path):
    pairs = [
        first_pairs(small_config(root, tmp_path / "run", intensity=rule))
        for root, rule in ((shallow, "full"), (deep, (LOW, HIGH)))
    ]
    clips = [[sample.clip for pair in part.values() for sample in pair] for part in pairs]
    assert same_state(*clips)


def test_check_data_names_the_range_and_measures_contrast_in_it(shallow, deep, tmp_path, capsys):
    texts = {}
    for root, rule in ((shallow, "full"), (deep, (LOW, HIGH))):
        check_data(CheckConfig(root, output=tmp_path / root.name, workers=1, intensity=rule))
        texts[root.name] = capsys.readouterr().out.splitlines()
    contrast = [[line for line in texts[name] if "contrast" in line] for name in ("shallow", "deep")]
    assert contrast[0] == contrast[1] and contrast[0]
    named = [line for line in texts["deep"] if "--intensity" in line]
    low, high = map(float, named[0].split()[-2:])
    assert LOW <= low < high <= HIGH
    assert not any("--intensity" in line for line in texts["shallow"])


def test_a_window_that_is_none_is_refused_before_anything_else(deep, tmp_path, capsys):
    status, _, error = run(capsys, flags(deep, tmp_path / "run", intensity=("2000", "1000")))
    assert status == 2 and error == "error: --intensity 2000 1000: give LOW and HIGH, LOW below HIGH, or full\n"
    assert not (tmp_path / "run").exists()
