"""Published curves and the PR figure."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from utils.cli import UserError
from utils.evaluation_metrics import curve_precision, harmonic_mean
from utils.figures import load_published_curves, save_pr_figure

DATASETS = ("DAUB", "IRDST", "ITSDT-15K", "DMIST-60", "DMIST-100")


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


@pytest.mark.parametrize("curve", [[1.0] * 60 + [0.0] * 41, [0.0] * 101])
def test_pr_figure_is_a_picture_with_the_curve(tmp_path, curve):
    save_pr_figure(tmp_path / "pr.png", "this run", curve, load_published_curves("DAUB"))
    picture = np.asarray(Image.open(tmp_path / "pr.png").convert("RGB")).astype(int)
    assert picture.shape[1] >= 1000
    blue = np.abs(picture - (0x00, 0x72, 0xB2)).sum(axis=-1) < 30  # the best published method's line
    assert blue.sum() > 200
