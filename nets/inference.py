"""The form of a network that only infers: BatchNorm folded into convolutions, channels last, no motion branch."""

from __future__ import annotations

import copy

import torch
from torch import nn

from nets.darknet import BaseConv
from nets.sstnet import SSTNet


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
