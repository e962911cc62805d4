"""Motion branch: the training-only network that compensates motion (docs/code_map.md, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d, mse_loss

from .cross_slice_convlstm import CrossSliceConvLSTM

HIDDEN_CHANNELS = 64


class MotionBranch(nn.Module):
    """Motion-compensation loss L_mc = MSE(concat(f_1..f_T), pool(mapping2(stack(mapping1(frames))))).

    The gradient flows into the features as well as into the branch.
    """

    def __init__(
        self,
        feature_channels: int = 128,
        num_frames: int = 5,
        num_slices: int = 2,
        num_layers: int = 2,
        attention_dropout: float = 0.1,
    ):
        super().__init__()
        self.mapping1 = nn.Sequential(
            nn.Conv2d(3, HIDDEN_CHANNELS // 2, kernel_size=5, stride=4, padding=1, bias=False),
            nn.LeakyReLU(0.01, inplace=True),
            nn.Conv2d(HIDDEN_CHANNELS // 2, HIDDEN_CHANNELS, kernel_size=1, bias=False),
            nn.LeakyReLU(0.01, inplace=True),
        )
        self.stack = CrossSliceConvLSTM(num_slices, num_layers, HIDDEN_CHANNELS, attention_dropout)
        self.mapping2 = nn.Sequential(
            nn.Conv2d(HIDDEN_CHANNELS * num_frames, feature_channels * num_frames, kernel_size=1, bias=False),
            nn.LeakyReLU(0.01, inplace=True),
        )

    def forward(self, clips: Tensor, features: Sequence[Tensor], recompute: bool = False) -> Tensor:
        """clips (B, 3, T, H, W) and their features T x (B, C, H/8, W/8) -> scalar loss."""
        frames = clips.unbind(2)  # T x (B, 3, H, W)
        mapped = self.mapping1(torch.cat(frames))  # (T * B, 64, ~H/4, ~W/4), eq. 4.1
        hidden, _ = self.stack(mapped, len(frames), recompute)
        motion = self.mapping2(torch.cat(hidden.chunk(len(frames)), dim=1))  # (B, C T, ~H/4, ~W/4)
        target = torch.cat(list(features), dim=1)  # (B, T C, H/8, W/8)
        return mse_loss(target, adaptive_max_pool2d(motion, target.shape[-2:]))  # L_mc: eq. 4.13
