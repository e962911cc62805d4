"""Videos with a box in each frame -> frames and COCO JSON in DAUB's layout.

python utils_coco/video_to_frames.py --videos tests/data/drone_ir --boxes tests/data/drone_ir/boxes.json \
    --output datasets/drone_ir --val IR_DRONE_142

The boxes are a JSON {video's name: {"boxes": [one a frame: [x, y, w, h], a list of several, [] or null]}}. Frames
become OUTPUT/images/{train,test}/VIDEO/000001.png, ..., 8-bit grey, and keep every pixel.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from utils.annotation_files import whole_pixel_box, write_coco
from utils.cli import Several, UserError, run_command
from utils.converted import CocoBuilder, new_folder, write_frame
from utils.evaluation_report import make_folder
from utils.frames import natural_key
from utils.json_files import read_json
from utils.video import open_source

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")

Boxes = list[list[float]]  # of one frame, each x, y, w, h


@dataclass
class Config:
    """Convert videos and their boxes to frames and annotations."""

    videos: Path
    """A video, or a folder of videos."""
    boxes: Path
    """JSON with the boxes of every video, by its name without the ending."""
    output: Path
    """New folder for images/ and annotations/."""
    val: Several[str] = ()
    """Names of the videos that make the validation split; the others are for training."""


def find_videos(config: Config) -> list[Path]:
    """The video files, in natural order."""
    if config.videos.is_dir():
        found = [path for path in config.videos.iterdir() if path.suffix.lower() in VIDEOS]
    else:
        found = [config.videos]
    if not found:
        raise UserError(f"{config.videos}: no video ({', '.join(VIDEOS)}) in this folder; check --videos")
    if not config.videos.exists():
        raise UserError(f"{config.videos}: no such file or folder; check --videos")
    names = Counter(path.stem for path in found)
    for path in found:
        if names[path.stem] > 1:
            raise UserError(f"{path}: another video beside it has the same name; give each its own")
    if unknown := [name for name in config.val if name not in names]:
        raise UserError(f"--val {unknown[0]}: no such video in {config.videos}; give names without the ending")
    return sorted(found, key=lambda path: natural_key(path.stem))


def read_boxes(path: Path) -> dict[str, list[Boxes]]:
    """Boxes of every frame of every video."""
    content = read_json(path, "--boxes")
    try:
        entries = {name: entry["boxes"] if isinstance(entry, dict) else entry for name, entry in content.items()}
    except (KeyError, AttributeError):
        raise UserError(f'{path}: expected {{video: {{"boxes": [one a frame]}}}}') from None
    return {name: _frame_boxes(f"{path}: {name}", entry) for name, entry in entries.items()}


def _frame_boxes(where: str, entry: Any) -> list[Boxes]:
    """The boxes of each frame of one video, as lists of x, y, w, h."""
    if not isinstance(entry, list):
        raise UserError(f"{where}: expected a list with one entry a frame")
    frames = []
    for number, value in enumerate(entry, start=1):
        several = value or []
        if value and not isinstance(value[0] if isinstance(value, list) else None, list):
            several = [value]
        for box in several:
            numbers = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)
            if not (numbers and all(map(math.isfinite, box))):
                raise UserError(f"{where}, frame {number}: box {box!r}; expected four numbers x, y, w, h, or null")
        frames.append(several)
    return frames


def convert(video: Path, boxes: Sequence[Boxes], folder: Path, name: str, builder: CocoBuilder) -> Counter[str]:
    """Write the frames of a video and add them to the COCO file; returns what was left out and why."""
    left_out: Counter[str] = Counter()
    source = open_source(video)
    frames = 0
    for frame in source:
        if frame.index > len(boxes):
            left_out["frames behind the last entry of the boxes"] += 1
            continue
        frames = frame.index
        write_frame(frame.image, folder / frame.name)
        good = [box for box in boxes[frame.index - 1] if _inside(box, frame.image.shape)]
        left_out["empty boxes or boxes that reach outside the frame"] += len(boxes[frame.index - 1]) - len(good)
        builder.add(f"{name}/{frame.name}", frame.image.shape, good)
    if source.complaint:
        left_out[f"part of the video that cannot be read ({source.complaint})"] += 1
    left_out["entries of the boxes behind the last frame"] += len(boxes) - frames
    return +left_out


def _inside(box: Sequence[float], size: tuple[int, int]) -> bool:
    x1, y1, x2, y2, _ = whole_pixel_box(box, 0)
    return 0 <= x1 < x2 <= size[1] and 0 <= y1 < y2 <= size[0]


def main(config: Config) -> None:
    """Convert all videos and say what was written and what was left out."""
    videos, boxes = find_videos(config), read_boxes(config.boxes)
    if missing := [path.stem for path in videos if path.stem not in boxes]:
        raise UserError(f"{config.boxes}: no boxes of {missing[0]}; add them, or take the video away")
    for video in videos:
        open_source(video)  # what cannot be read is said before anything is written
    new_folder(config.output, config.videos, config.boxes)
    builders = {"train": CocoBuilder(), "test": CocoBuilder()}
    for video in tqdm(videos, unit="video", disable=None, leave=False):
        split = "test" if video.stem in config.val else "train"
        name = f"images/{split}/{video.stem}"
        left_out = convert(video, boxes[video.stem], config.output / name, name, builders[split])
        if left_out:
            reasons = ", ".join(f"{count} {why}" for why, count in left_out.items())
            tqdm.write(f"{video.name}: left out {reasons}")
    if config.videos.is_dir() and (others := [name for name in boxes if name not in {path.stem for path in videos}]):
        print(f"{config.boxes}: left out {len(others)} entries, no such video in {config.videos}: {', '.join(others)}")
    make_folder(config.output / "annotations")
    for split, builder in builders.items():
        if builder.images:
            path = config.output / "annotations" / f"instances_{split}2017.json"
            write_coco(path, builder.content())
            empty = len(builder.images) - len({annotation["image_id"] for annotation in builder.annotations})
            counts = f"{len(builder.images)} frames, {len(builder.annotations)} boxes, {empty} frames without a box"
            print(f"wrote {path}: {counts}")


if __name__ == "__main__":
    run_command(main, Config)
