"""Several processes of one run, as torchrun starts them; with one process everything here does nothing."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.cli import UserError
from utils.config import choose_device

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """This process among those of a run: its rank, how many there are, and its number on its own machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Processes:
        """What torchrun says; a single process without it."""
        rank, count, local = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return cls() if rank is None or count is None else cls(int(rank), int(count), int(local or 0))

    @property
    def is_main(self) -> bool:
        """Whether this process reads and writes the run folder and talks to the user."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.count > 1

    def device(self, name: str) -> torch.device:
        """The device of `--device`; of several processes each takes the GPU of its number on its machine."""
        if self.several and name in ("auto", "cuda") and torch.cuda.is_available():
            if self.local_rank >= (found := torch.cuda.device_count()):
                raise UserError(
                    f"process {self.local_rank + 1} of this machine has no GPU of its own, of {found}; lower "
                    f"--nproc-per-node to {found}"
                )
            device = choose_device(f"cuda:{self.local_rank}")  # before another GPU is touched, which takes its memory
            torch.cuda.set_device(device)
            return device
        device = choose_device(name)
        if self.several and device.type == "cuda":
            raise UserError(f"--device {name}: {self.count} processes cannot share one GPU; pass --device cuda")
        return device

    @contextmanager
    def joined(self, device: torch.device, timeout: int) -> Iterator[None]:
        """The processes' group for as long as a run takes; who waits longer than `timeout` seconds gives up."""
        if not self.several:
            yield
            return
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        except (RuntimeError, ValueError) as error:
            raise UserError(f"the {self.count} processes cannot reach one another ({error}); see torchrun") from error
        yield
        dist.destroy_process_group()  # after an error others may be gone, and an end in order would wait for them

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The network whose backward pass averages gradients over all processes."""
        if not self.several:
            return model
        ids = [device.index] if device.type == "cuda" else None
        # Kernels that the motion branch uses in slices have gradients in another layout: a few MB are copied.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)  # or two copies of them

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.several:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        return self.sum(value) / self.count if self.several else value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.sum(torch.tensor(int(flag))).item()) if self.several else flag

    def meet(self) -> None:
        """Wait for the others, on the CPU: one that has ended shows here, not in a GPU's exchange that never ends."""
        self.any(False)

    def all_of(self, item: Item) -> list[Item]:
        """Every process's item, by rank."""
        if not self.several:
            return [item]
        items: list[Any] = [None] * self.count
        dist.all_gather_object(items, item)
        return items

    def from_main(self, item: Item) -> Item:
        """The main process's item."""
        if not self.several:
            return item
        items = [item]
        dist.broadcast_object_list(items, src=0)
        return items[0]

    @torch.no_grad()
    def copy_from_main(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors by those of the main process."""
        if self.several:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def share(self, items: list[Item]) -> list[Item]:
        """This process's part of a list: consecutive items, parts of sizes that differ by one at most."""
        return items[len(items) * self.rank // self.count : len(items) * (self.rank + 1) // self.count]

    def fail(self, message: str) -> NoReturn:
        """End all processes for a reason that all of them know; the main one says it."""
        if self.is_main:
            raise UserError(message)
        raise SystemExit(2)


def share_batch_statistics(model: nn.Module, device: torch.device, only_check: bool = False) -> None:
    """Make every BatchNorm take its statistics over all processes, or only see whether it could."""
    if device.type != "cuda":
        raise UserError("--sync-batchnorm: works on GPUs only; leave it out, or pass --device cuda")
    if not only_check:  # a dry run counts on PyTorch's meta device, where no process hears of another
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


def is_others_end(error: RuntimeError) -> bool:
    """Whether a failure says that another process is gone or keeps this one waiting."""
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text.lower() or "NCCL" in text
