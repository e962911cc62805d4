"""Figures of evaluations, as wide as a column of a two-column paper: PR and Pd-Fa curves, sequences, confidences.

Every figure is written as PNG and SVG. Okabe and Ito's colours are told apart by colour-blind readers, line styles
and hatches tell them apart in grey print.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.cli import UserError, as_text
from utils.evaluation_coco import RECALLS
from utils.evaluation_metrics import ConfidenceHistogram, Evaluation
from utils.evaluation_report import make_folder
from utils.fonts import font_families
from utils.pd_fa import PdFaCurve
from utils.published_curves import PublishedCurves

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ((0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "----")
WIDTH = 3.5  # inches: a column of a two-column paper; nothing needs to be scaled down, so fonts keep their size
CURVES = 7  # in one figure, at most, unless there are more detectors than that
MAX_BARS = 60  # sequences in one figure: the worst
SETTINGS = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "sstnet",  # the same figure gives the same bytes
}


FIGURES = ("pr_curve", "pd_fa_curve", "ap_by_sequence", "confidence")  # what save_figures draws, at most


def save_figures(
    folder: Path, runs: Mapping[str, Evaluation], published: PublishedCurves | None = None
) -> dict[str, Path]:
    """Write the figures of one evaluation or several into a folder, each as PNG and SVG; the PNG paths by name.

    `runs`: evaluations by the name to show. The confidence histogram is that of a single run.
    """
    runs = {as_written(name): run for name, run in runs.items()}
    first = next(iter(runs.values()))
    drawings: dict[str, Callable[[Figure], None]] = {
        "pr_curve": lambda figure: draw_pr(figure, {name: run.pr_curve for name, run in runs.items()}, published),
        "pd_fa_curve": lambda figure: draw_pd_fa(
            figure,
            {name: run.pd_fa_curve for name, run in runs.items()},
            {name: (run.pd_fa.false_alarms_per_frame, run.pd_fa.pd) for name, run in runs.items()},
        ),
        "ap_by_sequence": lambda figure: draw_sequences(
            figure, {n: {as_written(s): m.mAP50 for s, m in run.per_sequence.items()} for n, run in runs.items()}
        ),
    }
    if len(runs) == 1:
        drawings["confidence"] = lambda figure: draw_confidences(
            figure, first.confidences, first.operating_point.confidence
        )
    return {name: _save(folder / f"{name}.png", draw) for name, draw in drawings.items()}


def as_written(name: str) -> str:
    """A name that Matplotlib shows as it is: no formula between $ signs, no leading _, which hides it in legends."""
    name = as_text(name).replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _save(path: Path, draw: Callable[[Figure], None]) -> Path:
    """Draw a figure and write it as PNG (300 dots an inch) and SVG."""
    make_folder(path.parent)
    with matplotlib.rc_context({**SETTINGS, "font.family": font_families()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # an empty box in its place says as much
        figure = Figure(figsize=(WIDTH, 2.9), dpi=300, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        try:
            figure.savefig(path)
            figure.set_layout_engine("none")  # it stands, and need not be found again
            figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --output") from None
    return path


def draw_pr(figure: Figure, runs: Mapping[str, Sequence[float]], published: PublishedCurves | None) -> None:
    """101-point curves of evaluations over a handful of published ones; the legend has each one's mean, its AP50."""
    axes = figure.add_subplot()
    for name, curve, style in zip(runs, runs.values(), _run_styles(), strict=False):
        _draw_curve(axes, name, curve, zorder=5, **style)
    others = {} if published is None else published.selection(max(2, CURVES - len(runs)))
    spare = _styles(len(runs) - 1)
    for (name, curve), style in zip(others.items(), spare, strict=False):
        _draw_curve(axes, name, curve, linewidth=1.0, **style)
    _decorate(axes, "recall", "precision (IoU 0.5)")
    axes.set_xlim(0, 1.01)
    axes.set_xticks(np.linspace(0, 1, 6))
    heading = "AP50 in %" if published is None else f"AP50 in % on {published.dataset}"
    _legend(figure, len(runs) + len(others), heading)


def draw_pd_fa(
    figure: Figure, runs: Mapping[str, PdFaCurve], points: Mapping[str, tuple[float, float]]
) -> None:
    """Pd over false alarms per frame; a dot marks the stated confidence (false alarms per frame, Pd)."""
    axes = figure.add_subplot()
    rates = [rate for curve in runs.values() for rate in curve.false_alarms_per_frame if rate > 0]
    low = min(min(rates, default=0.01) / 2, 0.01)  # stands for none at all, which a logarithm cannot show
    high = max([1.0, *rates]) * 1.3
    for name, curve, style in zip(runs, runs.values(), _run_styles(), strict=False):
        x = np.maximum([0.0, *curve.false_alarms_per_frame], low)
        y = np.array([0.0, *curve.pd])
        axes.plot(x, y, drawstyle="steps-post", label=name, zorder=3, **style)
        rate, pd = points[name]
        axes.plot(max(rate, low), pd, "o", markersize=4, color=style["color"], zorder=4, clip_on=False)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    _decorate(axes, "false alarms per frame (boxes that hit nothing)", "Pd (centre within 3 pixels)")
    if len(runs) > 1:
        _legend(figure, len(runs), None)


def draw_sequences(figure: Figure, runs: Mapping[str, Mapping[str, float]]) -> None:
    """AP50 of every sequence as bars, the worst of the first run on top."""
    first = next(iter(runs.values()))
    names = sorted(first, key=lambda name: first[name])[:MAX_BARS]
    bar = 0.8 / len(runs)
    size = 0.14 if len(runs) == 1 else 0.09 * len(runs) + 0.08  # inches a sequence
    figure.set_size_inches(WIDTH, max(1.3, 0.75 + size * len(names)))
    axes = figure.add_subplot()
    styles = zip(_run_styles(), cycle(HATCHES), strict=False)
    for n, ((label, values), (style, hatch)) in enumerate(zip(runs.items(), styles, strict=False)):
        places = np.arange(len(names)) + (n - (len(runs) - 1) / 2) * bar
        widths = [100 * values.get(name, 0.0) for name in names]
        look = {"color": "0.25" if n == 0 else style["color"], "hatch": hatch, "edgecolor": "white", "linewidth": 0}
        axes.barh(places, widths, bar, label=label, **look)
        if len(runs) == 1:
            for place, width in zip(places, widths, strict=True):
                axes.text(width + 1, place, f"{width:.1f}", va="center", fontsize=6.5)
    axes.set_yticks(np.arange(len(names)), names, fontsize=7 if len(names) < 30 else 6)
    axes.invert_yaxis()
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set(xlim=(0, 108 if len(runs) == 1 else 101))
    axes.set_xticks(np.arange(0, 101, 20))
    left_out = len(first) - len(names)
    axes.set_xlabel("AP50 in %" + (f" ({left_out} better sequences left out)" if left_out else ""))
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(runs) > 1:
        _legend(figure, len(runs), None)


def draw_confidences(figure: Figure, histogram: ConfidenceHistogram, confidence: float) -> None:
    """How many detections of each confidence are hits and how many are not; a line at the stated confidence."""
    figure.set_size_inches(WIDTH, 2.4)
    axes = figure.add_subplot()
    edges = np.array(histogram.edges)
    others, hits = np.maximum(histogram.others, 0.3), np.maximum(histogram.hits, 0.3)  # below 1: empty
    axes.stairs(others, edges, fill=True, color="#E69F00", alpha=0.9, hatch="////", edgecolor="white", label="no hit")
    axes.stairs(hits, edges, color="#0072B2", linewidth=1.8, label="hits (IoU 0.5)")
    axes.axvline(confidence, color="0.2", linewidth=1, linestyle=STYLES[0], label=f"confidence {confidence:g}")
    axes.set_yscale("log")
    highest = max(*histogram.hits, *histogram.others, 10)
    axes.set(xlim=(0, 1), ylim=(0.5, 2 * highest), xlabel="confidence", ylabel="detections")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, handlelength=1.8, columnspacing=1.2)


def _run_styles() -> Iterator[dict]:
    """Line styles of evaluations: the first black, all thicker than published curves."""
    yield {"color": "black", "linestyle": "-", "linewidth": 1.7}
    for style in _styles(0):
        yield {**style, "linewidth": 1.7}


def _styles(first: int) -> Iterator[dict]:
    """Colours and broken lines from the `first` of each on, again and again."""
    pairs = zip(cycle(COLOURS), cycle(STYLES), strict=False)
    for n, (colour, style) in enumerate(pairs):
        if n >= first:
            yield {"color": colour, "linestyle": style}


def _draw_curve(axes: Axes, name: str, curve: Sequence[float], **style: object) -> None:
    """One curve up to the last recall that it reaches, where it falls to zero."""
    precision = np.asarray(curve, dtype=float)
    reached = int(np.flatnonzero(precision).max(initial=0)) + 2  # one point more, so that the fall shows
    axes.plot(RECALLS[:reached], precision[:reached], label=f"{name} ({100 * precision.mean():.1f})", **style)


def _decorate(axes: Axes, x: str, y: str) -> None:
    axes.set(ylim=(0, 1.02), xlabel=x, ylabel=y)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, entries: int, heading: str | None) -> None:
    """A legend above the axes in two columns, which the figure grows for."""
    rows = (entries + 1) // 2
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.15 * rows)
    figure.legend(
        loc="outside upper center", ncols=2, title=heading, title_fontsize=7.5, handlelength=2.8, frameon=False,
        columnspacing=1.2, borderaxespad=0.1,
    )
