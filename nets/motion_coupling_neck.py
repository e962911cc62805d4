"""Motion-coupling neck: T feature maps in, one out (docs/code_map.md, section 2).

Shapes: B clips, T frames, C channels, h x w cells of stride 8. The last frame is the key frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .convolution import conv2d
from .darknet import BaseConv


def conv_pair(in_channels: int, hidden: int, out_channels: int, last: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """Two 3x3 BaseConvs; `last` is the activation of the second."""
    return nn.Sequential(
        BaseConv(in_channels, hidden, kernel_size=3),
        BaseConv(hidden, out_channels, kernel_size=3, activation=last),
    )


class MotionCouplingNeck(nn.Module):
    """Couples the key frame with each reference frame and with all of them.

    `conv_gl` sees concat(f_i, f_T) and its first convolution is linear, so it is computed as a reference half
    (once a frame, whatever clips the frame is in: `reference_half`) plus a key half (once a clip).

    Without `gate` the references do not weight the key frame's features: for ablation, not the published network.
    """

    def __init__(self, channels: int = 128, num_frames: int = 5, gate: bool = True):
        super().__init__()
        if num_frames < 2:
            raise ValueError(f"num_frames must be 2 or more (a key frame and a reference), not {num_frames}")
        c = channels
        self.channels = channels
        self.num_frames = num_frames
        self.pair_weights = nn.Parameter(torch.full((num_frames - 1,), 0.25))  # w_i
        self.conv_ref = conv_pair((num_frames - 1) * c, 2 * c, c, last=nn.Sigmoid) if gate else None
        self.conv_cur = conv_pair(c, c, c)
        self.conv_gl = conv_pair(2 * c, 2 * c, c)
        self.conv_gl_mix = conv_pair(c, c, c)
        self.conv_cr_mix = conv_pair(2 * c, 2 * c, c)
        self.conv_final = conv_pair(2 * c, 2 * c, c)

    def reference_half(self, features: Tensor) -> Tensor:
        """The part of conv_gl's first convolution that sees a reference frame: (N, C, h, w) -> (N, 2C, h, w)."""
        return conv2d(features, self.conv_gl[0].conv.weight[:, : self.channels], padding=1)

    def key_half(self, features: Tensor) -> Tensor:
        """The part that sees the key frame, and the bias where there is one: (N, C, h, w) -> (N, 2C, h, w)."""
        conv = self.conv_gl[0].conv
        return conv2d(features, conv.weight[:, self.channels :], conv.bias, padding=1)

    def forward(self, features: Sequence[Tensor], reference_halves: Sequence[Tensor] | None = None) -> Tensor:
        """Couple one clip's features: T x (B, C, h, w), oldest first -> (B, C, h, w).

        `reference_halves`: `reference_half` of the first T - 1 maps, where the caller has them already.
        """
        *references, key = features
        if len(features) != self.num_frames:
            raise ValueError(f"the neck was built for {self.num_frames} frames, not {len(features)}")
        if reference_halves is None:
            halves = self.reference_half(torch.cat(references))
            reference_halves = halves.unflatten(0, (len(references), -1)).unbind(0)
        gated = key if self.conv_ref is None else self.conv_ref(torch.cat(references, dim=1)) * key  # eq. 2.1: R f_T
        key_path = self.conv_cr_mix(torch.cat([self.conv_cur(gated), key], dim=1))  # K: eq. 2.2
        pairs = self.pair_sum(reference_halves, self.key_half(key))
        return self.conv_final(torch.cat([self.conv_gl_mix(pairs), key_path], dim=1))  # eq. 2.4, of G and K

    def pair_sum(self, reference_halves: Sequence[Tensor], key_half: Tensor) -> Tensor:
        """Eq. 2.3, the sum of w_i conv_gl(f_i, f_T): (T - 1) x (B, 2C, h, w) and (B, 2C, h, w) -> (B, C, h, w)."""
        first, second = self.conv_gl
        sums = [half + key_half for half in reference_halves]
        if self.training:  # each pair is a BatchNorm batch of its own
            pairs = [second(first.normalise(pair)) for pair in sums]
        else:
            pairs = second(first.normalise(torch.cat(sums))).unflatten(0, (len(sums), -1)).unbind(0)
        return sum(weight * pair for weight, pair in zip(self.pair_weights, pairs, strict=True))
