"""What the frames of one sequence folder say: sizes, damage, jumps, repeats, contrast and order."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from utils.cli import UserError
from utils.frame_order import Order, RunJudge, windows
from utils.frames import (
    RANGE,
    Intensity,
    few_levels,
    read_image_size,
    read_values,
    sequence_frames,
    split_runs,
    to_grey,
)
from utils.scr import measure_scr

BLOCK = 4096  # bytes of a file's start, middle and end that stand for it until a pair is compared as a whole
NAMED = 3  # jumps or breaks that a line names


@dataclass(frozen=True)
class FolderJob:
    """A folder to look at: where its frames are annotated, and their boxes (n, 4) x1, y1, x2, y2, by file name."""

    folder: Path
    where: Mapping[str, str]
    boxes: Mapping[str, np.ndarray]
    decode: bool  # all pixels; otherwise those of a few windows
    intensity: Intensity = "full"

    @property
    def label(self) -> str:
        """The sequence and the place in the file where it begins."""
        return f"{next(iter(self.where.values()))}: sequence {self.folder}"


@dataclass
class FolderFacts:
    """What was found in one folder."""

    folder: Path
    label: str
    frames: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (h, w)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    digests: dict[str, bytes] = field(default_factory=dict)  # by file name; equal ones may be the same picture
    scr: list[float] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    deep: list[tuple[float, float]] = field(default_factory=list)  # range of values of frames of more than 8 bits
    few_levels: str = ""  # what was said of their contrast


def inspect_folder(job: FolderJob) -> FolderFacts:
    """Look at one folder; all that is wrong is in the facts that come back."""
    facts = FolderFacts(job.folder, job.label)
    try:
        paths = sequence_frames(job.folder)
    except UserError as error:
        facts.errors.append(f"{job.label}: {error}")
        return facts
    facts.frames = len(paths)
    sound = _read_headers(paths, facts)
    _say_repeats([path for path in paths if path.name in sound], facts)
    runs = split_runs(paths)
    if len(runs) > 1:
        jumps = [f"{before[-1].name} to {after[0].name}" for before, after in pairwise(runs)]
        facts.warnings.append(
            f"{job.label}: frame numbers jump, {_few(jumps)} ({len(jumps)} in all); clips do not reach across"
        )
    if extra := len(sound - job.where.keys()):
        facts.warnings.append(
            f"{job.label}: {extra} of its {len(paths)} frames are not annotated; they only stand before others in clips"
        )
    for run in runs:
        _look(job, [path for path in run if path.name in sound], facts)
    return facts


def _few(items: Sequence[str]) -> str:
    return ", ".join(items[:NAMED]) + (", ..." if len(items) > NAMED else "")


def _read_headers(paths: Sequence[Path], facts: FolderFacts) -> set[str]:
    """Sizes and digests; returns the names of frames whose header can be read.

    Frames with a broken header or of another size are named where the annotations are checked.
    """
    sizes = {}
    for path in paths:
        try:
            sizes[path] = read_image_size(path)
            facts.digests[path.name] = _digest(path)
        except (UserError, OSError):
            continue
    facts.sizes.update(sizes.values())
    return {path.name for path in sizes}


def _digest(path: Path) -> bytes:
    """A digest of a file's length and of three blocks of it."""
    with path.open("rb") as file:
        length = file.seek(0, 2)
        digest = hashlib.blake2b(str(length).encode(), digest_size=16)
        for start in sorted({0, max(0, length // 2 - BLOCK // 2), max(0, length - BLOCK)}):
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.digest()


def _say_repeats(paths: Sequence[Path], facts: FolderFacts) -> None:
    """Warn of frames that repeat the one before byte for byte, as of a camera that stands still for a moment."""
    repeats = [
        after.name
        for before, after in pairwise(paths)
        if facts.digests[before.name] == facts.digests[after.name] and before.read_bytes() == after.read_bytes()
    ]
    if repeats:
        facts.warnings.append(
            f"{facts.label}: {_few(repeats)} ({len(repeats)} in all) repeat the frame before, so nothing moves there; "
            "look whether a frame was written twice"
        )


def _look(job: FolderJob, run: Sequence[Path], facts: FolderFacts) -> None:
    """Decode the frames of a run, or some of them: damage, contrast of the targets, order."""
    places = windows(len(run), job.decode)
    wanted = range(len(run)) if job.decode else sorted({k for window in places for k in window})
    judge = RunJudge(places)
    for place in wanted:
        path = run[place]
        try:
            values = read_values(path)
            if values.dtype != np.uint8 and np.isfinite(values).all():
                facts.deep.append(tuple(np.percentile(values, RANGE).tolist()))
            frame = to_grey(values, job.intensity, path)
        except UserError as error:
            facts.errors.append(f"{job.where.get(path.name, job.label)}: {error}")
            continue
        if not facts.few_levels and (note := few_levels(values, frame, job.intensity)):
            facts.few_levels = note
            facts.warnings.append(f"{job.where.get(path.name, job.label)}: {path}: {note}")
        judge.add(place, frame)
        height, width = frame.shape
        for box in job.boxes.get(path.name, ()):
            x1, y1, x2, y2 = box.astype(int)
            if 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height and (x2 - x1) * (y2 - y1) < height * width:
                facts.scr.append(measure_scr(frame, box))
    if order := judge.order():
        facts.orders.append(order)
        _say_order(job, run, order, facts)


def _say_order(job: FolderJob, run: Sequence[Path], order: Order, facts: FolderFacts) -> None:
    label = f"{job.label}, {run[0].name} to {run[-1].name}"
    if order.shuffled:
        facts.errors.append(
            f"{label}: frames are out of temporal order: neighbours are no more alike than frames drawn by chance "
            f"(smoothness {order.smoothness:.2f} over {order.frames} frames; 1 is the best order, 0 chance, sequences "
            "in order have 0.45 and more); number the frames as they were taken"
        )
    elif order.breaks:
        breaks = [f"after {run[k].name}" for k in order.breaks]
        facts.warnings.append(
            f"{label}: {len(breaks)} long steps between neighbours that look more like other frames ({_few(breaks)}); "
            f"blocks of frames may be out of order, or the camera jerks (smoothness {order.smoothness:.2f})"
        )
