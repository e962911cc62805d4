"""Reading the clips of training epochs: without a cache of frames, with one in memory, with one on the disk.

python -m benchmarks.loading            # 8,982 frames of 256 x 256, DAUB's number, to 512 x 512
python -m benchmarks.loading --quick    # its shape, in seconds
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.timing import Times, check_sizes, ratios
from utils.annotations import Annotations, load_annotations
from utils.augment import Augmentation, EpochSampler, TrainingClips, clips_of_epoch
from utils.cli import Unset, UserError, run_command
from utils.clips import ClipDataset, collate_clips
from utils.frame_cache import open_cache

KINDS = ("off", "ram", "disk")


@dataclass
class Config:
    """Time the clips of some epochs, each over a random share of all, as training reads them."""

    sequences: int = 6
    frames: int = 1497  # of each
    image_size: tuple[int, int] = (256, 256)
    input_size: tuple[int, int] = (512, 512)
    epoch_share: float = 0.2  # the published one
    epochs: int = 4
    workers: int = min(2, os.cpu_count() or 1)  # processes that read
    cache_mb: int = 1024  # of the cache in memory; all these frames need 2,250
    folder: Unset[Path] = None  # for frames and files of the cache, 3 GB; default: the system's for temporary files
    quick: bool = False  # 2 sequences of 8 frames, whole epochs: to see that it runs


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


def make_loader(annotations: Annotations, config: Config, kind: str, root: Path) -> DataLoader:
    """The clips of an epoch, through a cache that is empty yet."""
    folders = [record.path.parent for record in annotations.records]
    cache = open_cache(
        kind, folders, config.input_size, "full", config.cache_mb * 2**20, root / "cache", config.workers
    )
    clips = ClipDataset(annotations, config.input_size, 5, cache)
    return DataLoader(
        TrainingClips(clips, Augmentation()),
        batch_size=4,
        sampler=EpochSampler(len(clips), config.epoch_share, seed=0),
        num_workers=config.workers,
        collate_fn=collate_clips,
        persistent_workers=config.workers > 0,
    )


def read_epoch(batches: Iterable) -> float:
    """Seconds that an epoch's clips take."""
    started = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - started


def measure(annotations: Annotations, config: Config, root: Path) -> dict[str, list[float]]:
    """Seconds of each epoch with each cache; they take turns, so that a machine's moods hit all alike."""
    loaders = {kind: make_loader(annotations, config, kind, root) for kind in KINDS}
    for loader in loaders.values():  # starts the processes
        loader.sampler.epoch = config.epochs
        next(iter(loader))
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for epoch in range(config.epochs):
        shift = epoch % len(KINDS)
        for kind in KINDS[shift:] + KINDS[:shift]:
            loaders[kind].sampler.epoch = epoch
            seconds[kind].append(read_epoch(loaders[kind]))
    return seconds


def main(config: Config) -> None:
    """Time all caches and print them."""
    counts = {"sequences": config.sequences, "frames": config.frames, "cache_mb": config.cache_mb}
    check_sizes(config.input_size, **counts)
    check_sizes(config.input_size, least=2, epochs=config.epochs)  # the first fills the caches
    if config.folder and not config.folder.is_dir():
        raise UserError(f"{config.folder}: no such folder; --folder takes one for temporary files")
    if config.quick:
        config.sequences, config.frames, config.epochs, config.epoch_share = 2, 8, 2, 1.0
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=config.folder)))
        annotations = load_annotations(write_frames(root, config), root)
        seconds = measure(annotations, config, root)
    frames = len(annotations.records)
    clips = clips_of_epoch(frames, config.epoch_share)
    (h, w), (height, width) = config.image_size, config.input_size
    print(
        f"{frames} frames, {h} x {w} -> {height} x {width}; epochs of {clips} clips of 5 frames, {config.workers} "
        f"processes, {config.cache_mb} MiB of memory"
    )
    for kind, times in seconds.items():
        print(f"cache {kind:4} clips/s, epoch by epoch: " + ", ".join(f"{clips / time:.1f}" for time in times))
    for kind in ("ram", "disk"):
        rest = ratios(Times(tuple(seconds["off"][1:])), Times(tuple(seconds[kind][1:])))
        print(f"off / {kind}, after the first epoch: {rest}")


if __name__ == "__main__":
    run_command(main, Config)
