"""Failure gallery: the worst misses and the most confident false alarms, each with the frames that lead up to it.

Failures of one target (or of one place) in neighbouring frames are one case, so that a target that is lost for a
hundred frames does not fill the gallery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from utils.annotations import Annotations
from utils.cli import UserError
from utils.clips import ClipIndex
from utils.drawing import COLOURS, Mark, Rect, blend, mark_lines, text_masks
from utils.evaluation import Scored
from utils.evaluation_groups import number_sequences
from utils.frames import Intensity, natural_key, read_frame
from utils.pd_fa import CENTRE_DISTANCE

CELL = 240  # pixels a side of a magnified place
SIDE = 40  # pixels of the image that it shows, or more for large targets
REACH = 12.0  # pixels that a failure may move from frame to frame and still be the same case
BREAK = 5  # scored frames later it may come back
SAME_PLACE = 3.0  # pixels: what comes back to its first place is the same case after any time
MOST = 20_000  # failures that are looked at, worst first
ANNOTATED = (255, 255, 255)
UNSURE = (170, 170, 170)
GAP = 6


@dataclass(frozen=True, eq=False)
class Case:
    """One failure, the worst of those that belong together."""

    kind: Literal["miss", "false alarm"]
    frame: int  # position in the ground truth's frames
    box: np.ndarray  # (4,) x, y, w, h of the target or the detection
    confidence: float  # of the detection; of a miss the highest that would have found it, -inf: none would
    scr: float | None  # of the target
    frames: int  # in which the case shows


@dataclass(frozen=True, eq=False)
class Cell:
    """One frame of a case: its name and the magnified place (CELL, CELL, 3) with marks."""

    name: str
    picture: np.ndarray


@dataclass(frozen=True, eq=False)
class Strip:
    """A case as a person looks at it: two lines of text, and its frames up to the key frame, which comes last."""

    title: str
    text: str
    cells: tuple[Cell, ...]


def choose_cases(scored: Scored, count: int) -> tuple[list[Case], list[Case]]:
    """The `count` worst misses and most confident false alarms, by centre distance at the stated confidence.

    The worst miss is the one that the lowest confidence would not have found; of equal ones that of the highest
    contrast, which should have been the easiest.
    """
    truth, found, centres = scored.truth, scored.detections, scored.centres
    confidence = scored.evaluation.operating_point.confidence
    contrast = np.full(len(truth.image), np.nan) if scored.scr is None else scored.scr
    missed = np.flatnonzero(~truth.crowd & (centres.found_at < confidence))
    missed = missed[np.lexsort((-np.nan_to_num(contrast[missed]), centres.found_at[missed]))]
    alarms = np.flatnonzero(centres.false_alarm & (found.scores >= confidence))
    alarms = alarms[np.argsort(-found.scores[alarms], kind="stable")]
    groups = [
        _episodes(truth.file_names, source.image[worst[:MOST]], source.centres(worst[:MOST]))
        for source, worst in ((truth, missed), (found, alarms))
    ]
    misses = [
        Case("miss", int(truth.image[g]), truth.boxes[g], float(centres.found_at[g]), _known(contrast[g]), shown)
        for group in groups[0][:count]
        for g, shown in [(missed[group[0]], len(set(truth.image[missed[group]].tolist())))]
    ]
    false_alarms = [
        Case("false alarm", int(found.image[d]), found.boxes[d], float(found.scores[d]), None, shown)
        for group in groups[1][:count]
        for d, shown in [(alarms[group[0]], len(set(found.image[alarms[group]].tolist())))]
    ]
    return misses, false_alarms


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _episodes(file_names: Sequence[str], image: np.ndarray, centres: np.ndarray) -> list[list[int]]:
    """Group failures (frame positions and centres, worst first) that belong together; groups as they are ranked.

    Each group lists positions in the arguments, its worst first.
    """
    _, sequence = number_sequences(file_names)
    names = [natural_key(name.replace("\\", "/")) for name in file_names]
    time = np.empty(len(names), dtype=int)
    time[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    groups: list[list[int]] = []
    for n in np.unique(sequence[image]):
        own = np.flatnonzero(sequence[image] == n)
        own = own[np.argsort(time[image[own]], kind="stable")]
        members: list[list[int]] = []
        first, last, seen = np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0)
        for k in own.tolist():
            now, place = time[image[k]], centres[k]
            step, back = (np.linalg.norm(places - place, axis=1) for places in (last, first))
            fits = np.flatnonzero(((now - seen <= BREAK) & (step <= REACH)) | (back <= SAME_PLACE))
            if len(fits):
                group = fits[np.argmin(step[fits])]
                members[group].append(k)
                last[group], seen[group] = place, now
            else:
                members.append([k])
                first, last, seen = np.vstack([first, place]), np.vstack([last, place]), np.append(seen, now)
        groups += [sorted(group) for group in members]
    return sorted(groups)


# ---- pictures --------------------------------------------------------------------------------------------


class Gallery:
    """Draws cases from the frames of a data set; `places` are those of a clip's frames (`clip_places`)."""

    def __init__(
        self, scored: Scored, annotations: Annotations, places: Sequence[int], intensity: Intensity = "full"
    ) -> None:
        self.scored = scored
        self.places = places
        self.intensity = intensity
        self.index = ClipIndex()
        position = {image_id: n for n, image_id in enumerate(scored.truth.image_ids.tolist())}
        known = [(record, position[record.image_id]) for record in annotations.records if record.image_id in position]
        self.path = {n: record.path for record, n in known}
        self.position = {record.path: n for record, n in known}

    def strip(self, case: Case) -> Strip:
        """The frames of a case's clip around its place; `UserError` where one cannot be read."""
        key = self.path[case.frame]
        if not key.is_file():
            raise UserError(f"{key}: no such frame; the gallery needs the frames: give --data-root, or --gallery 0")
        paths = self.index.frames_at(key, self.places)
        frames = [read_frame(path, self.intensity) for path in paths]
        if len({frame.shape for frame in frames}) > 1:
            raise UserError(f"{key}: the frames of its clip differ in size; bring the frames of a sequence to one size")
        side = min(max(SIDE, int(3 * case.box[2:].max())), *frames[-1].shape)
        window = _window(case.box[:2] + case.box[2:] / 2, side, frames[-1].shape)
        crops = [frame[window.top : window.bottom, window.left : window.right] for frame in frames]
        low, high = np.percentile(np.stack(crops), (0.5, 99.8))
        gain = 255 / max(high - low, 24)  # all frames alike; noise alone is not blown up to black and white
        cells = []
        for path, crop in zip(paths, crops, strict=True):
            grey = np.clip((crop.astype(np.float32) - low) * gain, 0, 255).astype(np.uint8)
            cells.append(Cell(path.name, self._cell(grey, self.position.get(path), window)))
        return Strip(*self._words(case), tuple(cells))

    def _words(self, case: Case) -> tuple[str, str]:
        name = self.scored.truth.file_names[case.frame]
        x, y = case.box[:2] + case.box[2:] / 2
        title = f"{'missed' if case.kind == 'miss' else 'false alarm'} in {'/'.join(Path(name).parts[-2:])}"
        text = f"at x {x:.0f}, y {y:.0f}; "
        if case.kind == "false alarm":
            text += f"confidence {case.confidence:.2f}"
        elif np.isfinite(case.confidence):
            text += f"the best detection within {CENTRE_DISTANCE:g} pixels has confidence {case.confidence:.3f}"
        else:
            text += f"nothing within {CENTRE_DISTANCE:g} pixels at any confidence"
        text += "" if case.scr is None else f"; SCR {case.scr:.1f}"
        return title, text + (f"; the same in {case.frames} frames" if case.frames > 1 else "")

    def _cell(self, grey: np.ndarray, frame: int | None, window: Rect) -> np.ndarray:
        """A magnified crop with what was annotated and found there; `frame` is None where nothing was scored."""
        scale = CELL / len(grey)
        canvas = np.repeat(cv2.resize(grey, (CELL, CELL), interpolation=cv2.INTER_NEAREST)[..., None], 3, axis=2)
        if frame is None:
            return canvas
        truth, found, centres = self.scored.truth, self.scored.detections, self.scored.centres
        confidence = self.scored.evaluation.operating_point.confidence

        def place(box: np.ndarray, margin: int) -> Rect:
            corners = np.concatenate([box[:2], box[:2] + box[2:]]).reshape(2, 2) - (window.left, window.top)
            return Mark((corners * scale).reshape(4)).pixels().grown(margin)

        for g in np.flatnonzero((truth.image == frame) & ~truth.crowd):
            colour = ANNOTATED if centres.found_at[g] >= confidence else COLOURS["miss"]
            for line in _outline(place(truth.boxes[g], 2)):
                _fill(canvas, line, colour)
        for d in self._near(frame, window, confidence)[::-1]:
            kind = "hit" if centres.hit[d] else "false alarm"
            colour = UNSURE if found.scores[d] < confidence else COLOURS[kind]
            rect = place(found.boxes[d], 6)
            for line in mark_lines(rect, kind):
                _fill(canvas, line.grown(1), colour)
            _write(canvas, f"{found.scores[d]:.{2 if found.scores[d] >= 0.01 else 4}f}", rect, colour)
        return canvas

    def _near(self, frame: int, window: Rect, confidence: float) -> np.ndarray:
        """The detections to show in the window, the most confident first.

        All of `confidence` or more; of the others the best near the middle, unless it only repeats one of those.
        """
        found = self.scored.detections
        own = np.flatnonzero(found.image == frame)
        inside = found.centres(own) - (window.left, window.top)
        own = own[((inside >= 0) & (inside < window.right - window.left)).all(axis=1)]
        own = own[np.argsort(-found.scores[own], kind="stable")]
        shown = own[found.scores[own] >= confidence]
        apart = np.linalg.norm(found.centres(own)[:, None] - found.centres(shown), axis=-1)  # (own, shown)
        middle = np.array([window.left + window.right, window.top + window.bottom]) / 2
        central = np.linalg.norm(found.centres(own) - middle, axis=1) <= SIDE / 4
        unsure = own[(found.scores[own] < confidence) & central & (apart > SIDE / 4).all(axis=1)]
        return np.append(shown, unsure[:1])


def _window(centre: np.ndarray, side: int, size: tuple[int, int]) -> Rect:
    """The square of `side` pixels around a centre, moved into the image of `size` (h, w)."""
    left, top = (
        min(max(int(round(value - side / 2)), 0), most - side)
        for value, most in zip(centre, (size[1], size[0]), strict=True)
    )
    return Rect(left, top, left + side, top + side)


def _outline(rect: Rect) -> list[Rect]:
    left, top, right, bottom = rect
    return [
        Rect(left, top, right, top + 1),
        Rect(left, bottom - 1, right, bottom),
        Rect(left, top, left + 1, bottom),
        Rect(right - 1, top, right, bottom),
    ]


def _fill(canvas: np.ndarray, rect: Rect, colour: tuple[int, int, int]) -> None:
    canvas[max(rect.top, 0) : max(rect.bottom, 0), max(rect.left, 0) : max(rect.right, 0)] = colour


def _write(canvas: np.ndarray, text: str, beside: Rect, colour: tuple[int, int, int]) -> None:
    """A text above a mark, or below it where there is no room."""
    strokes, halo = text_masks(text, 15)
    height, width = strokes.shape
    top = beside.top - height - 3 if beside.top - height - 3 >= 0 else beside.bottom + 3
    left = min(max(beside.left, 0), canvas.shape[1] - width)
    if 0 <= top <= canvas.shape[0] - height:
        blend(canvas[top : top + height, left : left + width], strokes, halo, colour)


def save_page(path: Path, strips: Sequence[Strip]) -> None:
    """Write strips below one another as one PNG page."""
    text = 20
    row = 2 * text + CELL + text + 2 * GAP
    columns = max(len(strip.cells) for strip in strips)
    page = np.full((len(strips) * row + GAP, columns * (CELL + GAP) + GAP, 3), 255, np.uint8)
    for n, strip in enumerate(strips):
        top = n * row + GAP
        _print(page, strip.title, top, GAP, 16)
        _print(page, strip.text, top + text, GAP, 14)
        for k, cell in enumerate(strip.cells):
            left = GAP + k * (CELL + GAP)
            page[top + 2 * text : top + 2 * text + CELL, left : left + CELL] = cell.picture
            _print(page, cell.name, top + 2 * text + CELL + 3, left, 13)
    try:
        Image.fromarray(page).save(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --output") from None


def _print(page: np.ndarray, text: str, top: int, left: int, size: int) -> None:
    """Dark text on the white page, cut off at its edge."""
    strokes, halo = text_masks(text, size)
    region = page[top : top + strokes.shape[0], left : left + strokes.shape[1]]
    strokes = strokes[: region.shape[0], : region.shape[1]]
    blend(region, strokes, np.zeros_like(strokes), (20, 20, 20))
