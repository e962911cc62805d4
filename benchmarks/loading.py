"""Reading clips: with the cache of letterboxed frames against without, in training's random order and in time's.

python -m benchmarks.loading            # 1,000 frames of 256 x 256 to 512 x 512
python -m benchmarks.loading --quick    # its shape, in seconds
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.timing import Work, interleave, ratios
from utils.annotations import Annotations, load_annotations
from utils.augment import EpochSampler
from utils.cli import run_command
from utils.clips import ClipDataset


@dataclass
class Config:
    """Time reading the clips of an epoch in one process; every round starts with an empty cache."""

    sequences: int = 10
    frames: int = 100  # of each
    image_size: tuple[int, int] = (256, 256)
    input_size: tuple[int, int] = (512, 512)
    cache_mb: int = 512
    rounds: int = 5
    quick: bool = False  # 2 sequences of 8 frames, 2 rounds: to see that it runs


def write_frames(root: Path, config: Config) -> Path:
    """Noise, which compresses to nothing less, as sequences of BMP frames; returns their list."""
    rng = np.random.default_rng(0)
    lines = []
    for sequence in range(config.sequences):
        folder = root / f"data{sequence}"
        folder.mkdir()
        for number in range(config.frames):
            Image.fromarray(rng.integers(0, 256, config.image_size, np.uint8)).save(folder / f"{number}.bmp")
            lines.append(f"{folder.name}/{number}.bmp 8,8,16,16,0\n")
    path = root / "list.txt"
    path.write_text("".join(lines))
    return path


def ways_of(annotations: Annotations, config: Config) -> dict[str, Work]:
    """Everything that is timed, by name: each reads one clip for every frame."""
    orders = {
        "random": [index for index, _ in EpochSampler(len(annotations.records), 1.0, seed=0)],
        "in time": list(range(len(annotations.records))),
    }

    def read(order: list[int], cache_bytes: int) -> None:
        clips = ClipDataset(annotations, config.input_size, 5, cache_bytes)
        for index in order:
            clips[index]

    return {
        f"{name}, {'cache' if cache else 'no cache'}": lambda order=order, cache=cache: read(order, cache)
        for name, order in orders.items()
        for cache in (0, config.cache_mb * 2**20)
    }


def main(config: Config) -> None:
    """Time all ways and print them."""
    if config.quick:
        config.sequences, config.frames, config.rounds = 2, 8, 2
    with tempfile.TemporaryDirectory() as folder:
        annotations = load_annotations(write_frames(Path(folder), config), folder)
        times = interleave(ways_of(annotations, config), config.rounds)
    clips = len(annotations.records)
    (h, w), (height, width) = config.image_size, config.input_size
    print(f"{clips} clips of 5 frames, {h} x {w} -> {height} x {width}, cache {config.cache_mb} MiB, one process")
    for name, time in times.items():
        print(f"{name:20} {clips / time.median:8.1f} clips/s {time}")
    for name in ("random", "in time"):
        print(f"{name}: no cache / cache: {ratios(times[f'{name}, no cache'], times[f'{name}, cache'])}")


if __name__ == "__main__":
    run_command(main, Config)
