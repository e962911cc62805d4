"""Counted work, by part of the network, as the equations read and as it is computed here; no time is taken.

GFLOP are 2 x multiply-accumulate of convolutions and matrix products, for inputs of `size` (H, W). The networks hold
shapes only (`shapes_only`), so that counting takes no memory and is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nets import SSTNet
from nets.motion_coupling_neck import MotionCouplingNeck

Size = tuple[int, int]


def count_gflop(model: nn.Module, work: Callable[[nn.Module], object]) -> float:
    """GFLOP of `work(model)`."""
    with FlopCounterMode(display=False) as counter:
        work(model)
    return counter.get_total_flops() / 1e9


def shapes_only(**architecture: object) -> SSTNet:
    """A network of these arguments, in evaluation mode, that computes shapes and no numbers."""
    with torch.device("meta"):
        return SSTNet(**architecture).eval()


def count_as_written(model: SSTNet, size: Size) -> dict[str, float]:
    """Evaluation of one clip as the equations read: every pair's concatenation is convolved whole."""
    frame, channels = _frames(1, size), model.extractor.out_channels
    cells = torch.empty(1, channels, size[0] // model.stride, size[1] // model.stride, device="meta")
    return {
        "extractor": model.num_frames * count_gflop(model, lambda m: m.extractor(frame)),
        "neck": count_gflop(model, lambda m: _neck_as_written(m.neck, cells, m.num_frames)),
        "head": count_gflop(model, lambda m: m.head(cells)),
    }


def _neck_as_written(neck: nn.Module, cells: Tensor, num_frames: int) -> None:
    """Run a neck on maps (1, C, h, w); one of the user's own as it is."""
    if not isinstance(neck, MotionCouplingNeck):
        neck([cells] * num_frames)
        return
    references = num_frames - 1
    gated = cells if neck.conv_ref is None else neck.conv_ref(torch.cat([cells] * references, 1)) * cells
    neck.conv_cr_mix(torch.cat([neck.conv_cur(gated), cells], 1))
    pairs = [neck.conv_gl(torch.cat([cells, cells], 1)) for _ in range(references)]
    neck.conv_final(torch.cat([neck.conv_gl_mix(sum(pairs)), cells], 1))


def count_clip(model: SSTNet, size: Size) -> dict[str, float]:
    """Evaluation of one clip."""
    parts = count_as_written(model, size)
    whole = count_gflop(model, lambda m: m(_clip(m, size)))
    return parts | {"neck": whole - parts["extractor"] - parts["head"]}


def count_video_frame(model: SSTNet, size: Size) -> dict[str, float]:
    """A frame of a long video: what one more frame costs."""
    known = model.num_frames + 3
    short, long = (count_gflop(model, lambda m, n=n: m.forward_video(_frames(n, size), 1)) for n in (known, known + 1))
    parts = count_as_written(model, size)
    extractor = parts["extractor"] / model.num_frames
    return {"extractor": extractor, "neck": long - short - extractor - parts["head"], "head": parts["head"]}


def count_training(model: SSTNet, size: Size) -> float:
    """The forward pass of one clip in training mode; the network is in evaluation mode before and after."""
    try:
        # Two clips: of one of 32 x 32 BatchNorm would see a single value.
        return count_gflop(model.train(), lambda m: m(_clip(m, size).repeat(2, 1, 1, 1, 1))) / 2
    finally:
        model.eval()


def _frames(count: int, size: Size) -> Tensor:
    return torch.empty(count, 3, *size, device="meta")


def _clip(model: SSTNet, size: Size) -> Tensor:
    return torch.empty(1, 3, model.num_frames, *size, device="meta")
