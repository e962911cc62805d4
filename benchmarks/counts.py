"""Counted work by part of the network, as the equations read and as it is computed here: tables in Markdown.

python -m benchmarks.counts    # GFLOP (2 x multiply-accumulate), no time is taken: the same on every machine
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.timing import check_sizes
from nets import SSTNet
from utils.cli import run_command
from utils.config import PRESETS
from utils.flops import count_as_written, count_clip, count_training, count_video_frame, shapes_only


@dataclass
class Config:
    """Count the work of one clip, of a frame of video, and of a training step's forward pass."""

    input_size: tuple[int, int] = (512, 512)  # height and width
    num_frames: int = 5
    quick: bool = False  # at 64 x 64


def main(config: Config) -> None:
    """Print the tables."""
    check_sizes(config.input_size, least=2, num_frames=config.num_frames)
    size, num_frames = (64, 64) if config.quick else config.input_size, config.num_frames
    model = network(num_frames)
    columns = [count_as_written(model, size), count_clip(model, size), count_video_frame(model, size)]
    print(f"{size[0]} x {size[1]}, clips of {num_frames} frames, GFLOP\n")
    print("| part | a clip, as the equations read | a clip | a frame of video |\n| --- | ---: | ---: | ---: |")
    for part in columns[0]:
        print(f"| {part} | " + " | ".join(f"{column[part]:.1f}" for column in columns) + " |")
    print("| all | " + " | ".join(f"{sum(column.values()):.1f}" for column in columns) + " |")

    print("\n| training forward pass of a clip | motion branch | all |\n| --- | ---: | ---: |")
    detector = sum(columns[1].values())
    forms = {f"{name} ({s} x {n})": (s, n) for name, (s, n) in PRESETS.items()} | {"3 x 2": (3, 2)}
    for name, (slices, layers) in forms.items():
        whole = count_training(network(num_frames, slices, layers), size)
        print(f"| {name} | {whole - detector:.1f} | {whole:.1f} |")

    print("\n| frames of a clip, T | a clip | a frame of video | training, released |\n| --- | ---: | ---: | ---: |")
    for length in (2, 5) if config.quick else (2, 3, 5, 7, 9):
        print_row(str(length), network(length), size)
    print("\n| input size | a clip | a frame of video | training, released |\n| --- | ---: | ---: | ---: |")
    for side in (64,) if config.quick else (256, 384, 512, 640):
        print_row(f"{side} x {side}", model, (side, side))


def network(num_frames: int, slices: int = 1, layers: int = 1) -> SSTNet:
    """The network of the published widths, for counting."""
    return shapes_only(num_frames=num_frames, num_slices=slices, num_layers=layers)


def print_row(name: str, model: SSTNet, size: tuple[int, int]) -> None:
    """What one shape costs."""
    clip, video = sum(count_clip(model, size).values()), sum(count_video_frame(model, size).values())
    print(f"| {name} | {clip:.1f} | {video:.1f} | {count_training(model, size):.1f} |")


if __name__ == "__main__":
    run_command(main, Config)
