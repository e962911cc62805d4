"""SimOTA: YOLOX's label assigner, apart from any network (docs/code_map.md, section 5).

Shapes: B images, G target slots (padded to the fullest image), N anchors, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .boxes import pairwise_iou

CENTRE_RADIUS = 2.5  # in strides
NUM_IOUS = 10  # overlaps whose sum is the number of anchors that a target gets
OUTSIDE_COST = 1e5


class Assignment(NamedTuple):
    """What every anchor is responsible for."""

    positive: Tensor  # (B, N) bool
    target: Tensor  # (B, N) index of the target; 0 where not positive
    iou: Tensor  # (B, N) IoU of prediction and target; 0 where not positive


def pad_targets(targets: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """B tensors (n_i, 5) -> boxes and classes (B, G, 5), zeros in unused slots, and which are used (B, G)."""
    slots = max((len(t) for t in targets), default=0)
    place = targets[0].device if targets else device  # filled where the targets are, moved once
    padded = torch.zeros(len(targets), slots, 5, device=place)
    used = torch.zeros(len(targets), slots, dtype=torch.bool, device=place)
    for image, rows in enumerate(targets):
        padded[image, : len(rows)] = rows.float()
        used[image, : len(rows)] = True
    return padded.to(device, non_blocking=True), used.to(device, non_blocking=True)


@torch.no_grad()
def assign(
    boxes: Tensor, obj_logits: Tensor, cls_logits: Tensor, targets: Tensor, used: Tensor, centres: Tensor, stride: int
) -> Assignment:
    """Give every target the anchors that fit it best.

    boxes (B, N, 4) decoded cx, cy, w, h in pixels; obj_logits (B, N); cls_logits (B, N, K); targets (B, G, 5)
    cx, cy, w, h, class; used (B, G); centres (N, 2) of the anchors' cells in pixels. All float32.

    A target takes the `k` cheapest candidates, k = clamp(int(sum of its 10 largest IoUs), min 1); an anchor that
    several targets take goes to the cheapest. Everything stays on the device of `boxes`.
    """
    batch, slots = used.shape
    num_anchors = boxes.shape[1]
    if slots == 0:
        empty = torch.zeros(batch, num_anchors, device=boxes.device)
        return Assignment(empty.bool(), empty.long(), empty)
    candidate, inside_both = candidates(centres, targets, used, stride)
    iou = pairwise_iou(targets[..., :4], boxes)  # (B, G, N)
    cost = class_cost(obj_logits, cls_logits, targets[..., 4].long()) + 3.0 * -(iou + 1e-8).log()
    cost = cost + OUTSIDE_COST * (~inside_both).float()  # eq. 5.2
    allowed = candidate.unsqueeze(1) & used.unsqueeze(2)  # (B, G, N)
    cost = cost.masked_fill(~allowed, torch.inf)
    taken = _cheapest(cost, _dynamic_k(iou.masked_fill(~allowed, 0))) & allowed

    # Eq. 5.4, one target an anchor: where several claim it, the cheapest of all targets has it.
    claims = taken.sum(1)  # (B, N)
    target = torch.where(claims > 1, cost.argmin(1), taken.to(torch.uint8).argmax(1))
    positive = claims > 0
    target = target.masked_fill(~positive, 0)
    matched_iou = iou.gather(1, target.unsqueeze(1)).squeeze(1).masked_fill(~positive, 0.0)
    return Assignment(positive, target, matched_iou)


def candidates(centres: Tensor, targets: Tensor, used: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Anchors worth a look (eq. 5.1): (B, N), in a box or centre square; (B, G, N), in both of a target.

    Strictly inside in either case; the square has a radius of 2.5 strides.
    """
    offset = (centres - targets[..., None, :2]).abs()  # (B, G, N, 2)
    in_box = _strictly_inside_box(centres, targets)
    in_square = (offset < CENTRE_RADIUS * stride).all(-1)
    candidate = ((in_box | in_square) & used.unsqueeze(2)).any(1)
    return candidate, in_box & in_square


def _strictly_inside_box(centres: Tensor, targets: Tensor) -> Tensor:
    low = targets[..., None, :2] - targets[..., None, 2:4] / 2
    high = targets[..., None, :2] + targets[..., None, 2:4] / 2
    return ((centres > low) & (centres < high)).all(-1)


def class_cost(obj_logits: Tensor, cls_logits: Tensor, classes: Tensor) -> Tensor:
    """BCE(sqrt(sigmoid(cls) sigmoid(obj)), one-hot) summed over classes: (B, N), (B, N, K), (B, G) -> (B, G, N).

    The sum for a target of class k is the sum of all negative terms, with the term of k exchanged.
    """
    probability = (cls_logits.sigmoid() * obj_logits.sigmoid().unsqueeze(-1)).sqrt()  # (B, N, K)
    present = -probability.log().clamp(min=-100)  # the bound of torch's binary_cross_entropy
    absent = -(1 - probability).log().clamp(min=-100)
    exchange = (present - absent).transpose(1, 2)  # (B, K, N)
    chosen = exchange.gather(1, classes.unsqueeze(-1).expand(-1, -1, exchange.shape[-1]))  # (B, G, N)
    return absent.sum(-1).unsqueeze(1) + chosen


def _dynamic_k(iou: Tensor) -> Tensor:
    """Eq. 5.3, the number of anchors for every target, from its IoUs with the candidates: (B, G, N) -> (B, G)."""
    return iou.topk(min(NUM_IOUS, iou.shape[-1]), dim=-1).values.sum(-1).int().clamp(min=1)


def _cheapest(cost: Tensor, k: Tensor) -> Tensor:
    """Whether an anchor is among the k cheapest of a target: (B, G, N) and (B, G) -> (B, G, N) bool."""
    order = cost.topk(min(NUM_IOUS, cost.shape[-1]), dim=-1, largest=False).indices  # k is at most NUM_IOUS
    rank = torch.arange(order.shape[-1], device=cost.device)
    return torch.zeros_like(cost, dtype=torch.bool).scatter_(-1, order, rank < k.unsqueeze(-1))
