"""Published curves, and the figures of evaluations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation_cases import DETECTIONS, TARGETS, ground_truth
from utils.cli import UserError
from utils.evaluation import evaluate
from utils.evaluation_metrics import curve_precision, harmonic_mean
from utils.figures import COLOURS, save_figures
from utils.published_curves import DATASETS, load_published_curves


def test_published_daub_curve_gives_the_table_of_the_paper():
    curve = load_published_curves("DAUB").curves["SSTNet"]
    assert 100 * np.mean(curve) == pytest.approx(95.59, abs=0.006)
    precision = curve_precision(curve, recall=0.9810)
    assert 100 * precision == pytest.approx(98.08, abs=0.006)
    assert 100 * harmonic_mean(precision, 0.9810) == pytest.approx(98.09, abs=0.006)


@pytest.mark.parametrize(
    ("dataset", "methods", "name", "mean"),
    [
        ("DAUB", 14, "Tridos", 97.80),
        ("IRDST", 25, "SSTNet", 70.03),
        ("ITSDT-15K", 14, "STMENet", 77.34),
        ("DMIST-60", 15, "SSTNet", 63.64),
        ("DMIST-100", 15, "SSTNet", 52.59),
    ],
)
def test_published_curves_are_whole(dataset: str, methods: int, name: str, mean: float):
    curves = load_published_curves(dataset).curves
    assert len(curves) == methods
    assert {len(curve) for curve in curves.values()} == {101}
    assert 100 * np.mean(curves[name]) == pytest.approx(mean, abs=0.01)


def test_unknown_published_data_set_is_named():
    with pytest.raises(UserError, match="'SIRST'.*DAUB, IRDST"):
        load_published_curves("SIRST")


@pytest.mark.parametrize("dataset", DATASETS)
def test_figure_choice_is_readable_and_has_sstnet(dataset: str):
    chosen = load_published_curves(dataset).selection()
    means = [np.mean(curve) for curve in chosen.values()]
    assert "SSTNet" in chosen and len(chosen) == 6
    assert means == sorted(means, reverse=True)


COCO = ground_truth(TARGETS, 2)
NOTHING = ground_truth([], 2)


def test_figures_are_as_wide_as_a_column_and_written_twice(tmp_path):
    paths = save_figures(tmp_path, {"this run": evaluate(COCO, DETECTIONS)}, load_published_curves("DAUB"))
    assert set(paths) == {"pr_curve", "pd_fa_curve", "ap_by_sequence", "confidence"}
    for path in paths.values():
        assert Image.open(path).size[0] == 1050  # 3.5 inches at 300 dots an inch
        assert b"<svg" in path.with_suffix(".svg").read_bytes()[:1000]


def coloured(path: Path, colour: str) -> int:
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    red, green, blue = (int(colour[n : n + 2], 16) for n in (1, 3, 5))
    return int((np.abs(picture - (red, green, blue)).sum(axis=-1) < 30).sum())


def test_pr_figure_shows_the_run_and_published_methods(tmp_path):
    run = evaluate(COCO, DETECTIONS)
    alone = save_figures(tmp_path / "a", {"run": run})["pr_curve"]
    over = save_figures(tmp_path / "b", {"run": run}, load_published_curves("DAUB"))["pr_curve"]
    for colour in COLOURS:  # six published methods, each in a colour of its own
        assert coloured(alone, colour) == 0 and coloured(over, colour) > 300


def test_figures_of_several_runs(tmp_path):
    runs = {"one": evaluate(COCO, DETECTIONS), "two": evaluate(COCO, DETECTIONS[1:])}
    paths = save_figures(tmp_path, runs)
    assert set(paths) == {"pr_curve", "pd_fa_curve", "ap_by_sequence"}
    assert all(coloured(path, COLOURS[0]) > 300 for path in paths.values())  # the second run


def test_names_are_drawn_as_they_are_written(tmp_path):
    run = evaluate(COCO, DETECTIONS)
    path = save_figures(tmp_path, {"one": run, "_ours": run, "a$b$_^": run})["pd_fa_curve"]
    drawn = path.with_suffix(".svg").read_text()  # which has each text in a comment beside its outlines
    assert "<!--  _ours -->" in drawn and "<!-- a$b$_^ -->" in drawn


@pytest.mark.parametrize(("coco", "results"), [(COCO, []), (NOTHING, DETECTIONS), (NOTHING, [])])
def test_figures_of_nothing(tmp_path, coco, results):
    for path in save_figures(tmp_path, {"run": evaluate(coco, results, include_empty_frames=True)}).values():
        assert Image.open(path).size[0] == 1050


def test_many_sequences_are_cut_to_the_worst(tmp_path):
    coco = ground_truth([(n, 1, 10, 10, 8, 8) for n in range(1, 101)], 100)
    for image in coco["images"]:
        image["file_name"] = f"test/{image['id']}/0.bmp"
    path = save_figures(tmp_path, {"run": evaluate(coco, [])})["ap_by_sequence"]
    assert "40 better sequences left out" in path.with_suffix(".svg").read_text()


def test_a_figure_is_the_same_bytes_every_time(tmp_path):
    run = evaluate(COCO, DETECTIONS)
    first, second = (save_figures(tmp_path / name, {"run": run}) for name in "ab")
    for name in first:
        for suffix in (".png", ".svg"):
            assert first[name].with_suffix(suffix).read_bytes() == second[name].with_suffix(suffix).read_bytes()
