"""Counted work by part of the network, as the equations read and as it is computed here: tables in Markdown.

python -m benchmarks.counts    # GFLOP (2 x multiply-accumulate), no time is taken: the same on every machine
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from benchmarks.timing import count_gflop
from nets import SSTNet
from utils.cli import run_command
from utils.config import PRESETS


@dataclass
class Config:
    """Count the work of one clip, of a frame of video, and of a training step's forward pass."""

    input_size: tuple[int, int] = (512, 512)  # height and width
    num_frames: int = 5
    quick: bool = False  # at 64 x 64


@dataclass(frozen=True)
class Shape:
    """What is counted."""

    size: tuple[int, int]
    num_frames: int = 5
    slices: int = 1
    layers: int = 1

    def network(self) -> SSTNet:
        """A network that computes shapes only."""
        with torch.device("meta"):
            return SSTNet(1, self.num_frames, self.slices, self.layers).eval()

    def clip(self) -> torch.Tensor:
        return torch.empty(1, 3, self.num_frames, *self.size, device="meta")


def parts_as_the_equations_read(shape: Shape) -> dict[str, float]:
    """Evaluation of one clip as it is written: every pair's concatenation is convolved whole."""
    model, frame = shape.network(), shape.clip()[:, :, 0]
    cells = torch.empty(1, model.neck.channels, shape.size[0] // 8, shape.size[1] // 8, device="meta")
    references = shape.num_frames - 1

    def neck(network: SSTNet) -> None:
        neck = network.neck
        gated = neck.conv_ref(torch.cat([cells] * references, 1)) * cells
        neck.conv_cr_mix(torch.cat([neck.conv_cur(gated), cells], 1))
        pairs = [neck.conv_gl(torch.cat([cells, cells], 1)) for _ in range(references)]
        neck.conv_final(torch.cat([neck.conv_gl_mix(sum(pairs)), cells], 1))

    return {
        "extractor": shape.num_frames * count_gflop(model, lambda m: m.extractor(frame)),
        "neck": count_gflop(model, neck),
        "head": count_gflop(model, lambda m: m.head(cells)),
    }


def parts_of_a_clip(shape: Shape) -> dict[str, float]:
    """Evaluation of one clip."""
    parts = parts_as_the_equations_read(shape)
    whole = count_gflop(shape.network(), lambda m: m(shape.clip()))
    return parts | {"neck": whole - parts["extractor"] - parts["head"]}


def parts_of_a_video_frame(shape: Shape) -> dict[str, float]:
    """A frame of a long video: what one more frame costs."""
    frames = torch.empty(9, 3, *shape.size, device="meta")
    model = shape.network()
    short, long = (count_gflop(model, lambda m, n=n: m.forward_video(frames[:n], chunk=1)) for n in (8, 9))
    whole = long - short
    parts = parts_as_the_equations_read(shape)
    extractor = parts["extractor"] / shape.num_frames
    return {"extractor": extractor, "neck": whole - extractor - parts["head"], "head": parts["head"]}


def training_forward(shape: Shape) -> float:
    """The forward pass of one clip in training mode."""
    return count_gflop(shape.network().train(), lambda m: m(shape.clip()))


def main(config: Config) -> None:
    """Print the tables."""
    base = Shape((64, 64) if config.quick else config.input_size, config.num_frames)
    columns = [parts_as_the_equations_read(base), parts_of_a_clip(base), parts_of_a_video_frame(base)]
    print(f"{base.size[0]} x {base.size[1]}, clips of {base.num_frames} frames, GFLOP\n")
    print("| part | a clip, as the equations read | a clip | a frame of video |\n| --- | ---: | ---: | ---: |")
    for part in columns[0]:
        print(f"| {part} | " + " | ".join(f"{column[part]:.1f}" for column in columns) + " |")
    print("| all | " + " | ".join(f"{sum(column.values()):.1f}" for column in columns) + " |")

    print("\n| training forward pass of a clip | motion branch | all |\n| --- | ---: | ---: |")
    detector = sum(columns[1].values())
    forms = {f"{name} ({s} x {n})": (s, n) for name, (s, n) in PRESETS.items()} | {"3 x 2": (3, 2)}
    for name, (slices, layers) in forms.items():
        whole = training_forward(replace(base, slices=slices, layers=layers))
        print(f"| {name} | {whole - detector:.1f} | {whole:.1f} |")

    print("\n| frames of a clip, T | a clip | a frame of video | training, released |\n| --- | ---: | ---: | ---: |")
    for num_frames in (2, 5) if config.quick else (2, 3, 5, 7, 9):
        print_row(str(num_frames), replace(base, num_frames=num_frames))
    print("\n| input size | a clip | a frame of video | training, released |\n| --- | ---: | ---: | ---: |")
    for side in (64,) if config.quick else (256, 384, 512, 640):
        print_row(f"{side} x {side}", replace(base, size=(side, side)))


def print_row(name: str, shape: Shape) -> None:
    """How one shape costs."""
    clip, video = sum(parts_of_a_clip(shape).values()), sum(parts_of_a_video_frame(shape).values())
    print(f"| {name} | {clip:.1f} | {video:.1f} | {training_forward(shape):.1f} |")


if __name__ == "__main__":
    run_command(main, Config)
