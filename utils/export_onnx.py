"""Write a network as an ONNX file, and show that ONNX Runtime computes with it what PyTorch does.

python -m utils.export_onnx --weights W --output model.onnx
python -m utils.export_onnx --weights W --output model.onnx --streaming --nms 0.65 --min-confidence 0.3
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nets import SSTNet, VideoStream
from utils.checkpoint import load_network
from utils.cli import Unset, UserError, run_command
from utils.clips import normalise_frames
from utils.detections import cell_boxes, postprocess
from utils.evaluation_report import make_folder
from utils.onnx_graph import build_graphs
from utils.onnx_network import Form, OnnxNetwork, Suppression, extra

LIMIT = 1e-4  # largest difference from PyTorch, as a share of the largest output
OTHER_SHAPES = ((3, (64, 96)), (2, (128, 32)))  # batch, (H, W) checked beside the trained input size


@dataclass
class Config:
    """Write an ONNX file of a trained network; batch, height and width (multiples of 32) are free in it."""

    weights: Path
    """Weight file: one of this project's checkpoints or a released one."""
    output: Path = Path("model.onnx")
    """File to write; its name ends in .onnx."""
    streaming: bool = False
    """One frame and a cache in, the next cache out: each frame of a video is extracted once. Default: whole clips."""
    decode: bool = False
    """Give each cell's box, score and class instead of the head's raw output."""
    nms: Unset[float] = None
    """Put decoding and non-maximum suppression with this IoU into the file (published: 0.65)."""
    min_confidence: Unset[float] = None
    """With --nms: detections below this confidence are dropped (default: 0.001)."""
    max_detections: Unset[int] = None
    """With --nms: detections of a frame, best first (default: 100)."""


def main(config: Config) -> None:
    """Build the graph, write it beside its place, compare it with PyTorch, and only then give it its name."""
    form = form_of(config)
    if config.output.suffix.lower() != ".onnx" or config.output.is_dir():
        raise UserError(f"--output {config.output}: give a file name that ends in .onnx")
    extra("onnxscript", "onnx", "onnxruntime")
    network = load_network(config.weights)
    make_folder(config.output.parent)
    with beside(config.output) as partial:
        for graph in build_graphs(network, form):
            partial.write_bytes(graph.SerializeToString())
            file = OnnxNetwork(partial)
            for batch, size in ((1, network.input_size), *OTHER_SHAPES):
                print(f"{batch} x {size[0]} x {size[1]}: {compare(network.model, file, batch, size)}", flush=True)
        os.replace(partial, config.output)
    print(f"{config.output}: {config.output.stat().st_size / 1e6:.1f} MB")
    for kind, values in (("input", file.session.get_inputs()), ("output", file.session.get_outputs())):
        for value in values:
            print(f"{kind:7} {value.name:14} ({', '.join(map(str, value.shape))}) {value.type}")


def form_of(config: Config) -> Form:
    """The form that the flags ask for; `UserError` where they do not fit together."""
    if config.nms is None:
        for name in ("min_confidence", "max_detections"):
            if getattr(config, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} is for --nms")
        return Form(config.streaming, config.decode)
    if not 0 <= config.nms <= 1:
        raise UserError(f"--nms {config.nms} is not between 0 and 1")
    defaults = Suppression()
    confidence = defaults.min_confidence if config.min_confidence is None else config.min_confidence
    if not 0 < confidence <= 1:  # a score of 0 marks an empty row
        raise UserError(f"--min-confidence {confidence} is not above 0 and at most 1")
    count = defaults.max_detections if config.max_detections is None else config.max_detections
    if count < 1:
        raise UserError(f"--max-detections {count} is less than 1")
    return Form(config.streaming, True, Suppression(config.nms, confidence, count))


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name in the folder of `path` for a file that is to take its place; gone afterwards, whatever happens."""
    if path.exists() and not path.stat().st_mode & 0o222:  # renaming would get round the protection
        raise UserError(f"{path}: write-protected; remove it or write to another file")
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); check the folder") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def compare(model: SSTNet, file: OnnxNetwork, batch: int, size: tuple[int, int]) -> str:
    """What the file gives for noise against what PyTorch gives, in words; `UserError` if it is not the same.

    A streaming file sees `batch` sequences, of which number k begins anew at frame k.
    """
    length = model.num_frames + 2 if file.form.streaming else model.num_frames
    grey = torch.randint(256, (batch * length, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    frames = normalise_frames(grey).unflatten(0, (batch, length))  # (B, N, 3, H, W)
    with torch.inference_mode():
        expected = reference(model, frames, file.form)
        try:
            found = run_streams(file, frames) if file.form.streaming else run_clips(file, frames)
        except Exception as error:  # ONNX Runtime's are of many types, without a base of their own
            raise UserError(f"ONNX Runtime cannot run {batch} x {size[0]} x {size[1]}: {error}") from error
        differences, words = _differences(found, expected, file.form)
    worst = max(differences.values())
    if worst > LIMIT:
        name = max(differences, key=lambda name: differences[name])
        raise UserError(
            f"no file written: at {batch} x {size[0]} x {size[1]} ONNX Runtime's {name} differ from PyTorch's by "
            f"{worst:.1e} of the largest, more than {LIMIT:.0e}; try other versions of onnxruntime and onnxscript"
        )
    return words


def reference(model: SSTNet, frames: Tensor, form: Form) -> Tensor:
    """PyTorch's raw outputs of sequences (B, N, 3, H, W): of each one's last clip, or, streaming, of every frame."""
    if not form.streaming:
        return model(frames.transpose(1, 2))
    videos = [[part for part in video.split([k, len(video) - k]) if len(part)] for k, video in enumerate(frames)]
    # A step knows of no interval between the frames of a clip: who calls it keeps a cache for each place in it.
    outputs = [VideoStream(model, frame_interval=1).push(part) for parts in videos for part in parts]
    return torch.cat(outputs)  # (B * N, 5 + K, h, w)


def run_clips(file: OnnxNetwork, frames: Tensor) -> Tensor:
    """The file's first output for clips given as (B, T, 3, H, W)."""
    (result,) = file.run([frames.transpose(1, 2).contiguous().numpy()])
    return torch.from_numpy(result)


def run_streams(file: OnnxNetwork, frames: Tensor) -> Tensor:
    """The file's first output for all frames of (B, N, 3, H, W), the B sequences side by side; (B * N, ...)."""
    batch, length, _, height, width = frames.shape
    cache = file.empty_cache(batch, (height, width))
    results = []
    for number in range(length):
        first = torch.tensor([number in (0, sequence) for sequence in range(batch)])
        result, *cache = file.run([frames[:, number].numpy(), first.numpy(), *cache])
        results.append(torch.from_numpy(result))
    return torch.stack(results, dim=1).flatten(0, 1)


def _differences(found: Tensor, raw: Tensor, form: Form) -> tuple[dict[str, float], str]:
    """Differences of each kind of output as shares of the largest, and the same in words."""
    if form.suppression:
        pairs, ours, theirs = _pair_detections(found, raw, form.suppression)
        lonely = ours + theirs - 2 * pairs
        # Rounding may lift a score or an overlap over its threshold: one row in a hundred may differ.
        share = 0.0 if lonely <= max(ours, theirs) / 100 else lonely / max(ours, theirs)
        if not ours and not theirs:
            return {"detections": 0.0}, "no detection in noise above its confidence: the suppression was not compared"
        return {"detections": share}, f"{pairs} of {theirs} detections the same, {lonely} others"
    if not form.decode:
        differences = {"outputs": _relative(found, raw)}
    else:
        expected = cell_boxes(raw)
        if found.shape != expected.shape:
            return {"candidates": math.inf}, f"{tuple(found.shape)}, not {tuple(expected.shape)}"
        usable = expected.isfinite().all(-1)  # exp() of a size that was not learned overflows
        differences = {
            "boxes": _relative(found[usable][:, :4], expected[usable][:, :4]),
            "scores": _relative(found[..., 4], expected[..., 4]),
            "classes": _wrong_classes(found[..., 5], raw),
        }
    words = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    return differences, f"largest difference, as a share of the largest: {words}"


def _relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest number expected; infinite where it cannot be told."""
    if found.shape != expected.shape:
        return math.inf
    value = ((found - expected).abs().max() / expected.abs().max()).item() if expected.numel() else 0.0
    return value if math.isfinite(value) else math.inf


def _wrong_classes(found: Tensor, raw: Tensor) -> float:
    """How far the probability of a chosen class is from the best one's, at most."""
    probabilities = raw[:, 5:].flatten(2).transpose(1, 2).sigmoid()  # (B, N, K)
    chosen = probabilities.gather(-1, found.long().unsqueeze(-1)).squeeze(-1)
    return (probabilities.amax(-1) - chosen).max().item()


def _pair_detections(found: Tensor, raw: Tensor, inside: Suppression) -> tuple[int, int, int]:
    """How many detections are the same to within the limit, how many the file has, and how many PyTorch has."""
    pairs = ours = theirs = 0
    for rows, expected in zip(
        found, postprocess(raw, inside.min_confidence, inside.nms, inside.max_detections), strict=True
    ):
        rows = rows[rows[:, 4] > 0]
        ours, theirs = ours + len(rows), theirs + len(expected)
        if len(rows) and len(expected):
            near = (rows[:, None] - expected).abs() <= LIMIT * expected.abs().amax(0)
            pairs += int(near.all(-1).any(0).sum())
    return pairs, ours, theirs


if __name__ == "__main__":
    run_command(main, Config)
