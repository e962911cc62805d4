"""Feature extractor: CSPDarknet and the top-down half of the PAFPN, to stride 8 only (docs/code_map.md, section 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .darknet import BaseConv, CSPDarknet, CSPLayer


class FeatureExtractor(nn.Module):
    """Features f_t of single frames: (B, 3, H, W) -> (B, out_channels, H/8, W/8), H and W multiples of 32."""

    def __init__(self, depth: float = 0.33, width: float = 0.50):
        super().__init__()
        base = int(64 * width)
        n = max(round(3 * depth), 1)
        self.out_channels = 4 * base
        self.backbone = CSPDarknet(depth, width)
        self.lateral_conv0 = BaseConv(16 * base, 8 * base, kernel_size=1)
        self.C3_p4 = CSPLayer(16 * base, 8 * base, n, shortcut=False)
        self.reduce_conv1 = BaseConv(8 * base, 4 * base, kernel_size=1)
        self.C3_p3 = CSPLayer(8 * base, 4 * base, n, shortcut=False)

    def forward(self, frames: Tensor) -> Tensor:
        stride8, stride16, stride32 = self.backbone(frames)
        up = interpolate(self.lateral_conv0(stride32), scale_factor=2, mode="nearest")
        stride16 = self.C3_p4(torch.cat([up, stride16], dim=1))
        up = interpolate(self.reduce_conv1(stride16), scale_factor=2, mode="nearest")
        return self.C3_p3(torch.cat([up, stride8], dim=1))  # f_t: eq. 1.3
