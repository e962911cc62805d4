"""Which clips make which batch, by step, part and process. Follows from seed, epoch and step alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch.utils.data import Sampler

from utils.augment import EpochSampler
from utils.cli import UserError
from utils.distributed import Processes


@dataclass(frozen=True)
class BatchShape:
    """A step's batch: `parts` one after the other in each process, of `clips` each."""

    size: int  # clips of a step, in all
    parts: int  # forward and backward passes of a step
    clips: int  # of a pass in one process

    @classmethod
    def split(cls, size: int, parts: int, processes: Processes) -> BatchShape:
        """UserError where the batch cannot be divided evenly."""
        clips, rest = divmod(size, parts * processes.count)
        if rest or not clips:
            raise UserError(
                f"--batch-size {size}: the clips of a step in all, so a multiple of --accumulate {parts} x "
                f"{processes.count} processes; pass such a number"
            )
        return cls(size, parts, clips)


class BatchShare(Sampler[list[tuple[int, int]]]):
    """One process's parts of the batches of an epoch, from step `first` on: lists of (clip index, seed).

    However many processes and parts there are, a step's clips are the same. Clips left over make no batch.
    """

    def __init__(self, sampler: EpochSampler, shape: BatchShape, rank: int = 0):
        self.sampler = sampler
        self.shape = shape
        self.rank = rank
        self.first = 0

    @property
    def steps(self) -> int:
        """Steps of a whole epoch."""
        return len(self.sampler) // self.shape.size

    def __len__(self) -> int:
        return (self.steps - self.first) * self.shape.parts

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        shape, items = self.shape, list(self.sampler)
        part_size = shape.size // shape.parts  # in all processes
        for step in range(self.first, self.steps):
            for part in range(shape.parts):
                start = step * shape.size + part * part_size + self.rank * shape.clips
                yield items[start : start + shape.clips]
