"""Box arithmetic: overlaps of boxes given as centre x, centre y, width, height."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Top-left and bottom-right of (..., 4) cx, cy, w, h boxes: two (..., 2)."""
    half = boxes[..., 2:] / 2
    return boxes[..., :2] - half, boxes[..., :2] + half


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every pair: (..., G, 4) and (..., N, 4) -> (..., G, N)."""
    a_low, a_high = corners(a.unsqueeze(-2))
    b_low, b_high = corners(b.unsqueeze(-3))
    overlap = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0).prod(-1)
    union = a[..., 2:].prod(-1).unsqueeze(-1) + b[..., 2:].prod(-1).unsqueeze(-2) - overlap
    return overlap / union.clamp(min=1e-16)


def iou_loss(pred: Tensor, target: Tensor, kind: str = "iou") -> Tensor:
    """Loss of matched boxes: (..., 4) and (..., 4) -> (...).

    kind "iou": 1 - IoU^2 (the release's default); "giou": 1 - GIoU; "ciou": 1 - CIoU.
    """
    pred_low, pred_high = corners(pred)
    target_low, target_high = corners(target)
    overlap = (torch.minimum(pred_high, target_high) - torch.maximum(pred_low, target_low)).clamp(min=0).prod(-1)
    union = pred[..., 2:].prod(-1) + target[..., 2:].prod(-1) - overlap
    iou = overlap / (union + 1e-16)
    if kind == "iou":
        return 1 - iou**2
    hull = torch.maximum(pred_high, target_high) - torch.minimum(pred_low, target_low)  # smallest enclosing box
    if kind == "giou":
        area = hull.prod(-1).clamp(min=1e-16)
        return 1 - (iou - (area - union) / area).clamp(-1, 1)
    if kind == "ciou":
        distance = (pred[..., :2] - target[..., :2]).square().sum(-1) / hull.square().sum(-1).clamp(min=1e-6)
        aspect = 4 / math.pi**2 * (_angle(pred) - _angle(target)).square()
        alpha = aspect / (1 - iou + aspect).clamp(min=1e-6)
        return 1 - (iou - distance - alpha * aspect).clamp(-1, 1)
    raise ValueError(f"kind must be iou, giou or ciou, not {kind!r}")


def _angle(boxes: Tensor) -> Tensor:
    return torch.atan(boxes[..., 2] / boxes[..., 3].clamp(min=1e-6))
