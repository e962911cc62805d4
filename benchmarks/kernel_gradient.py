"""Gradients of 3 x 3 kernels on a CPU: oneDNN's, in both layouts, and matrix products (`nets/convolution.py`).

python -m benchmarks.kernel_gradient            # some of the network's convolutions, then whole training steps
python -m benchmarks.kernel_gradient --quick    # its shape, in seconds

It runs all ways on every processor; which of them a training takes is for `nets.convolution.takes_products` to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple
from unittest.mock import patch

import torch

from benchmarks import training
from benchmarks.timing import check_sizes, describe_machine, interleave, matrix_product, ratios
from nets.convolution import conv2d, kernel_gradient
from utils.cli import run_command
from utils.heap import keep_freed_memory


@dataclass
class Config:
    """Time the gradients of convolutions' kernels, and training steps, each way."""

    input_size: tuple[int, int] = (512, 512)  # height and width
    batch_size: int = 2
    rounds: int = 3
    presets: tuple[Literal["released", "cross-slice"], ...] = ("released", "cross-slice")  # whose steps are timed
    quick: bool = False  # 64 x 64, a narrow network, one preset, 2 rounds: to see that it runs


class Convolution(NamedTuple):
    """A 3 x 3 convolution of the network, width 0.5."""

    name: str
    images: int  # for each clip
    channels: int
    outputs: int
    cell: int  # pixels of the frame to a cell of the input
    stride: int = 1


CONVOLUTIONS = (
    Convolution("dark2, first", 1, 32, 64, 2, stride=2),
    Convolution("dark2, bottleneck", 1, 32, 32, 4),
    Convolution("dark3, bottleneck", 1, 64, 64, 8),
    Convolution("dark4, bottleneck", 1, 128, 128, 16),
    Convolution("dark4, first", 1, 128, 256, 8, stride=2),
    Convolution("dark5, bottleneck", 1, 256, 256, 32),
    Convolution("neck, reference halves", 4, 128, 256, 8),
    Convolution("neck, conv_final", 1, 256, 256, 8),
    Convolution("ConvLSTM, gates of h", 1, 64, 256, 4),
    Convolution("ConvLSTM, motion gates", 5, 192, 256, 4),
)


def main(config: Config) -> None:
    """Measure and print."""
    check_sizes(config.input_size, rounds=config.rounds, batch_size=config.batch_size)
    if config.quick:
        config.input_size, config.rounds, config.presets = (64, 64), 2, config.presets[:1]
    keep_freed_memory()
    print(f"batch {config.batch_size}, {config.input_size[0]} x {config.input_size[1]}, "
          f"{describe_machine(torch.device('cpu'))}\n")  # fmt: skip
    product, product_gflop = matrix_product(torch.device("cpu"), side=256 if config.quick else 2048)
    head = ("GFLOP/s", "forward", "kernel's gradient: oneDNN", "not channels-last", "strips", "large matrix product")
    print(f"| {' | '.join(head)} |\n| --- |{' ---: |' * (len(head) - 1)}")
    for convolution in CONVOLUTIONS:
        gflop, ways = ways_of(convolution, config)
        times = interleave({**ways, "product": product}, config.rounds)
        columns = [f"{gflop / times[name].median:.0f}" for name in ways]
        rate = product_gflop / times["product"].median
        name = f"{convolution.name}: {convolution.channels} to {convolution.outputs} channels"
        print(f"| {name} | {' | '.join(columns)} | {rate:.0f} |", flush=True)
    for preset in config.presets:
        print_steps(preset, config)


def ways_of(convolution: Convolution, config: Config) -> tuple[float, dict[str, Callable]]:
    """GFLOP of a convolution or of its kernel's gradient, and what is timed: forward pass, oneDNN twice, ours."""
    _, images, channels, outputs, cell, stride = convolution
    size = tuple(max(side // cell, 2) for side in config.input_size)
    x = torch.randn(images * config.batch_size, channels, *size).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outputs, channels, 3, 3).contiguous(memory_format=torch.channels_last)
    forward = partial(conv2d, x, weight, stride=stride, padding=1)
    grad = torch.randn_like(forward())
    geometry = [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, [False, True, False]
    library = torch.ops.aten.convolution_backward
    plain = (tensor.contiguous() for tensor in (grad, x, weight))
    ways = {
        "forward": forward,
        "channels-last": partial(library, grad, x, weight, None, *geometry),
        "not channels-last": partial(library, *plain, None, *geometry),
        "strips": partial(kernel_gradient, x, grad, 3, stride, 1),
    }
    return 2 * grad.numel() * weight[0].numel() / 1e9, ways


def print_steps(preset: str, config: Config) -> None:
    """Seconds of a training step with either gradient of the kernels, and of one that is not channels-last."""
    setting = training.Config(input_size=config.input_size, batch_size=config.batch_size)
    if config.quick:
        setting.width = 0.25
    device = torch.device("cpu")
    steps = {last: training.Step(training.Form(preset, channels_last=last), setting, device) for last in (True, False)}
    ways = {
        "oneDNN": partial(_step, steps[True], "AVX512"),
        "oneDNN, not channels-last": partial(_step, steps[False], "AVX512"),
        "strips": partial(_step, steps[True], "AVX2"),
    }
    times = interleave(ways, config.rounds)
    print(f"\n{preset}, a step with strips: {times['strips']}")
    for name in list(ways)[:2]:
        print(f"{preset}, {name}: {times[name]}, over strips: {ratios(times[name], times['strips'])}", flush=True)


def _step(step: Callable, capability: str) -> None:
    """A step on a processor that `nets.convolution.takes_products` takes for one of this kind."""
    with patch.object(torch.backends.cpu, "get_cpu_capability", return_value=capability):
        step()


if __name__ == "__main__":
    run_command(main, Config)
