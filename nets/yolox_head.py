"""Decoupled YOLOX head for one level, and the decoding of its output (docs/code_map.md, section 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .darknet import BaseConv

PRIOR_PROBABILITY = 0.01  # of an object in a cell before any training


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

    def begin_empty(self) -> None:
        """Predictors that say "no object" in every cell, so that the first steps are not spent on false alarms."""
        for predictor in (*self.cls_preds, *self.obj_preds, *self.reg_preds):
            nn.init.normal_(predictor.weight, 0.0, 0.01)
            nn.init.zeros_(predictor.bias)
        for predictor in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(predictor.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))

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


def cell_rows(output: Tensor) -> Tensor:
    """A raw head output with a row for each cell: (B, 5 + K, h, w) -> (B, h * w, 5 + K), float32."""
    return output.flatten(2).transpose(1, 2).float()


def decode_boxes(raw: Tensor, cells: Tensor, stride: int = 8) -> Tensor:
    """Raw boxes (..., 4) of cells (..., 2), column and row -> cx, cy, w, h in input pixels (..., 4): eq. 3.2,
    xy = (xy + cell) * stride, wh = exp(wh) * stride."""
    return torch.cat([(raw[..., :2] + cells) * stride, raw[..., 2:].exp() * stride], dim=-1)


def decode_output(output: Tensor, stride: int = 8) -> Tensor:
    """Boxes of a raw head output: (B, 5 + K, h, w) -> (B, h * w, 5 + K), float32.

    The first four channels become boxes (`decode_boxes`); objectness and class logits pass through.
    """
    height, width = output.shape[-2:]
    rows = cell_rows(output)
    boxes = decode_boxes(rows[..., :4], cell_grid(height, width, output.device), stride)
    return torch.cat([boxes, rows[..., 4:]], dim=-1)
