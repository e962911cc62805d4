"""The frames that annotated clips need, as blocks of consecutive frames, each frame in one block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.annotations import Annotations
from utils.cli import UserError
from utils.frames import Intensity, read_frame, read_image_size, sequence_frames, split_runs
from utils.letterbox import Letterbox


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive frames of one run, all of them needed by annotated clips."""

    paths: list[Path]
    records: list[list[int]]  # for each frame the records that annotate it; none: only a later clip needs it
    letterbox: Letterbox


def plan_blocks(
    annotations: Annotations, reach: int, letterbox_of: Callable[[tuple[int, int]], Letterbox]
) -> Iterator[Block]:
    """Split the frames that annotated clips span, `reach` before a key frame and itself, into consecutive blocks.

    A block that starts inside a run starts with these predecessors of its first annotated frame, so its
    annotated frames see the clips that they would see in the whole run. Nothing reaches across a run's end.
    """
    by_folder: dict[Path, dict[str, list[int]]] = {}
    for index, record in enumerate(annotations.records):
        by_folder.setdefault(record.path.parent, {}).setdefault(record.path.name, []).append(index)
    for folder, annotated in by_folder.items():
        runs = split_runs(sequence_frames(folder))
        unknown = annotated.keys() - {path.name for run in runs for path in run}
        if unknown:
            raise UserError(f"{folder / min(unknown)}: not among the frames of its folder; mend {annotations.source}")
        for run in runs:
            records = [annotated.get(path.name, []) for path in run]
            needed = np.zeros(len(run), dtype=bool)
            for position in (k for k, owners in enumerate(records) if owners):
                needed[max(position - reach, 0) : position + 1] = True
            edges = np.flatnonzero(np.diff(needed, prepend=False, append=False))
            for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
                yield Block(run[start:stop], records[start:stop], letterbox_of(read_image_size(run[start])))


def read_block_frame(member: tuple[Block, int], intensity: Intensity) -> tuple[Block, int, np.ndarray]:
    """Read and letterbox one frame of a block."""
    block, position = member
    path = block.paths[position]
    frame = read_frame(path, intensity)
    if frame.shape != tuple(block.letterbox.image_size):
        (height, width), (first_height, first_width) = frame.shape, block.letterbox.image_size
        raise UserError(
            f"{path}: {width} x {height}, but the frames before it are {first_width} x {first_height}; "
            "keep one image size in a sequence folder"
        )
    return block, position, block.letterbox.image(frame)
