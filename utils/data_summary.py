"""Summary of a data set for people: a table as text, and one picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.figures import as_written
from utils.frame_order import Order

COLOURS = ("#0072B2", "#D55E00")  # told apart by colour-blind readers


@dataclass
class SplitSummary:
    """What one annotation file and its frames hold."""

    name: str
    frames: int
    sequences: Counter[str]  # annotated frames of each
    targets: Counter[int]  # frames with so many targets
    sides: list[float]  # square root of each box's area, pixels
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (h, w) of the frames in the folders
    scr: list[float] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    deep: list[tuple[float, float]] = field(default_factory=list)  # range of values of frames of more than 8 bits

    def lines(self) -> list[str]:
        """The summary as text."""
        lengths = list(self.sequences.values())
        longest = f"{min(lengths)} to {max(lengths)} frames" if lengths else "none"
        sizes = ", ".join(f"{w} x {h} ({n})" for (h, w), n in self.sizes.most_common(4))
        more = f" and {len(self.sizes) - 4} more" if len(self.sizes) > 4 else ""
        targets = ", ".join(f"{count} in {n}" for count, n in sorted(self.targets.items()))
        told = [order.smoothness for order in self.orders if order.smoothness is not None]
        order = f"median {np.median(told):.2f}, lowest {min(told):.2f}" if told else "cannot be told"
        lines = [
            f"{self.name}: {self.frames} frames in {len(self.sequences)} sequences of {longest}",
            f"  frame sizes (width x height): {sizes or 'unknown'}{more}",
            f"  targets a frame: {targets}",
            f"  target sizes (root of the box area): {_spread(self.sides, 'pixels')}",
            f"  contrast (SCR): {_spread(self.scr, '')}",
            f"  smoothness of the frames' order (1 best, 0 chance): {order}",
        ]
        if self.deep:
            low, high = np.min(self.deep, axis=0)[0], np.max(self.deep, axis=0)[1]
            lines.append(
                f"  values of the {len(self.deep)} 16-bit or float frames looked at: {low:g} to {high:g}, but for "
                f"0.1 % at either end; to use this range alone: --intensity {low:g} {high:g}"
            )
        return lines


def _spread(values: Sequence[float], unit: str) -> str:
    if not values:
        return "none measured"
    low, middle, high = np.percentile(values, [10, 50, 90])
    tails = f"10 % below {low:.1f}, 10 % above {high:.1f}, {len(values)} boxes"
    return f"median {middle:.1f} {unit}".rstrip() + f", {tails}"


def save_summary_figure(splits: Sequence[SplitSummary], path: Path) -> None:
    """One PNG: lengths of the sequences, targets a frame, target sizes and contrast, each split in its colour."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2).ravel()
    _draw_sequences(axes[0], splits)
    _draw_targets(axes[1], splits)
    _draw_spread(axes[2], [split.sides for split in splits], "target size: root of the box area, pixels")
    _draw_spread(axes[3], [split.scr for split in splits], "contrast: SCR of the target")
    handles = [axes[0].bar(0, 0, color=colour) for colour, _ in zip(COLOURS, splits, strict=False)]
    labels = [f"{as_written(split.name)}: {split.frames} frames, {len(split.sequences)} sequences" for split in splits]
    figure.legend(handles, labels, loc="outside upper center", ncols=1, frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _draw_sequences(axis: Axes, splits: Sequence[SplitSummary]) -> None:
    start = 0
    names: list[str] = []
    for split, colour in zip(splits, COLOURS, strict=False):
        axis.bar(range(start, start + len(split.sequences)), list(split.sequences.values()), color=colour)
        names += split.sequences
        start += len(split.sequences)
    axis.set_xlabel("sequence")
    axis.set_ylabel("annotated frames")
    if len(names) <= 30:
        shown = [as_written(Path(name).name) for name in names]
        axis.set_xticks(range(len(names)), shown, rotation=60, ha="right", fontsize=8)
    else:
        axis.set_xticks([])


def _draw_targets(axis: Axes, splits: Sequence[SplitSummary]) -> None:
    most = max((count for split in splits for count in split.targets), default=0)
    width = 0.8 / max(len(splits), 1)
    for number, (split, colour) in enumerate(zip(splits, COLOURS, strict=False)):
        counts = [split.targets[k] for k in range(most + 1)]
        axis.bar(np.arange(most + 1) + (number - (len(splits) - 1) / 2) * width, counts, width, color=colour)
    axis.set_xticks(range(most + 1))
    axis.set_xlabel("targets in a frame")
    axis.set_ylabel("frames")


def _draw_spread(axis: Axes, values: Sequence[Sequence[float]], label: str) -> None:
    together = np.concatenate([np.asarray(part, float) for part in values]) if values else np.zeros(0)
    axis.set_xlabel(label)
    axis.set_ylabel("share of boxes")
    if not len(together):
        axis.text(0.5, 0.5, "none measured", ha="center", va="center", transform=axis.transAxes)
        return
    low, high = np.percentile(together, [0, 99.5])
    edges = np.linspace(low, max(high, low + 1), 41)
    for part, colour in zip(values, COLOURS, strict=False):
        if len(part):
            weights = np.full(len(part), 1 / len(part))
            axis.hist(np.clip(part, *edges[[0, -1]]), edges, weights=weights, color=colour, alpha=0.6)
