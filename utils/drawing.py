"""Marks on frames: thin corners that leave a target of a few pixels uncovered, short texts, magnified insets.

Nothing is ever drawn over a marked target (of a large one: its middle): marks stay a margin outside its box, texts
and insets take a free place or stay away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.fonts import font_file

Kind = Literal["detection", "hit", "miss", "false alarm"]
# RGB; apart from one another for colour-blind eyes, and by shape and text in grey print.
COLOURS: dict[Kind, tuple[int, int, int]] = {
    "detection": (255, 176, 0),
    "hit": (64, 190, 255),
    "miss": (255, 225, 40),
    "false alarm": (255, 70, 150),
}
GAP = 2  # pixels left free between a target's box and its mark
MAGNIFICATION = 4
TARGET_LIMIT = 32  # pixels a side; of a larger box only its middle is kept free
MAX_INSETS = 4


class Rect(NamedTuple):
    """Pixel columns left..right-1 and rows top..bottom-1."""

    left: int
    top: int
    right: int
    bottom: int

    def grown(self, margin: int) -> Rect:
        return Rect(self.left - margin, self.top - margin, self.right + margin, self.bottom + margin)


@dataclass(frozen=True, eq=False)
class Mark:
    """One target to mark: its box x1, y1, x2, y2 in image pixels, what it is, and a short text beside it."""

    box: np.ndarray
    kind: Kind = "detection"
    text: str = ""
    trail: np.ndarray | tuple = ()  # (n, 2) x, y of its centre in earlier frames, oldest first, and now

    def pixels(self) -> Rect:
        """The pixels that the box touches."""
        (left, top), (right, bottom) = np.floor(self.box[:2]), np.ceil(self.box[2:])
        return Rect(int(left), int(top), max(int(right), int(left) + 1), max(int(bottom), int(top) + 1))

    def core(self) -> Rect:
        """The pixels that nothing may cover: the box, or the middle of a large one."""
        rect = self.pixels()
        trim_x = max(0, rect.right - rect.left - TARGET_LIMIT) // 2
        trim_y = max(0, rect.bottom - rect.top - TARGET_LIMIT) // 2
        return Rect(rect.left + trim_x, rect.top + trim_y, rect.right - trim_x, rect.bottom - trim_y)

    def centre(self) -> np.ndarray:
        return (self.box[:2] + self.box[2:]) / 2


class Annotator:
    """Draws the frames of one source in order; remembers where insets were, so that they do not jump about."""

    def __init__(self, insets: bool = True) -> None:
        self.insets = insets
        self._places: list[tuple[np.ndarray, Rect]] = []  # target centre and inset of the last frame

    def draw(self, grey: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
        """Grey frame (h, w) uint8 and marks, most important first -> RGB (h, w, 3) uint8 of the same size."""
        picture = _Picture(grey, marks)
        for mark in marks:
            picture.draw_trail(mark.trail, COLOURS[mark.kind])
        placed = self._place_insets(picture, marks) if self.insets else []
        for number, (mark, crop, place) in enumerate(placed, start=1):
            _draw_inset(picture, mark, crop, place, str(number) if len(placed) > 1 else "")
        numbers = {id(mark): f"{number}: " for number, (mark, _, _) in enumerate(placed, start=1)}
        for mark in marks:
            for line in mark_lines(mark.pixels().grown(GAP + 1), mark.kind):
                picture.fill(line, COLOURS[mark.kind])
        for mark in marks:
            number = numbers.get(id(mark), "") if len(placed) > 1 else ""
            picture.label(number + mark.text, mark)
        return picture.rgb

    def _place_insets(self, picture: _Picture, marks: Sequence[Mark]) -> list[tuple[Mark, Rect, Rect]]:
        """For up to four marks, from left to right: the pixels to magnify and where to put them."""
        height, width = picture.taken.shape
        limit = min(height, width) * 2 // 5 // MAGNIFICATION  # an inset takes 2/5 of the shorter side at most
        placed = []
        for mark in marks:
            rect = mark.pixels()
            side = max(rect.right - rect.left, rect.bottom - rect.top) + 2 * (GAP + 2)
            side = max(side, min(16, limit), min(height, width) // 18)
            if side > limit or len(placed) == MAX_INSETS:
                continue
            place = next(filter(picture.is_free, self._inset_places(mark, side, (height, width))), None)
            if place is not None:
                picture.take(place.grown(2))
                placed.append((mark, _crop_around(mark.centre(), side, (height, width)), place))
        self._places = [(mark.centre(), place) for mark, _, place in placed]
        return sorted(placed, key=lambda entry: entry[0].centre()[0])

    def _inset_places(self, mark: Mark, side: int, size: tuple[int, int]) -> Iterator[Rect]:
        """Where an inset was in the last frame, nearest target first; then corners, then along the border."""
        height, width = size
        inset, edge = side * MAGNIFICATION, 3
        for centre, place in sorted(self._places, key=lambda entry: np.abs(entry[0] - mark.centre()).sum()):
            if np.abs(centre - mark.centre()).max() <= TARGET_LIMIT and place.right - place.left == inset:
                yield place
        right, bottom = width - edge - inset, height - edge - inset
        columns = [right, edge, *range(edge + inset + edge, right, inset + edge)]
        rows = [edge, bottom, *range(edge + inset + edge, bottom, inset + edge)]
        border = [(x, y) for x, y in product(columns, rows) if x in (edge, right) or y in (edge, bottom)]
        border.sort(key=lambda spot: spot[0] not in (edge, right) or spot[1] not in (edge, bottom))  # corners first
        for left, top in border:
            yield Rect(left, top, left + inset, top + inset)


class _Picture:
    """An RGB canvas that knows the pixels of targets (never covered) and those taken by other marks."""

    def __init__(self, grey: np.ndarray, marks: Sequence[Mark]) -> None:
        self.grey = grey
        self.rgb = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
        self.targets = np.zeros(grey.shape, bool)
        self.taken = np.zeros(grey.shape, bool)
        height, width = grey.shape
        self.font_size = int(np.clip(min(height, width) / 32, 10, 24))
        for mark in marks:
            self.targets[self._window(mark.core())] = True
            self.take(mark.core().grown(GAP + 2))

    def _window(self, rect: Rect) -> tuple[slice, slice]:
        return slice(max(rect.top, 0), max(rect.bottom, 0)), slice(max(rect.left, 0), max(rect.right, 0))

    def is_free(self, rect: Rect) -> bool:
        """Whether the rectangle lies inside the picture and touches nothing."""
        height, width = self.taken.shape
        inside = rect.left >= 0 and rect.top >= 0 and rect.right <= width and rect.bottom <= height
        return inside and not self.taken[self._window(rect)].any()

    def take(self, rect: Rect) -> None:
        self.taken[self._window(rect)] = True

    def fill(self, rect: Rect, colour: tuple[int, int, int]) -> None:
        """Fill what lies inside the picture, except pixels of targets."""
        window = self._window(rect)
        self.rgb[window][~self.targets[window]] = colour

    def draw_trail(self, trail: np.ndarray | tuple, colour: tuple[int, int, int]) -> None:
        """A one-pixel line through the points, fading towards the first; pixels of targets stay as they are."""
        if len(trail) < 2:
            return
        strength = np.zeros(self.grey.shape, np.uint8)
        points = np.rint(trail).astype(int).tolist()
        for n, (start, end) in enumerate(zip(points, points[1:], strict=False), start=1):
            cv2.line(strength, start, end, int(80 + 150 * n / len(points)))
        line = (strength > 0) & ~self.targets
        self.taken |= line
        opacity = strength[line, None] / 255
        self.rgb[line] = np.rint(self.rgb[line] * (1 - opacity) + opacity * np.array(colour)).astype(np.uint8)

    def label(self, text: str, mark: Mark) -> None:
        """Write beside the mark at the first free place; nowhere if there is none."""
        if not text:
            return
        strokes, halo = text_masks(text, self.font_size)
        height, width = strokes.shape
        place = next(filter(self.is_free, _label_places(mark.pixels().grown(GAP + 1), width, height)), None)
        if place is not None:
            self.take(place)
            blend(self.rgb[self._window(place)], strokes, halo, COLOURS[mark.kind])


def mark_lines(rect: Rect, kind: Kind) -> Iterator[Rect]:
    """One-pixel lines on the border of `rect`: corners, or for a missed target the middles of its sides."""
    left, top, right, bottom = rect
    across, down = right - left, bottom - top
    if kind == "miss":
        middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
        long_x, long_y = max(3, across // 3), max(3, down // 3)
        for x in (left, right - 1):
            yield Rect(x, middle_y - long_y // 2, x + 1, middle_y - long_y // 2 + long_y)
        for y in (top, bottom - 1):
            yield Rect(middle_x - long_x // 2, y, middle_x - long_x // 2 + long_x, y + 1)
        return
    long_x, long_y = (min(max(3, round(side * 0.3)), 12) for side in (across, down))
    for y in (top, bottom - 1):
        yield Rect(left, y, left + long_x, y + 1)
        yield Rect(right - long_x, y, right, y + 1)
    for x in (left, right - 1):
        yield Rect(x, top, x + 1, top + long_y)
        yield Rect(x, bottom - long_y, x + 1, bottom)


def _label_places(around: Rect, width: int, height: int) -> Iterator[Rect]:
    """Places for a text of this size beside a mark: above, below, right, left, then farther out."""
    left, top, right, bottom = around
    middle = (top + bottom - height) // 2
    for away in range(1, 2 * height, max(1, height // 2)):
        xs = (left, right - width, (left + right - width) // 2)
        corners = [(x, top - away - height) for x in xs] + [(x, bottom + away) for x in xs]
        corners += [(right + away, middle), (left - away - width, middle)]
        corners += [(x, y) for x in (right + away, left - away - width) for y in (top - away - height, bottom + away)]
        for x, y in corners:
            yield Rect(x, y, x + width, y + height)


def _crop_around(centre: np.ndarray, side: int, size: tuple[int, int]) -> Rect:
    """The square of `side` pixels around a centre, moved into the picture."""
    height, width = size
    left, top = (int(round(float(value) - side / 2)) for value in centre)
    left, top = min(max(left, 0), width - side), min(max(top, 0), height - side)
    return Rect(left, top, left + side, top + side)


def _draw_inset(picture: _Picture, mark: Mark, crop: Rect, place: Rect, number: str) -> None:
    """Paste the magnified pixels of `crop`, framed, with the box where it lies to a quarter of a pixel."""
    colour = COLOURS[mark.kind]
    enlarged = cv2.resize(
        picture.grey[crop.top : crop.bottom, crop.left : crop.right],
        (place.right - place.left, place.bottom - place.top),
        interpolation=cv2.INTER_CUBIC,
    )
    inset = _Picture(enlarged, [])
    corners = (mark.box.reshape(2, 2) - (crop.left, crop.top)) * MAGNIFICATION
    outline = Mark(corners.reshape(4), mark.kind).pixels().grown(1)
    for line in mark_lines(outline, mark.kind):
        inset.fill(line, colour)
    if number:
        strokes, halo = text_masks(number, picture.font_size)
        height, width = strokes.shape
        blend(inset.rgb[2 : 2 + height, 3 : 3 + width], strokes, halo, colour)
    picture.fill(place.grown(2), (0, 0, 0))
    picture.fill(place.grown(1), colour)
    picture.rgb[place.top : place.bottom, place.left : place.right] = inset.rgb


@lru_cache(maxsize=1024)
def text_masks(text: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Opacity (h, w) float32 in 0..1 of a text's strokes and of the dark halo that keeps it legible."""
    font = ImageFont.load_default(size) if text.isascii() else ImageFont.truetype(font_file(text), size)
    left, top, right, bottom = (int(value) for value in font.getbbox(text, stroke_width=1))
    masks = []
    for stroke in (0, 1):
        image = Image.new("L", (right - left + 1, bottom - top + 1))
        ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=font, stroke_width=stroke)
        masks.append(np.asarray(image, np.float32) / 255)
    return masks[0] ** 0.6, masks[1]  # thin strokes would lose their colour


def blend(region: np.ndarray, strokes: np.ndarray, halo: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Put a text onto `region` (h, w, 3), in place."""
    dark = region * (1 - 0.75 * halo[..., None])
    region[:] = np.rint(dark * (1 - strokes[..., None]) + strokes[..., None] * np.array(colour, np.float32))
