"""Decoupled YOLOX head for one level, and the decoding of its output (docs/code_map.md, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nets.darknet import BaseConv


class YOLOXHead(nn.Module):
    """(B, in_channels, h, w) -> (B, 5 + num_classes, h, w): channels [reg (4), obj (1), cls], raw logits.

    The lists hold one level each: YOLOX's names, so that its checkpoints' names fit.
    """

    def __init__(self, num_classes: int, in_channels: int, hidden: int):
        super().__init__()
        self.num_classes = num_classes
        self.stems = nn.ModuleList([BaseConv(in_channels, hidden, kernel_size=1)])
        self.cls_convs = nn.ModuleList([self._tower(hidden)])
        self.reg_convs = nn.ModuleList([self._tower(hidden)])
        self.cls_preds = nn.ModuleList([nn.Conv2d(hidden, num_classes, kernel_size=1)])
        self.reg_preds = nn.ModuleList([nn.Conv2d(hidden, 4, kernel_size=1)])
        self.obj_preds = nn.ModuleList([nn.Conv2d(hidden, 1, kernel_size=1)])

    @staticmethod
    def _tower(hidden: int) -> nn.Sequential:
        return nn.Sequential(BaseConv(hidden, hidden, 3), BaseConv(hidden, hidden, 3))

    def forward(self, features: Tensor) -> Tensor:
        x = self.stems[0](features)  # eq. 3.1
        classification, regression = self.cls_convs[0](x), self.reg_convs[0](x)
        return torch.cat(
            [self.reg_preds[0](regression), self.obj_preds[0](regression), self.cls_preds[0](classification)],
            dim=1,
        )


def cell_grid(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Column and row of every cell, row by row: (height * width, 2) float32."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return torch.stack([columns, rows], dim=-1).reshape(-1, 2).float()


def decode_output(output: Tensor, stride: int = 8) -> Tensor:
    """Boxes of a raw head output: (B, 5 + K, h, w) -> (B, h * w, 5 + K), float32.

    The first four channels become cx, cy, w, h in input pixels: xy = (xy + cell) * stride, wh = exp(wh) * stride
    (eq. 3.2); objectness and class logits pass through.
    """
    height, width = output.shape[-2:]
    anchors = output.flatten(2).transpose(1, 2).float()  # (B, h * w, 5 + K)
    centres = (anchors[..., :2] + cell_grid(height, width, output.device)) * stride
    sizes = anchors[..., 2:4].exp() * stride
    return torch.cat([centres, sizes, anchors[..., 4:]], dim=-1)
