"""YOLO label files -> COCO JSON.

python utils_coco/yolo_to_coco.py --data-root datasets/mine --labels datasets/mine/labels --output boxes.json

An image below --images has its boxes in a text of the same place and name below --labels, one a line:
`class cx cy w h`, in shares of the image's width and height. An image without such a text has no targets.
"""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from utils.class_file import read_class_names
from utils.cli import Unset, UserError, run_command
from utils.converted import CocoBuilder, image_files, image_folder, refuse_source
from utils.frames import read_image_size

Box = tuple[int, int, int, int]  # x, y, w, h in pixels
ROUNDING = 0.001  # of the image's side by which a box may lie outside it: labels have few decimals


@dataclass
class Config:
    """Convert YOLO label files to a COCO JSON."""

    data_root: Path
    """Folder of the data set; the JSON's paths count from it."""
    labels: Path
    """Folder of the label files, with the folders and names of the images; not counted from the data root."""
    output: Path
    """The JSON to write."""
    images: Path = Path("images")
    """Folder of the images in the data root."""
    classes: Unset[Path] = None
    """Class names, one a line (default: one class, target)."""


def read_labels(path: Path, size: tuple[int, int], num_classes: int) -> tuple[list[Box], list[int]]:
    """Boxes in whole pixels of an image of `size` (h, w), and their classes; `UserError` naming the faulty line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected a text of lines `class cx cy w h`") from None
    boxes, classes = [], []
    for number, line in enumerate(lines, start=1):
        if words := line.split():
            try:
                rank, *shares = int(words[0]), *map(float, words[1:])
                cx, cy, w, h = shares
            except ValueError:
                raise UserError(f"{path}:{number}: {line.strip()!r} is not `class cx cy w h`; mend it") from None
            if not 0 <= rank < num_classes:
                raise UserError(f"{path}:{number}: class {rank}, but there are {num_classes}; name all in --classes")
            boxes.append(_pixels((cx, cy, w, h), size, f"{path}:{number}"))
            classes.append(rank)
    return boxes, classes


def _pixels(shares: tuple[float, float, float, float], size: tuple[int, int], where: str) -> Box:
    """A box in shares of the image -> x, y, w, h in whole pixels, at least one wide and high."""
    cx, cy, w, h = shares
    corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    inside = all(-ROUNDING <= corner <= 1 + ROUNDING for corner in corners)
    if not (all(map(math.isfinite, shares)) and w > 0 and h > 0 and inside):
        raise UserError(f"{where}: a box outside the image; expected centre, width and height in shares of it, 0 to 1")
    sides = (size[1], size[0]) * 2
    x1, y1, x2, y2 = (min(max(round(share * side), 0), side) for share, side in zip(corners, sides, strict=True))
    x1, y1 = min(x1, size[1] - 1), min(y1, size[0] - 1)
    return x1, y1, max(x2 - x1, 1), max(y2 - y1, 1)


def main(config: Config) -> None:
    """Write the JSON and say what it holds and what was left out."""
    if config.output.suffix.lower() != ".json":
        raise UserError(f"{config.output}: --output must end in .json")
    names = read_class_names(config.classes) if config.classes else ("target",)
    images, left_out, builder = image_folder(config.data_root, config.images), Counter(), CocoBuilder(names)
    if not config.labels.is_dir():
        raise UserError(f"{config.labels}: no such folder; check --labels")
    if images.resolve() != config.labels.resolve():
        refuse_source(config.output, folders=[images, config.labels])
    walk = os.walk(config.labels, followlinks=True)
    found = [Path(place, name) for place, _, names_there in walk for name in names_there if name.endswith(".txt")]
    texts = {path.relative_to(config.labels).with_suffix("") for path in found}
    texts -= {Path("classes")}  # which labelling tools put beside the labels
    if not texts:
        raise UserError(f"{config.labels}: no text in this folder or below; check --labels")
    for image in tqdm(image_files(images), unit="image", disable=None, leave=False):
        place, size = image.relative_to(images).with_suffix(""), read_image_size(image)
        boxes, classes = [], []
        if place in texts:
            texts.remove(place)
            boxes, classes = read_labels(config.labels / place.with_name(f"{place.name}.txt"), size, len(names))
        builder.add(image.relative_to(config.data_root).as_posix(), size, boxes, classes)
    left_out["texts without an image"] = len(texts)
    if not builder.annotations:
        raise UserError(f"{config.labels}: no box of an image below {images}; texts have the images' places and names")
    builder.write(config.output, left_out)


if __name__ == "__main__":
    run_command(main, Config)
