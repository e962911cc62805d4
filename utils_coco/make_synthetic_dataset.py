"""Make synthetic infrared sequences with small moving targets, in DAUB's layout.

python utils_coco/make_synthetic_dataset.py --output datasets/synthetic --sequences 40 8 --frames 40 --preset hard
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from utils.cli import Unset, UserError, run_command
from utils.frames import Intensity, check_intensity
from utils.synthetic_dataset import SequenceRecord, write_dataset
from utils.synthetic_presets import PRESETS

MANY = 0.1  # share of targets of another contrast that is worth a note


@dataclass
class Config:
    """Settings of a synthetic data set; a range left out is the preset's."""

    output: Path  # folder to write
    seed: int = 0  # the same seed gives the same bytes, with any number of workers
    sequences: tuple[int, int] = (20, 5)  # train and validation sequences
    frames: int = 100  # of each sequence
    image_size: Unset[tuple[int, int]] = None  # height and width, pixels (default: the preset's)
    preset: Literal["easy", "daub", "irdst", "sky", "hard"] = "daub"
    scr: Unset[tuple[float, float]] = None  # signal-to-clutter ratio of targets; below 1 clutter alone may reach it
    target_size: Unset[tuple[float, float]] = None  # extent of targets, pixels
    speed: Unset[tuple[float, float]] = None  # of targets relative to the background, pixels a frame
    targets: Unset[tuple[int, int]] = None  # at the same time
    distractors: Unset[tuple[int, int]] = None  # points that look like targets and stand still on the ground
    stuck: Unset[tuple[int, int]] = None  # the same, but standing still in the frame
    shaded: Unset[float] = None  # share of `distractors` with a dark side, as the edge of a roof has, 0 to 1
    backgrounds: Unset[Path] = None  # folder of real pictures to fly over instead of drawn scenes
    footage: Unset[Path] = None  # annotation list or COCO JSON of real frames to paint into; their targets stay
    intensity: Intensity = "full"  # how 16-bit and float frames of those two become grey: full, or LOW HIGH
    workers: int = max(1, os.cpu_count() or 1)  # processes
    overwrite: bool = False  # replace a data set that this command wrote earlier


def main(config: Config) -> None:
    """Write the data set and say in a line what it holds."""
    if config.footage and config.image_size:
        raise UserError("--footage and --image-size: the frames keep their size; give one of them")
    check_intensity(config.intensity)
    names = ("scr", "target_size", "speed", "targets", "distractors", "stuck", "shaded")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    model = replace(PRESETS[config.preset], **given)
    records = write_dataset(
        config.output,
        model,
        seed=config.seed,
        sequences=config.sequences,
        frames=config.frames,
        frame_size=config.image_size or model.frame_size,
        backgrounds=config.backgrounds,
        footage=config.footage,
        workers=config.workers,
        overwrite=config.overwrite,
        intensity=config.intensity,
    )
    made = [record for split in records.values() for record in split]
    scr = [row[3] for record in made for row in record.rows]
    low, middle, high = np.percentile(scr, [10, 50, 90]) if scr else (0, 0, 0)
    print(
        f"{config.output}: {config.sequences[0]} train and {config.sequences[1]} validation sequences of "
        f"{config.frames} frames ({config.preset}), {len(scr)} boxes of {sum(len(r.asked_scr) for r in made)} "
        f"targets, SCR {middle:.1f} ({low:.1f} to {high:.1f})"
    )
    if note := contrast_note(made):
        print(f"note: {note}", file=sys.stderr)


def contrast_note(records: Sequence[SequenceRecord]) -> str | None:
    """What to say where many targets have another contrast than was asked: white is not white enough for any SCR."""
    painted = far = 0
    for record in records:
        for track, asked in enumerate(record.asked_scr):
            found = [row[3] for row in record.rows if row[1] == track]
            if asked is not None and found:
                painted += 1
                far += not 0.5 < np.median(found) / asked < 2
    if far <= MANY * painted:
        return None
    return f"{far} of {painted} targets have less than half or more than twice the SCR asked; ask for one in reach"


if __name__ == "__main__":
    run_command(main, Config)
