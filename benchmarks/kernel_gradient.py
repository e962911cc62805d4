"""Gradients of 3 x 3 kernels on a CPU: oneDNN's against matrix products of strips (`nets/convolution.py`).

python -m benchmarks.kernel_gradient            # some of the network's convolutions, then whole training steps
python -m benchmarks.kernel_gradient --quick    # its shape, in seconds

It runs both ways on every processor; which of them a training takes is for `nets.convolution.by_products` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import training
from benchmarks.timing import describe_machine, interleave, matrix_product, ratios
from nets.convolution import kernel_gradient
from utils.cli import run_command
from utils.heap import keep_freed_memory


@dataclass
class Config:
    """Time the gradients of convolutions' kernels, and training steps, both ways."""

    input_size: tuple[int, int] = (512, 512)  # height and width
    batch_size: int = 2
    rounds: int = 3
    presets: tuple[str, ...] = ("released", "cross-slice")  # whose steps are timed
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
    Convolution("neck, reference halves", 4, 128, 256, 8),
    Convolution("neck, conv_final", 1, 256, 256, 8),
    Convolution("ConvLSTM, gates of h", 1, 64, 256, 4),
    Convolution("ConvLSTM, motion gates", 5, 192, 256, 4),
)


def main(config: Config) -> None:
    """Measure and print."""
    if config.quick:
        config.input_size, config.rounds, config.presets = (64, 64), 2, config.presets[:1]
    keep_freed_memory()
    print(f"batch {config.batch_size}, {config.input_size[0]} x {config.input_size[1]}, "
          f"{describe_machine(torch.device('cpu'))}\n")  # fmt: skip
    print("| kernel's gradient, GFLOP/s | oneDNN | matrix products | of a large matrix product |")
    print("| --- | ---: | ---: | ---: |")
    product, product_gflop = matrix_product(torch.device("cpu"), side=256 if config.quick else 2048)
    for convolution in CONVOLUTIONS:
        library, strips, gflop = both_ways(convolution, config)
        times = interleave({"library": library, "strips": strips, "product": product}, config.rounds)
        rates = gflop / times["library"].median, gflop / times["strips"].median
        share = rates[1] * times["product"].median / product_gflop
        shape = f"{convolution.channels} to {convolution.outputs} channels"
        print(f"| {convolution.name}: {shape} | {rates[0]:.0f} | {rates[1]:.0f} | {100 * share:.0f} % |", flush=True)
    print()
    for preset in config.presets:
        print(f"{preset}, a step with oneDNN's / with matrix products: {step_ratios(preset, config)}", flush=True)


def both_ways(convolution: Convolution, config: Config) -> tuple[Callable, Callable, float]:
    """oneDNN's gradient of a kernel, ours, and the GFLOP of either."""
    _, images, channels, outputs, cell, stride = convolution
    height, width = (max(side // cell, 2) for side in config.input_size)
    count = images * config.batch_size
    x = _random(count, channels, height, width)
    grad = _random(count, outputs, height // stride, width // stride)
    weight = _random(outputs, channels, 3, 3)
    geometry = [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, [False, True, False]
    library = partial(torch.ops.aten.convolution_backward, grad, x, weight, None, *geometry)
    return library, partial(kernel_gradient, x, grad, 3, stride, 1), 2 * grad.numel() * weight[0].numel() / 1e9


def _random(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def step_ratios(preset: str, config: Config) -> str:
    """Seconds of a training step with oneDNN's gradients over those with matrix products."""
    setting = training.Config(input_size=config.input_size, batch_size=config.batch_size)
    if config.quick:
        setting.width = 0.25
    step = training.Step(training.Form(preset), setting, torch.device("cpu"))
    times = interleave({name: partial(_step, step, name) for name in ("library", "AVX2")}, config.rounds)
    seconds = ", ".join(f"{times[name].median:.2f} s" for name in times)
    return f"{ratios(times['library'], times['AVX2'])}, {seconds}"


def _step(step: Callable, capability: str) -> None:
    with processor(capability):
        step()


@contextmanager
def processor(capability: str) -> Iterator[None]:
    """Inside, `nets.convolution.by_products` takes the processor for another."""
    with patch.object(torch.backends.cpu, "get_cpu_capability", return_value=capability):
        yield


if __name__ == "__main__":
    run_command(main, Config)
