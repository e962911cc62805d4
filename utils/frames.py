"""Frames on disk: reading one as grey, the order of a folder's frames, and its runs without a jump.

Every image type that Pillow reads is taken. Grey values follow one rule (`Intensity`) for all frames of all sequences,
so that a target's contrast never depends on what else its frame shows.
"""

from __future__ import annotations

import math
import os
import re
import statistics
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from utils.cli import UserError

# What Pillow and its plugins raise on broken files, beyond OSError (which UnidentifiedImageError is a kind of).
DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error, Image.DecompressionBombError
)  # fmt: skip
# How 16-bit and float values become 8-bit grey: the type's full range, or a window LOW, HIGH of values that becomes
# 0..255, with what lies outside cut off. 8-bit values stay as they are under any rule.
Intensity = Literal["full"] | tuple[float, float]

RANGE = (0.1, 99.9)  # percentiles: but for a few odd pixels
FEW_LEVELS = 32  # of 256
FEWEST_STEPS = 5  # of frames left out by a rule, not by accident
SECONDS = (100, 1000, 1_000_000, 1_000_000_000)  # of hundredths, milli-, micro- and nanoseconds in names of frames
NOT_STILL_IMAGES = {"MPEG", "BUFR", "GRIB", "HDF5"}  # registered by Pillow, but nothing it can decode


@lru_cache(maxsize=1)
def image_suffixes() -> frozenset[str]:
    """Lower-case file name endings, dot included, of the image types that Pillow reads."""
    registered = Image.registered_extensions().items()
    return frozenset(s for s, kind in registered if kind in Image.OPEN and kind not in NOT_STILL_IMAGES)


def is_image_name(name: str) -> bool:
    """Whether a file name ends as an image's does (hidden files, `._0.bmp` among them, are none)."""
    base = re.split(r"[\\/]", name)[-1]
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in image_suffixes()


def _unreadable(path: str | os.PathLike, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such frame; check the path and --data-root")
    if isinstance(error, PermissionError | IsADirectoryError):
        return UserError(
            f"{path}: cannot be read ({error.strerror}); expected an image file with read permission"
        )
    if isinstance(error, Image.DecompressionBombError):
        return UserError(f"{path}: too large an image ({error}); cut it into parts, or make it smaller")
    reason = "no image type that Pillow knows" if isinstance(error, Image.UnidentifiedImageError) else error
    return UserError(f"{path}: truncated or broken image ({reason}); replace the file by a whole copy")


def read_values(path: str | os.PathLike) -> np.ndarray:
    """Read an image as grey (h, w) of the file's own depth: uint8, an integer type of more bits, or float.

    Colour and palette images become luminance (ITU-R 601). Of a file with several images the first is read.
    `UserError` if it is missing, truncated or undecodable.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "F" or image.mode.startswith("I"):
                return np.array(image)
            if any(";16" in str(tile[3]) for tile in image.tile):  # of 16-bit colour Pillow keeps the upper eight bits
                image.load()  # which says whether the file is whole
                return _read_deep_colour(path)
            return np.array(image.convert("L"))
    except DECODING_ERRORS as error:
        raise _unreadable(path, error) from None


def _read_deep_colour(path: str | os.PathLike) -> np.ndarray:
    """16-bit colour as luminance (h, w) uint16."""
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if values is None:
        raise OSError("16-bit colour that OpenCV cannot decode")
    return values


def read_frame(path: str | os.PathLike, intensity: Intensity = "full") -> np.ndarray:
    """Read an image as (h, w) uint8 grey; `read_values` with `to_grey` after it."""
    return to_grey(read_values(path), intensity, path)


def to_grey(values: np.ndarray, intensity: Intensity, where: object) -> np.ndarray:
    """Grey (h, w) of any depth -> uint8, by a rule that looks at no other pixel; uint8 stays as it is.

    "full": 16-bit values are divided by 257 and rounded (0..65535 -> 0..255), float values are taken as 0..255 and
    rounded. A window (low, high): low becomes 0, high 255, what is outside is cut off. `UserError` naming `where` if
    values leave the full range, or are no numbers.
    """
    if values.dtype == np.uint8:
        return values
    if not np.isfinite(values).all():
        raise UserError(f"{where}: has pixels that are infinite or no number; replace the frame by a sound one")
    low, high = (0, _full_range(values, where)) if intensity == "full" else intensity
    return np.rint(np.clip((values.astype(np.float64) - low) * (255 / (high - low)), 0, 255)).astype(np.uint8)


def few_levels(values: np.ndarray, grey: np.ndarray, intensity: Intensity) -> str | None:
    """What to say where `to_grey` leaves few grey levels of a frame of more than 8 bits (h, w); None otherwise."""
    if values.dtype == np.uint8:
        return None
    low, high = np.percentile(values, RANGE)
    levels = np.ptp(np.percentile(grey, RANGE)) + 1
    if low == high or levels >= FEW_LEVELS:
        return None
    rule = "full" if intensity == "full" else " ".join(f"{value:g}" for value in intensity)
    return (
        f"--intensity {rule} leaves {levels:.0f} of 256 grey levels to its values, {low:g} to {high:g}; give the range "
        "of the data set's values as --intensity LOW HIGH, which --check-data shows"
    )


def _full_range(values: np.ndarray, where: object) -> int:
    """The highest value of the type's range; refuses values that leave it."""
    low, high = float(values.min()), float(values.max())
    is_float = values.dtype.kind == "f"
    limit = 255 if is_float else 65535
    if low < -0.5 or high >= limit + 0.5:
        raise UserError(
            f"{where}: grey values {low:g} to {high:g}; expected 0 to {limit} in a "
            f"{'float' if is_float else '16-bit'} image: bring all frames of the data set into that range, or give "
            "another as --intensity LOW HIGH, which training, detection and the data check take"
        )
    if is_float and 0 < high <= 1:
        raise UserError(
            f"{where}: float grey values reach only {high:g}; expected 0 to 255: multiply by 255, or give --intensity "
            "0 1, which training, detection and the data check take"
        )
    return limit


def check_intensity(intensity: Intensity) -> None:
    """`UserError` where a window is none."""
    if intensity == "full":
        return
    low, high = intensity
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"--intensity {low:g} {high:g}: give LOW and HIGH, LOW below HIGH, or full")


def read_image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(h, w) of an image from its header alone; `UserError` if it is missing or no image."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except DECODING_ERRORS as error:
        raise _unreadable(path, error) from None


def natural_key(name: str) -> tuple:
    """Sorting key of a file name: numbers in it compare as numbers, so 2.bmp comes before 10.bmp."""
    parts = re.split(r"(\d+)", name.casefold())  # text at even places, digits at odd ones
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), name


def sequence_frames(folder: str | os.PathLike) -> list[Path]:
    """The image files of a folder, not of those below it, in natural order.

    `UserError` if there are none, or if a frame is there in two file types.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if is_image_name(entry.name) and entry.is_file()]
    except OSError as error:
        raise UserError(
            f"{folder}: cannot list the frames ({error.strerror}); expected a folder of images"
        ) from None
    if not names:
        raise UserError(f"{folder}: no image in this folder; expected the frames of one sequence")
    paths = [Path(folder) / name for name in sorted(names, key=natural_key)]
    refuse_twins(paths)
    return paths


def refuse_twins(paths: Iterable[Path]) -> None:
    """`UserError` where one frame is there in two file types: it would count as two moments."""
    stems: dict[Path, Path] = {}
    for path in paths:
        twin = stems.setdefault(path.with_suffix(""), path)
        if twin is not path:
            raise UserError(f"{path}: the same frame as {twin.name}; keep one file type in a sequence")


def _frame_numbers(stems: Iterable[str]) -> list[tuple[int, ...]]:
    """The numbers in each name that differ between names, the frame's own last; () for a name without numbers.

    Names with numbers of different count end in something else, such as a hash: of these the first that differs.
    """
    numbers = [[int(digits) for digits in re.findall(r"\d+", stem)] for stem in stems]
    same_count = len({len(row) for row in numbers}) == 1
    columns = zip(*numbers, strict=same_count)  # as many as all names have
    if varying := [column for column in columns if len(set(column)) > 1]:
        rising = [n for n, column in enumerate(varying, start=1) if all(a < b for a, b in pairwise(column))]
        end = (rising[-1] if rising else len(varying)) if same_count else 1  # behind what always rises stands no number
        return list(zip(*varying[:end], strict=True))
    return [tuple(row[-1:]) for row in numbers]


def split_runs(paths: Sequence[Path]) -> list[list[Path]]:
    """Split a folder's frames, in natural order, where their numbers jump by more than the usual step.

    Half a step more is no jump: numbers that are times jitter. Nor is the next second's first millisecond. A number
    further in front that seldom changes, as a sequence's, is a jump where it does. Names without numbers make one run.
    """
    numbers = _frame_numbers(path.stem for path in paths)
    usual = _usual_step([abs(b[-1] - a[-1]) for a, b in pairwise(numbers) if a and b and a[-1] != b[-1]])
    turns = sum(a[:-1] != b[:-1] for a, b in pairwise(numbers))
    seldom = turns < len(numbers) / 2
    runs: list[list[Path]] = []
    for place, path in enumerate(paths):
        before, own = numbers[max(place - 1, 0)], numbers[place]
        other = seldom and bool(before and own) and before[:-1] != own[:-1] and before[-1] <= own[-1]
        if place == 0 or other or _is_jump(before, own, usual):
            runs.append([])
        runs[-1].append(path)
    return runs


def _usual_step(steps: Sequence[int]) -> int:
    """The most common step, of equally common ones the smallest; the median where none is common, as between times.

    Where a longer one, up to twice it, is common too, that: 1, 2, 4, 5, 7, ..., every third frame having been left out.
    """
    counts = Counter(steps)
    common = min(counts, key=lambda step: (-counts[step], step), default=0)
    if counts[common] < len(steps) / 4:
        return statistics.median_low(steps)
    often = max(len(steps) / 4, FEWEST_STEPS)
    return max((step for step in counts if step <= 2 * common and counts[step] >= often), default=common)


def _is_jump(previous: tuple[int, ...], number: tuple[int, ...], usual_step: int) -> bool:
    if not previous or not number:
        return bool(previous) != bool(number)
    step = number[-1] - previous[-1]
    if abs(step) <= 1.5 * usual_step:
        return False
    risen = any(after > before for before, after in zip(previous[:-1], number[:-1], strict=True))
    carried = step < 0 and risen and usual_step > 1  # 12-30-00-960 to 12-30-01-000
    return not (carried and any(abs(step + second - usual_step) <= usual_step / 2 for second in SECONDS))
