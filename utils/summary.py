"""Parameters, counted work and measured speed of a network, by part, beside the published figures.

python -m utils.summary                       # the paper's network, untrained
python -m utils.summary --weights W --device cuda
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np

from nets import SSTNet
from utils.checkpoint import LoadedNetwork, load_network
from utils.cli import Unset, UserError, run_command
from utils.config import PRESETS, check_input_size, choose_device
from utils.detector import Detector
from utils.flops import count_as_written, count_clip, count_training, count_video_frame, shapes_only
from utils.speed import measure_in_memory, warm_up

PUBLISHED = """published: 1 class, 5 frames of 512 x 512, depth 0.33, width 0.5. Its motion branch is 1 x 1 and counts
the attention and motion gates of its node, which nobody reads and ours does not have. GFLOP: 2 x multiply-accumulate"""
PUBLISHED_PARAMETERS = {"extractor": 4.830, "neck": 4.723, "head": 2.396, "detector": 11.95, "motion branch": 9.741}
PUBLISHED_GFLOP = 123.6
ARCHITECTURE = ("preset", "num_classes", "num_frames", "num_slices", "num_layers", "depth", "width", "gate")


@dataclass
class Config:
    """Tell a network's parameters and GFLOP by part, the motion branch apart, and time it in evaluation mode."""

    weights: Unset[Path] = None
    """Weight file that says the architecture; default: an untrained network of the flags below."""
    preset: Unset[Literal["cross-slice", "released"]] = None
    """Motion branch: cross-slice (default) has 2 slices x 2 layers (the paper's), released 1 x 1 (the released
    weights')."""
    num_slices: Unset[int] = None
    """Slices of the motion branch (default: the preset's); 0: no motion branch."""
    num_layers: Unset[int] = None
    """Layers of a slice (default: the preset's)."""
    num_classes: Unset[int] = None
    """Classes of targets (default: 1)."""
    num_frames: Unset[int] = None
    """Frames of a clip, T (default: 5)."""
    depth: Unset[float] = None
    """Depth factor of the extractor (default: 0.33)."""
    width: Unset[float] = None
    """Width factor of the extractor, the neck and the head (default: 0.5)."""
    gate: bool = True
    """Gate the key frame by the reference frames in the neck, as the paper does."""
    input_size: Unset[tuple[int, int]] = None
    """Height and width of the network's input in pixels, multiples of 32 (default: 512 512; with --weights: as
    trained)."""
    device: str = "auto"
    """Where it is timed: auto (a GPU if there is one), cpu, cuda, cuda:1."""
    chunk: int = 0
    """Consecutive frames that go through the network together; 0: as many as suit the device and the input size."""
    frames: int = 20
    """Frames to time, after as many to warm up; 0: no timing."""


def main(config: Config) -> None:
    """Count, print, time, print."""
    for name in ("chunk", "frames"):
        if getattr(config, name) < 0:
            raise UserError(f"--{name} {getattr(config, name)}: must be 0 or more")
    if config.weights:
        _refuse_architecture(config)
    network = load_network(config.weights) if config.weights else untrained(config)
    size = config.input_size or network.input_size
    check_input_size(size)
    print("\n".join(table(network.model, size)), flush=True)
    if config.frames:
        print("\n" + "\n".join(timing(network, size, config)))


def untrained(config: Config) -> LoadedNetwork:
    """The network that the flags describe."""
    slices, layers = PRESETS[config.preset or "cross-slice"]
    given = {name: getattr(config, name) for name in ARCHITECTURE if name != "preset"}
    asked = {"num_slices": slices, "num_layers": layers} | {k: v for k, v in given.items() if v is not None}
    try:
        model = SSTNet(**asked)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:  # which of them depends on the part
        raise UserError(f"no network has this architecture: {error}") from error
    return LoadedNetwork(model.eval(), tuple(f"class {k}" for k in range(model.num_classes)), (512, 512))


def _refuse_architecture(config: Config) -> None:
    """With a weight file, a flag that would say something else of the network than the file."""
    defaults = {field.name: field.default for field in fields(Config)}
    for name in ARCHITECTURE:
        if getattr(config, name) != defaults[name]:
            raise UserError(f"--{name.replace('_', '-')} is for a network without --weights: the file says its own")


def count_parameters(model: SSTNet) -> dict[str, int]:
    """Parameters of each part; the motion branch, which only training has, apart from the detector's sum."""
    parts = {"extractor": model.extractor, "neck": model.neck, "head": model.head}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    counts["detector"] = sum(counts.values())
    branch = model.motion_branch
    return counts | {"motion branch": sum(p.numel() for p in branch.parameters()) if branch else 0}


def table(model: SSTNet, size: tuple[int, int]) -> list[str]:
    """Lines of a Markdown table: parameters in millions and GFLOP, by part."""
    network = shapes_only(**model.architecture)
    columns = [count(network, size) for count in (count_as_written, count_clip, count_video_frame)]
    for column in columns:
        column["detector"] = sum(column.values())
    about = model.architecture
    motion = f"{about['num_slices']} x {about['num_layers']}" if model.motion_branch else "no"
    apart = f", {model.frame_interval} apart," if model.frame_interval > 1 else ""
    lines = [
        f"{about['num_classes']} class(es), clips of {about['num_frames']} frames{apart} of {size[0]} x {size[1]}, "
        f"depth {about['depth']:g}, width {about['width']:g}, {motion} motion branch",
        "",
        "| part | parameters, M | published | GFLOP of a clip, as the equations read | published | of a clip, here "
        "| of a frame of video, here |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for part, count in count_parameters(model).items():
        if part == "motion branch":
            work = [f"{count_training(network, size) - columns[1]['detector']:.1f} in training" if count else "", ""]
            written, published = "", ""
        else:
            written, *work = (_gflop(column[part]) for column in columns)
            published = f"{PUBLISHED_GFLOP}" if part == "detector" else ""
        cells = (part, f"{count / 1e6:.3f}", f"{PUBLISHED_PARAMETERS[part]:g}", written, published, *work)
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", PUBLISHED]


def _gflop(work: float) -> str:
    """A tenth is enough, but not of a narrow network's on small frames."""
    return f"{work:.1f}" if work >= 1 or not work else f"{work:.2g}"


def timing(network: LoadedNetwork, size: tuple[int, int], config: Config) -> list[str]:
    """Lines of measured speed in evaluation mode, after warm-up, on frames of noise."""
    # Every cell of an untrained network is a box of confidence 1/4: suppressing those is nobody's speed.
    least = 0.001 if config.weights else 0.9
    device = choose_device(config.device)
    detector = Detector(
        network.model, network.class_names, size, device, min_confidence=least, chunk=config.chunk
    )
    images = list(np.random.default_rng(0).integers(256, size=(config.frames, *size), dtype=np.uint8))
    warm_up(detector, images)
    speed = measure_in_memory(detector, images)
    return [
        *(f"{name}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}" for name, value in speed.items()),
        "evaluation mode, after warm-up, video: each frame extracted once; latency: from a frame to its boxes",
    ]


if __name__ == "__main__":
    run_command(main, Config)
