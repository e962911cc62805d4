"""Inference: clip by clip against video, BatchNorm against none, and both against the machine's matrix product.

python -m benchmarks.inference            # 512 x 512
python -m benchmarks.inference --quick    # its shape, in seconds

ONNX Runtime takes part on a CPU where requirements-export.txt is installed; exporting takes half a minute.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.timing import (
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
from nets import SSTNet, inference_form
from utils.checkpoint import LoadedNetwork
from utils.cli import run_command
from utils.flops import count_gflop
from utils.onnx_graph import build_graphs
from utils.onnx_network import Form, OnnxNetwork


@dataclass
class Config:
    """Time inference both ways."""

    input_size: tuple[int, int] = (512, 512)  # height and width
    frames: int = 8  # of the video, and clips that end at them
    rounds: int = 5
    width: float = 0.5  # of the network
    device: str = "auto"
    compile: bool = False  # time torch.compile of the inference form too (slow to start)
    quick: bool = False  # 64 x 64, a narrow network, 2 rounds: to see that it runs


def clips_of(frames: Tensor, num_frames: int) -> Tensor:
    """The clip that ends at every frame: (N, 3, H, W) -> (N, 3, T, H, W)."""
    padded = torch.cat([frames[:1].expand(num_frames - 1, -1, -1, -1), frames])
    return torch.stack([padded[k : k + num_frames] for k in range(len(frames))]).transpose(1, 2)


def ways_of(model: SSTNet, frames: Tensor, config: Config) -> dict[str, Work]:
    """Everything that is timed, by name; each handles all frames once."""
    folded, clips = inference_form(model), clips_of(frames, model.num_frames)
    video = frames.to(memory_format=torch.channels_last)

    def each_clip(network: torch.nn.Module) -> Work:
        return lambda: [network(clip[None]) for clip in clips]

    def autocast(work: Work) -> Work:
        def run() -> object:
            with torch.autocast(frames.device.type, torch.bfloat16):
                return work()

        return run

    def tf32(work: Work) -> Work:
        def run() -> object:
            with tensor_cores(True):
                return work()

        return run

    ways = {
        "clip by clip, as trained": each_clip(model),
        "clip by clip": each_clip(folded),
        "video": lambda: folded.forward_video(video),
        "video, all frames at once": lambda: folded.forward_video(video, chunk=len(video)),
        "video, bf16": autocast(lambda: folded.forward_video(video)),
    }
    if frames.device.type == "cuda":
        contiguous = copy.deepcopy(folded).to(memory_format=torch.contiguous_format)
        ways["video, not channels_last"] = lambda: contiguous.forward_video(frames)
        ways["video, TF32"] = tf32(ways["video"])
        # Autocast keeps no copies of weights that need no gradient: it converts them anew in every pass.
        half, half_video = copy.deepcopy(folded).bfloat16(), video.bfloat16()
        ways["video, weights in bf16"] = lambda: half.forward_video(half_video)
    if config.compile:
        ways["clip by clip, compiled"] = each_clip(torch.compile(folded))
        if frames.device.type == "cuda":
            ways["clip by clip, bf16, compiled"] = autocast(ways["clip by clip, compiled"])
    return ways


def onnx_ways(model: SSTNet, frames: Tensor) -> dict[str, Work]:
    """The same by ONNX Runtime: a file of clips, and a file of one frame and its cache."""
    network = LoadedNetwork(model, ("target",), (frames.shape[-2], frames.shape[-1]))
    files = {}
    for form in (Form(), Form(streaming=True)):
        with TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            path.write_bytes(build_graphs(network, form)[-1].SerializeToString())
            files[form.streaming] = OnnxNetwork(path)
    clips = [clip[None].contiguous().numpy() for clip in clips_of(frames, model.num_frames)]
    return {
        "clip by clip, ONNX": lambda: [files[False].run([clip]) for clip in clips],
        "video, ONNX": lambda: files[True].stream().push(frames),
    }


def main(config: Config) -> None:
    """Time all ways and print them."""
    check_sizes(config.input_size, width=config.width, rounds=config.rounds, frames=config.frames)
    if config.quick:
        config.input_size, config.rounds, config.width = (64, 64), 2, 0.125
    device = chosen_device(config.device)
    torch.manual_seed(0)
    model = SSTNet(width=config.width, num_slices=1, num_layers=1).to(device).eval()
    frames = torch.randn(config.frames, 3, *config.input_size, device=device)
    with torch.inference_mode():
        ways = ways_of(model, frames, config)
    if device.type == "cpu" and all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        ways |= onnx_ways(model, frames)
    product, product_gflop = matrix_product(device, side=256 if config.quick else 2048)
    with torch.inference_mode(), tensor_cores(False):
        times = interleave({**ways, "matrix product": product}, config.rounds)
        memory = {name: gpu_memory(work) for name, work in ways.items()} if device.type == "cuda" else {}

    meta = copy.deepcopy(model).to("meta")
    clip = torch.empty(1, 3, model.num_frames, *config.input_size, device="meta")
    gflop = {
        "clip": count_gflop(meta, lambda m: m(clip)) * config.frames,
        "video": count_gflop(meta, lambda m: m.forward_video(frames.to("meta"))),
    }
    rate = product_gflop / times["matrix product"].median
    height, width = config.input_size
    print(f"inference, {height} x {width}, {config.frames} frames, {describe_machine(device)}")
    print(f"{'matrix product':26} {rate:8.1f} GFLOP/s in float32")
    for name in ways:
        report(name, times[name], gflop["clip" if name.startswith("clip") else "video"], config.frames, rate)
        if name in memory:
            print(f"{'':26} {memory[name]:.0f} MiB at most")
    for slow, fast in (
        ("clip by clip, as trained", "clip by clip"),
        ("clip by clip", "video"),
        ("video, all frames at once", "video"),
        ("video", "video, bf16"),
        ("clip by clip, ONNX", "clip by clip"),
        ("video, ONNX", "video"),
    ):
        if slow not in ways:
            continue
        print(f"{slow} / {fast}: {ratios(times[slow], times[fast])}")


def report(name: str, times: Times, gflop: float, frames: int, rate: float) -> None:
    """One way in a line."""
    achieved = gflop / times.median
    print(
        f"{name:26} {frames / times.median:8.2f} frames/s {times}  {gflop / frames:6.1f} GFLOP a frame, "
        f"{achieved:7.1f} GFLOP/s, {100 * achieved / rate:4.0f} % of the matrix product"
    )


if __name__ == "__main__":
    run_command(main, Config)
