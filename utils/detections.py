"""What was found in a frame: from the head's outputs to boxes, a few of them, and to entries of a COCO results file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from nets.yolox_head import decode_output

STRIDE = 8  # of the network's one output level
FARTHEST = 1e5  # input pixels from the corner: a box that goes farther is none


@dataclass(frozen=True)
class Detections:
    """What was found in one frame, best first, in pixels of the image itself."""

    boxes: np.ndarray  # (n, 4) float32 x1, y1, x2, y2
    scores: np.ndarray  # (n,) float32, objectness x class
    classes: np.ndarray  # (n,) int64

    def __len__(self) -> int:
        return len(self.scores)


def cell_boxes(output: Tensor) -> Tensor:
    """Head output (B, 5+K, h, w) -> every cell's box (B, h*w, 6): x1, y1, x2, y2 in input pixels, score, class.

    The published protocol: score = objectness x best class.
    """
    predictions = decode_output(output, STRIDE)  # (B, h*w, 5+K)
    boxes = box_convert(predictions[..., :4], "cxcywh", "xyxy")
    class_scores, classes = predictions[..., 5:].sigmoid().max(dim=-1)
    scores = predictions[..., 4].sigmoid() * class_scores  # eq. 6.5
    return torch.cat([boxes, scores.unsqueeze(-1), classes.unsqueeze(-1).to(boxes.dtype)], dim=-1)


def postprocess(
    output: Tensor, min_confidence: float = 0.001, nms: float = 0.65, max_detections: int = 100
) -> list[Tensor]:
    """Head output (B, 5+K, h, w), or its `cell_boxes` (B, N, 6), -> per image the rows (n, 6) to keep, best first.

    The published protocol: a least score, then non-maximum suppression class by class.
    """
    rows = output if output.dim() == 3 else cell_boxes(output)
    # exp(w) of a network that has not learned may overflow; such a box would poison the IoUs of all others, and one
    # that is only huge the distances by which batched_nms keeps classes apart.
    candidates = (rows[..., 4] >= min_confidence) & (rows[..., :4].abs() <= FARTHEST).all(dim=-1)
    results = []
    # Image by image: one call for all would shift the boxes apart and round them, so that an image's result
    # would depend on the batch it came in.
    for image, found in zip(rows, candidates, strict=True):
        kept = image[found]
        results.append(kept[batched_nms(kept[:, :4], kept[:, 4], kept[:, 5].long(), nms)[:max_detections]])
    return results


def coco_results(detections: Detections, image_id: int, category_ids: tuple[int, ...]) -> list[dict]:
    """Entries of a COCO results file: image_id, category_id, bbox [x, y, w, h] in image pixels, score."""
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for (x1, y1, x2, y2), score, label in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.classes.tolist(), strict=True
        )
    ]
