"""The detection loss of YOLOX with SimOTA assignment (docs/code_map.md, section 5)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from .boxes import iou_loss
from .simota import assign, pad_targets
from .yolox_head import cell_grid, cell_rows, decode_boxes

IOU_WEIGHT = 5.0


class DetectionLoss(NamedTuple):
    """Scalars, each divided by the number of positives; `total` is the sum of the three terms, weights included."""

    total: Tensor
    iou: Tensor
    obj: Tensor
    cls: Tensor
    num_positives: Tensor


class YOLOXLoss(nn.Module):
    """[5 sum(1 - IoU^2) + sum BCE(obj) + sum BCE(cls, one-hot * matched IoU)] / max(positives, 1).

    Images without targets contribute objectness only. `iou_kind`: "iou", "giou" or "ciou".
    """

    def __init__(self, num_classes: int = 1, stride: int = 8, iou_kind: str = "iou"):
        super().__init__()
        self.num_classes = num_classes
        self.stride = stride
        self.iou_kind = iou_kind

    def forward(self, output: Tensor, targets: list[Tensor]) -> DetectionLoss:
        """output (B, 5 + K, h, w) raw; targets: B tensors (n_i, 5) cx, cy, w, h, class in input pixels."""
        if output.shape[0] != len(targets) or output.shape[1] != 5 + self.num_classes:
            raise ValueError(
                f"expected an output of ({len(targets)}, {5 + self.num_classes}, h, w), got {tuple(output.shape)}"
            )
        for classes in (rows[:, 4] for rows in targets if rows.device.type == "cpu"):  # elsewhere looking would wait
            if not ((classes >= 0) & (classes < self.num_classes)).all():
                raise ValueError(f"a class is none of 0 to {self.num_classes - 1}: {classes.tolist()}")
        rows = cell_rows(output)  # (B, N, 5 + K), float32
        obj_logits, cls_logits = rows[..., 4], rows[..., 5:]
        cells = cell_grid(output.shape[-2], output.shape[-1], output.device)  # (N, 2)
        padded, used = pad_targets(targets, output.device)
        boxes = decode_boxes(rows[..., :4].detach(), cells, self.stride)
        match = assign(
            boxes, obj_logits.detach(), cls_logits.detach(), padded, used, (cells + 0.5) * self.stride, self.stride
        )
        count = match.positive.sum().clamp(min=1)
        obj = binary_cross_entropy_with_logits(obj_logits, match.positive.float(), reduction="sum")
        image, anchor = match.positive.nonzero(as_tuple=True)
        matched = padded[image, match.target[image, anchor]] if len(image) else padded.new_zeros(0, 5)
        # Of the positives alone: where another cell's size overflows, its gradient would be 0 x infinity.
        boxes = decode_boxes(rows[image, anchor, :4], cells[anchor], self.stride)
        iou = iou_loss(boxes, matched[:, :4], self.iou_kind).sum()
        soft_labels = one_hot(matched[:, 4].long(), self.num_classes) * match.iou[image, anchor].unsqueeze(-1)
        cls = binary_cross_entropy_with_logits(cls_logits[image, anchor], soft_labels, reduction="sum")
        iou, obj, cls = IOU_WEIGHT * iou / count, obj / count, cls / count  # eq. 5.5
        return DetectionLoss(iou + obj + cls, iou, obj, cls, match.positive.sum())
