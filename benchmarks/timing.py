"""Paired timings: ways of doing one thing take turns, so that a machine's moods hit all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from utils.cli import UserError
from utils.config import check_input_size, choose_device

Work = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Seconds of every round of one way."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{self.median:8.3f} s  ({min(self.seconds):.3f} to {max(self.seconds):.3f})"


@dataclass(frozen=True)
class Ratios:
    """First way's seconds over the second's, round by round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{self.median:.2f} x  ({min(self.values):.2f} to {max(self.values):.2f})"


def interleave(ways: dict[str, Work], rounds: int, warmup: int = 1) -> dict[str, Times]:
    """Seconds of each way, all of them once a round, in an order that turns from round to round.

    A GPU is waited for before and after.
    """
    for work in ways.values():
        for _ in range(warmup):
            work()
    names, seconds = list(ways), {name: [] for name in ways}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            _wait()
            started = time.perf_counter()
            ways[name]()
            _wait()
            seconds[name].append(time.perf_counter() - started)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


@contextmanager
def tensor_cores(on: bool) -> Iterator[None]:
    """TF32 on or off inside (GPU only; a CPU does not look at it)."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def check_sizes(input_size: tuple[int, int], least: int = 1, width: float = 1.0, **counts: int) -> None:
    """`UserError` where the network takes no such input or width, or of the flags `counts` one is below `least`."""
    check_input_size(input_size)
    if not 1 / 64 <= width <= 10:
        raise UserError(f"--width {width}: must be 1/64 (one channel in the stem) to 10")
    for name, value in counts.items():
        if value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be {least} or more")


def chosen_device(name: str) -> torch.device:
    """`choose_device`, made the current one: what is waited for and counted here is the current GPU's."""
    device = choose_device(name)
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def gpu_memory(work: Work) -> float:
    """MiB that PyTorch holds on the GPU at most while `work` runs."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() / 2**20


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratios(slow: Times, fast: Times) -> Ratios:
    """How many times as long the first way took, in each round."""
    return Ratios(tuple(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)))


def matrix_product(device: torch.device, dtype: torch.dtype = torch.float32, side: int = 2048) -> tuple[Work, float]:
    """A large matrix product, the fastest thing that a machine does, and its GFLOP."""
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    return lambda: torch.mm(a, b), 2 * side**3 / 1e9


def describe_machine(device: torch.device) -> str:
    """What was measured on, in a line."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU with {capability}, {torch.get_num_threads()} threads, torch {torch.__version__}"
