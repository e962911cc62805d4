"""Forms of a network that only infers: BatchNorm folded into convolutions, channels last, no motion branch.

Shapes: B clips or streams, T frames, K classes, C feature channels, h x w = H/8 x W/8 cells.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .darknet import BaseConv
from .sstnet import SSTNet


def inference_form(model: SSTNet) -> SSTNet:
    """A copy of a network for inference alone; the network itself is left as it is.

    In evaluation mode BatchNorm is a scale and a shift per channel, which the convolution before it takes over:
    y = s (W * x - mean) + b, s = weight / sqrt(variance + eps). Outputs agree to rounding. The copy cannot be trained.
    """
    if model.infers_only:  # a copy of ours already
        return model
    parts = dict(model.named_children())
    parts.pop("motion_branch", None)  # half of a cross-slice network's parameters: not even copied
    folded = copy.copy(model)
    own = {name: copy.copy(value) for name, value in vars(model).items() if isinstance(value, dict)}  # hooks too
    vars(folded).update(own, _parameters=copy.deepcopy(model._parameters), _buffers=copy.deepcopy(model._buffers))
    folded._modules = {name: copy.deepcopy(part) for name, part in parts.items()} | {"motion_branch": None}
    folded.requires_grad_(False).eval()
    folded.infers_only = True
    for module in folded.modules():
        if isinstance(module, BaseConv):
            _fold(module)
    return folded.to(memory_format=torch.channels_last)


def _fold(block: BaseConv) -> None:
    """Move a block's BatchNorm into its convolution."""
    conv, bn = block.conv, block.bn
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
    conv.bias = nn.Parameter(bn.bias - bn.running_mean * scale, requires_grad=False)
    block.bn = nn.Identity()


class StreamingForm(nn.Module):
    """One step of `VideoStream` as a function: its cache goes in and comes out, nothing is remembered inside.

    For export. The B frames of a step belong to B streams that know nothing of one another. The cache holds, for the
    last T - 1 frames, oldest first, the features (B, T - 1, C, h, w) and the reference halves (B, T - 1, 2C, h, w;
    what `reference_half` gives, in a neck of your own).
    With a `frame_interval` n every n-th frame is a stream: keep n caches and use them in turn; all of them begin as
    what the sequence's first frame returns.
    """

    def __init__(self, model: SSTNet):
        super().__init__()
        self.model = inference_form(model)
        self.eval()

    def forward(
        self, frames: Tensor, first: Tensor, features: Tensor, halves: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (B, 3, H, W) and the cache -> outputs (B, 5 + K, h, w) and the cache for the next frames.

        first: (B,) bool, whether a frame is the first of its sequence. It then stands for the frames before it too,
        and what the cache holds for this stream, which must have the right shape, is not used.
        """
        key = self.model.extract(frames)
        key_half = self.model.neck.reference_half(key)
        restart = first.reshape(-1, 1, 1, 1, 1)
        features = torch.where(restart, key.unsqueeze(1), features)
        halves = torch.where(restart, key_half.unsqueeze(1), halves)
        output = self.model.detect([*features.unbind(1), key], halves.unbind(1))
        following = torch.cat([features, key.unsqueeze(1)], dim=1)[:, 1:]
        following_halves = torch.cat([halves, key_half.unsqueeze(1)], dim=1)[:, 1:]
        return output, following, following_halves

    def empty_cache(self, streams: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Zeros of the cache's shapes for frames of `size` (H, W): something to give with first frames."""
        cells = (size[0] // self.model.stride, size[1] // self.model.stride)
        weight = next(self.model.parameters())  # of the network's device and type
        features = weight.new_zeros((streams, self.model.num_frames - 1, self.model.extractor.out_channels, *cells))
        with torch.no_grad():
            half = self.model.neck.reference_half(features[:1, 0])  # a neck of its own may have another width
        return features, weight.new_zeros((*features.shape[:2], *half.shape[1:]))
