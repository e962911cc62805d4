"""How cost grows, one thing at a time: frames of a clip, input side, slices and layers, targets, length of a sequence.

python -m benchmarks.growth            # tables in Markdown
python -m benchmarks.growth --quick    # their shape, in seconds
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from benchmarks.timing import Work, check_sizes, chosen_device, describe_machine, interleave
from nets import SSTNet, VideoStream, YOLOXLoss, frames_together, inference_form
from utils.cli import run_command


@dataclass
class Config:
    """Time the same work at several sizes."""

    input_size: tuple[int, int] = (512, 512)  # height and width
    rounds: int = 3
    width: float = 0.5  # of the network
    device: str = "auto"
    quick: bool = False  # 64 x 64, a narrow network, few sizes, 2 rounds: to see that it runs


class Timed(NamedTuple):
    """A cell of a table: what is run, and how many of the things that the column names it does at once."""

    work: Work
    count: int = 1


class Table(NamedTuple):
    """Rows by their name, a cell for each column."""

    head: tuple[str, ...]  # of the first column and of the others, in milliseconds
    rows: dict[str, tuple[Timed, ...]]


def main(config: Config) -> None:
    """Time the tables one after another and print them."""
    check_sizes(config.input_size, width=config.width, rounds=config.rounds)
    if config.quick:
        config.input_size, config.rounds, config.width = (64, 64), 2, 0.125
    torch.manual_seed(0)
    device = chosen_device(config.device)
    height, width = config.input_size
    print(f"{height} x {width} where the table says nothing else, {describe_machine(device)}")
    for make in (clip_lengths, sides, motion_branches, target_counts, sequence_lengths):
        table = make(config, device)
        ways = {f"{row}, {k}": cell.work for row, cells in table.rows.items() for k, cell in enumerate(cells)}
        times = interleave(ways, config.rounds)
        print(f"\n| {' | '.join(table.head)} |\n|{' --- |' + ' ---: |' * (len(table.head) - 1)}")
        for row, cells in table.rows.items():
            seconds = (times[f"{row}, {k}"].median / cell.count for k, cell in enumerate(cells))
            print(f"| {row} | {' | '.join(f'{1000 * value:,.1f}' for value in seconds)} |", flush=True)


def clip_lengths(config: Config, device: torch.device) -> Table:
    """Inference with clips of T frames."""
    lengths = (2, 5) if config.quick else (2, 3, 5, 7, 9)
    rows = {str(length): inference(config, device, config.input_size, length) for length in lengths}
    return Table(("frames of a clip, T", "a clip, ms", "a frame of video, ms"), rows)


def sides(config: Config, device: torch.device) -> Table:
    """Inference with inputs of several sizes."""
    lengths = (32, 64) if config.quick else (256, 384, 512, 640)
    rows = {f"{side} x {side}": inference(config, device, (side, side)) for side in lengths}
    return Table(("input size", "a clip, ms", "a frame of video, ms"), rows)


def inference(config: Config, device: torch.device, size: tuple[int, int], length: int = 5) -> tuple[Timed, Timed]:
    """A clip, and a frame in the middle of a video."""
    model = SSTNet(num_frames=length, num_slices=0, width=config.width).to(device)
    model, count = inference_form(model), frames_together(size, device)
    clip = torch.randn(1, 3, length, *size, device=device)
    frames = torch.randn(count, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    return Timed(torch.inference_mode()(partial(model, clip))), Timed(partial(VideoStream(model).push, frames), count)


def half(size: tuple[int, int]) -> tuple[int, ...]:
    """Height and width of an input of half the side, in whole cells of 32 pixels."""
    return tuple(max(side // 64, 1) * 32 for side in size)


def motion_branches(config: Config, device: torch.device) -> Table:
    """Forward and backward pass of a clip of half the side, with motion branches of S slices x L layers."""
    size = half(config.input_size)
    shapes = ((0, 0), (1, 1)) if config.quick else ((0, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 2))
    rows = {}
    for slices, layers in shapes:
        model = SSTNet(num_slices=slices, num_layers=layers, width=config.width).to(device).train()
        model = model.to(memory_format=torch.channels_last)
        name = f"{slices} x {layers}" if slices else "none"
        rows[name] = (Timed(training_of(model, torch.randn(2, 3, 5, *size, device=device)), 2),)
    return Table(("S x L", f"a clip of {size[0]} x {size[1]} in training, ms"), rows)


def training_of(model: SSTNet, clips: torch.Tensor) -> Work:
    """Forward pass, loss of one target a clip, backward pass."""
    criterion = YOLOXLoss(1, model.stride)
    targets = [torch.tensor([[16.0, 16.0, 12.0, 12.0, 0.0]], device=clips.device)] * len(clips)

    def work() -> None:
        output, motion = model(clips)
        (criterion(output, targets).total + motion).backward()
        model.zero_grad(set_to_none=True)

    return work


def target_counts(config: Config, device: torch.device) -> Table:
    """The loss and its gradient for two images with many targets."""
    height, width = config.input_size
    output = torch.randn(2, 6, height // 8, width // 8, device=device, requires_grad=True)
    rows = {}
    for count in (0, 1, 10) if config.quick else (0, 1, 10, 100, 1000):
        places = torch.rand(2, count, 2, device=device) * torch.tensor([width, height], device=device)
        kind = torch.tensor([12.0, 12.0, 0.0], device=device).expand(2, count, 3)  # sides and class
        rows[str(count)] = (Timed(loss_of(output, list(torch.cat([places, kind], dim=2))), 2),)
    return Table(("targets of an image", "its loss, forward and backward, ms"), rows)


def loss_of(output: torch.Tensor, targets: list[torch.Tensor]) -> Work:
    """The loss and its gradient."""

    def work() -> None:
        torch.autograd.grad(YOLOXLoss(1)(output, targets).total, output)

    return work


def sequence_lengths(config: Config, device: torch.device) -> Table:
    """Videos of half the side, from their first frame to their last."""
    size = half(config.input_size)
    model = inference_form(SSTNet(num_slices=0, width=config.width).to(device))
    rows = {}
    for length in (4, 8) if config.quick else (8, 32, 128):
        rows[str(length)] = (Timed(video_of(model, length, size, device), length),)
    return Table(("frames of a sequence", f"a frame of {size[0]} x {size[1]}, ms"), rows)


def video_of(model: SSTNet, length: int, size: tuple[int, int], device: torch.device) -> Work:
    """A stream over so many frames."""
    count = frames_together(size, device)
    part = torch.randn(count, 3, *size, device=device).contiguous(memory_format=torch.channels_last)

    def work() -> None:
        stream = VideoStream(model)
        for start in range(0, length, count):
            stream.push(part[: length - start])

    return work


if __name__ == "__main__":
    run_command(main, Config)
