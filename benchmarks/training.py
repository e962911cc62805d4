"""A training step: its time against what its forward work would take at the machine's own rate, and its memory.

python -m benchmarks.training            # both presets, batch 2, 512 x 512
python -m benchmarks.training --quick    # its shape, in seconds
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmarks.timing import (
    Ratios,
    Times,
    Work,
    check_sizes,
    chosen_device,
    describe_machine,
    gpu_memory,
    interleave,
    matrix_product,
    ratios,
    tensor_cores,
)
from nets import SSTNet, YOLOXLoss
from utils.cli import run_command
from utils.config import PRESETS
from utils.ema import EMA
from utils.flops import count_gflop
from utils.heap import keep_freed_memory
from utils.optimizer import build_optimizer


@dataclass
class Config:
    """Time training steps and measure their memory."""

    input_size: tuple[int, int] = (512, 512)  # height and width
    batch_size: int = 2
    rounds: int = 3
    width: float = 0.5  # of the network
    presets: tuple[Literal["released", "cross-slice"], ...] = ("released", "cross-slice")
    device: str = "auto"
    compile: bool = False  # time torch.compile too (slow to start)
    alone: bool = False  # time the trainer's own form alone
    quick: bool = False  # 64 x 64, a narrow network, 2 rounds: to see that it runs


@dataclass(frozen=True)
class Form:
    """One way to run a step."""

    preset: str
    amp: bool = False
    channels_last: bool = True  # as the trainer has it
    recompute: tuple[str, ...] = ()
    compile: bool = False
    tf32: bool = True  # as PyTorch has it for convolutions; only a GPU knows it

    def __str__(self) -> str:
        flags = ["bf16"] * self.amp + ["not channels_last"] * (not self.channels_last)
        flags += ["compiled"] * self.compile + ["no TF32"] * (not self.tf32)
        return ", ".join([self.preset, *flags, *(f"recompute {part}" for part in self.recompute)])


class Step:
    """Forward, loss, backward, optimiser and EMA, as the trainer runs them, on one batch of random clips."""

    def __init__(self, form: Form, config: Config, device: torch.device):
        torch.manual_seed(0)
        slices, layers = PRESETS[form.preset]
        layout = torch.channels_last if form.channels_last else torch.contiguous_format
        model = SSTNet(num_slices=slices, num_layers=layers, width=config.width, recompute=form.recompute)
        self.model = model.to(device, memory_format=layout).train()
        self.forward = torch.compile(self.model) if form.compile else self.model
        self.criterion = YOLOXLoss(1, self.model.stride, "iou")
        self.optimizer = build_optimizer(self.model, "sgd", 1e-4)
        self.ema = EMA(self.model)
        self.clips = torch.randn(config.batch_size, 3, self.model.num_frames, *config.input_size, device=device)
        middle = config.input_size[1] / 2, config.input_size[0] / 2
        self.targets = [torch.tensor([[*middle, 16.0, 16.0, 0.0]]) for _ in range(config.batch_size)]
        self.form = form

    def loss(self) -> Tensor:
        """The forward pass and the loss."""
        device = self.clips.device.type
        with self._precision():
            with torch.autocast(device, torch.bfloat16) if self.form.amp else nullcontext():
                output, motion = self.forward(self.clips)
            return self.criterion(output, self.targets).total + motion.float()

    def __call__(self) -> None:
        with self._precision():
            self.optimizer.zero_grad(set_to_none=True)
            self.loss().backward()
            self.optimizer.step()
            self.ema.update(self.model)

    def _precision(self) -> AbstractContextManager:
        """The trainer leaves PyTorch's own setting."""
        return nullcontext() if self.form.tf32 else tensor_cores(False)


def forms_of(config: Config, device: torch.device) -> list[Form]:
    """The forms that are compared, of every preset."""
    if config.alone:
        return [Form(preset) for preset in config.presets]
    forms = []
    for preset in config.presets:
        forms += [Form(preset), Form(preset, channels_last=False), Form(preset, amp=True)]
        if config.compile:
            forms += [Form(preset, compile=True), Form(preset, amp=True, compile=True)]
        if device.type == "cuda":
            forms.append(Form(preset, tf32=False))
        forms += [Form(preset, recompute=parts) for parts in (("extractor",), ("motion",), ("extractor", "motion"))]
    return forms


def peak_memory(form: Form, config: Config, device: torch.device) -> float:
    """MiB that two steps need at most: on a GPU what PyTorch held, on a CPU what the process grew by."""
    if device.type == "cuda":
        step = Step(form, config, device)
        step()
        return gpu_memory(step)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_grown, (form, config, torch.get_num_threads()))


def _grown(form: Form, config: Config, threads: int) -> float:
    torch.set_num_threads(threads)
    keep_freed_memory()  # as every command does
    torch.nn.functional.conv2d(torch.randn(1, 8, 32, 32), torch.randn(8, 8, 3, 3))  # the library's own start
    before = _peak_kib()
    step = Step(form, config, torch.device("cpu"))
    step(), step()
    return (_peak_kib() - before) / 1024


def _peak_kib() -> float:
    """Most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would count the parent's peak too
        return float(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform == "darwin" else peak


def main(config: Config) -> None:
    """Measure all forms and print them."""
    check_sizes(config.input_size, width=config.width, rounds=config.rounds, batch_size=config.batch_size)
    if config.quick:
        config.input_size, config.rounds, config.width, config.presets = (64, 64), 2, 0.125, ("released",)
    device = chosen_device(config.device)
    product, product_gflop = matrix_product(device, side=256 if config.quick else 2048)
    height, width = config.input_size
    print(f"training step, batch {config.batch_size}, {height} x {width}, {describe_machine(device)}")
    for form in forms_of(config, device):
        memory = peak_memory(form, config, device)
        step = Step(form, config, device)
        ways: dict[str, Work] = {"step": step, "forward": step.loss, "product": product}
        times = interleave(ways, config.rounds)
        rate = product_gflop / times["product"].median
        ideal = forward_gflop(form, config) / rate
        clips = config.batch_size / times["step"].median
        print(
            f"{str(form):44} {clips:7.2f} clips/s  step {times['step']}  forward {times['forward']}  "
            f"step / forward work at {rate:.0f} GFLOP/s: {times['step'].median / ideal:.2f}  {memory:.0f} MiB",
            flush=True,
        )
        del step, ways
    if device.type == "cpu":
        print(f"{config.presets[0]}, freed memory given back / kept: {heap_ratios(config)}")


def heap_ratios(config: Config) -> Ratios:
    """A step where the C library gives large freed blocks back, as it does by itself, over one where it keeps them.

    Each in a process of its own, in turns: what one way leaves in the heap would serve the other.
    """
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(config.rounds):
        for keeps, measured in seconds.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                measured.append(pool.apply(_step_seconds, (config, keeps, torch.get_num_threads())))
    return ratios(Times(tuple(seconds[False])), Times(tuple(seconds[True])))


def _step_seconds(config: Config, keeps: bool, threads: int) -> float:
    torch.set_num_threads(threads)
    if keeps:
        keep_freed_memory()
    step = Step(Form(config.presets[0]), config, torch.device("cpu"))
    return interleave({"step": step}, rounds=3, warmup=2)["step"].median


def forward_gflop(form: Form, config: Config) -> float:
    """Counted work of one training forward pass of the batch."""
    slices, layers = PRESETS[form.preset]
    with torch.device("meta"):
        model = SSTNet(num_slices=slices, num_layers=layers, width=config.width).train()
    clips = torch.empty(config.batch_size, 3, model.num_frames, *config.input_size, device="meta")
    return count_gflop(model, lambda m: m(clips))


if __name__ == "__main__":
    run_command(main, Config)
