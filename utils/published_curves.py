"""Precision-recall curves that the authors' group published, to lay an evaluation's own over."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.cli import UserError

PUBLISHED_FILE = Path(__file__).resolve().parents[1] / "model_data" / "published_pr_curves.json"
DATASETS = ("DAUB", "IRDST", "ITSDT-15K", "DMIST-60", "DMIST-100")


@dataclass(frozen=True)
class PublishedCurves:
    """Published PR curves of one data set: precision at recall 0, 0.01, ..., 1 by method."""

    dataset: str
    test_frames: int | None  # frames of the whole test set, where known
    curves: dict[str, tuple[float, ...]]

    def selection(self, limit: int = 6) -> dict[str, tuple[float, ...]]:
        """SSTNet's curve and those of the best other methods, `limit` in all, best first."""
        ranked = sorted(self.curves, key=lambda name: -np.mean(self.curves[name]))
        others = [name for name in ranked if name != "SSTNet"]
        chosen = {"SSTNet", *others[: limit - 1]}
        return {name: self.curves[name] for name in ranked if name in chosen}


def load_published_curves(dataset: str) -> PublishedCurves:
    """The published curves of a data set; `UserError` names the data sets that there are."""
    content = json.loads(PUBLISHED_FILE.read_text(encoding="utf-8"))
    if dataset not in content["curves"]:
        raise UserError(f"no published curves of {dataset!r}; there are: {', '.join(content['curves'])}")
    curves = {name: tuple(curve) for name, curve in content["curves"][dataset].items()}
    return PublishedCurves(dataset, content["test_frames"][dataset], curves)
