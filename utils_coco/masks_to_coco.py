"""Masks of targets -> COCO JSON: the box of every connected component.

python utils_coco/masks_to_coco.py --data-root datasets/IRDST --masks datasets/IRDST/masks --output boxes.json

Every image below --images needs a mask of the same place and name (in any image type) below --masks.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
from tqdm import tqdm

from utils.cli import UserError, run_command
from utils.converted import CocoBuilder, image_files, image_folder, refuse_source
from utils.frames import read_image_size, read_values

Box = tuple[int, int, int, int]  # x, y, w, h


@dataclass
class Config:
    """Convert masks of targets to a COCO JSON."""

    data_root: Path
    """Folder of the data set; the JSON's paths count from it."""
    masks: Path
    """Folder of the masks, with the folders and names of the images; not counted from the data root."""
    output: Path
    """The JSON to write."""
    images: Path = Path("images")
    """Folder of the images in the data root."""
    threshold: int = 0
    """Value above which a pixel of a mask is a target's, in the file's own depth (8-bit JPEG needs about 127)."""
    min_pixels: int = 1
    """Smallest component that counts."""
    margin: int = 0
    """Pixels to add on each side of a box, as far as the image reaches."""

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise UserError(f"--threshold {self.threshold}: must be 0 or more")
        if self.min_pixels < 1 or self.margin < 0:
            raise UserError(f"--min-pixels {self.min_pixels}, --margin {self.margin}: must be at least 1 and 0")


def component_boxes(mask: np.ndarray, min_pixels: int = 1, margin: int = 0) -> tuple[list[Box], int]:
    """Boxes of the components (8 neighbours) of a mask (h, w) bool, top to bottom, and how many were too small."""
    height, width = mask.shape
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    boxes, small = [], 0
    for x, y, w, h, pixels in stats[1:].tolist():  # the first is the background
        if pixels < min_pixels:
            small += 1
            continue
        x1, y1, x2, y2 = max(0, x - margin), max(0, y - margin), min(width, x + w + margin), min(height, y + h + margin)
        boxes.append((x1, y1, x2 - x1, y2 - y1))
    return sorted(boxes, key=lambda box: (box[1], box[0])), small


def pairs(images: Path, masks: Path, left_out: Counter[str]) -> Iterator[tuple[Path, Path]]:
    """Images and their masks, in natural order; what has no partner is counted."""
    places = {path.relative_to(masks).with_suffix(""): path for path in image_files(masks)}
    for image in image_files(images):
        mask = places.pop(image.relative_to(images).with_suffix(""), None)
        if mask is None:
            left_out["images without a mask"] += 1
        else:
            yield image, mask
    left_out["masks without an image"] += len(places)


def main(config: Config) -> None:
    """Write the JSON and say what it holds and what was left out."""
    if config.output.suffix.lower() != ".json":
        raise UserError(f"{config.output}: --output must end in .json")
    images, left_out, builder = image_folder(config.data_root, config.images), Counter(), CocoBuilder()
    refuse_source(config.output, folders=[images, config.masks])
    for image, path in tqdm(list(pairs(images, config.masks, left_out)), unit="mask", disable=None, leave=False):
        values = read_values(path)
        if values.shape != (size := read_image_size(image)):
            raise UserError(f"{path}: {values.shape} pixels (height, width), but {image} has {size}; give its own mask")
        boxes, small = component_boxes(values > config.threshold, config.min_pixels, config.margin)
        left_out[f"components below {config.min_pixels} pixels"] += small
        builder.add(image.relative_to(config.data_root).as_posix(), size, boxes)
    if not builder.images:
        raise UserError(f"{config.masks}: no mask has the place and name of an image below {images}")
    builder.write(config.output, left_out)


if __name__ == "__main__":
    run_command(main, Config)
