"""Precision-recall figure of an evaluation over the published curves of its data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.cli import UserError
from utils.evaluation_coco import RECALLS

PUBLISHED_FILE = Path(__file__).resolve().parents[1] / "model_data" / "published_pr_curves.json"
# Okabe and Ito's colours, told apart by colour-blind readers; the line styles tell them apart in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))


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


def save_pr_figure(path: Path, label: str, curve: Sequence[float], published: PublishedCurves | None = None) -> None:
    """Draw an evaluation's 101-point curve, over a handful of published ones if given, as a PNG.

    Numbers in the legend are AP50 in percent, the mean of each curve.
    """
    figure = Figure(figsize=(6.4, 3.6), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw = partial(_draw_curve, axes)
    draw(label, curve, color="black", linestyle="-", linewidth=2.4, zorder=5)
    if published is not None:
        styles = zip(cycle(COLOURS), cycle(STYLES), strict=False)
        for (name, other), (colour, style) in zip(published.selection().items(), styles, strict=False):
            draw(name, other, color=colour, linestyle=style, linewidth=1.3)
    _decorate(axes)
    heading = "AP50 in %" if published is None else f"{published.dataset}, AP50 in %"
    figure.legend(loc="outside right upper", title=heading, fontsize=8, title_fontsize=8, handlelength=3)
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --output") from None


def _draw_curve(axes: Axes, name: str, curve: Sequence[float], **style: object) -> None:
    """One curve up to the last recall that it reaches, where it falls to zero."""
    precision = np.asarray(curve, dtype=float)
    reached = int(np.flatnonzero(precision).max(initial=0)) + 2  # one point more, so that the fall shows
    axes.plot(RECALLS[:reached], precision[:reached], label=f"{name} ({100 * precision.mean():.1f})", **style)


def _decorate(axes: Axes) -> None:
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision (IoU 0.5)")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
