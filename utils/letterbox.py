"""Letterbox: a frame fitted into the network's input with its shape kept; boxes carried there and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from PIL import Image

from utils.cli import UserError

PADDING_GREY = 128
Boxes = TypeVar("Boxes", np.ndarray, torch.Tensor)


def input_between(
    image_size: tuple[int, int], fitted: tuple[int, int], scales: tuple[float, float]
) -> tuple[int, int]:
    """Input (H, W) that a frame of `image_size` (h, w) fills at the scale that fits it into `fitted`, kept in `scales`.

    A network knows targets of the sizes, in input pixels, that it was trained on: a large frame must not be shrunk
    to points of nothing nor a small one blown up. Sides are rounded up to multiples of 32, which a frame then fills:
    a small one is enlarged a little more.
    """
    (height, width), (least, most) = image_size, scales
    scale = min(max(min(fitted[0] / height, fitted[1] / width), least), most)
    return tuple(32 * math.ceil(round(side * scale / 32, 6)) for side in (height, width))


@dataclass(frozen=True)
class Letterbox:
    """The map from a frame of `image_size` (h, w) to an input of `input_size` (H, W), both in pixels.

    "letterbox" scales both sides by min(W/w, H/h), truncated to whole pixels, and centres the result on grey
    128; "stretch" scales each side by itself and leaves no border. `UserError` if a side would vanish.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    mode: Literal["letterbox", "stretch"] = "letterbox"

    def __post_init__(self) -> None:
        if self.mode not in ("letterbox", "stretch"):
            raise UserError(f"resize {self.mode!r}: expected letterbox or stretch")
        if min(*self.image_size, *self.input_size) < 1 or min(self.new_size) < 1:
            raise UserError(
                f"a frame of {self.image_size} pixels (height, width) cannot be fitted into an input of "
                f"{self.input_size}: one side would vanish; crop the frames or choose another input size"
            )

    @property
    def new_size(self) -> tuple[int, int]:
        """(nh, nw): the frame's size inside the input."""
        if self.mode == "stretch":
            return self.input_size
        (h, w), (H, W) = self.image_size, self.input_size
        scale = min(W / w, H / h)  # eq. 6.4
        return int(h * scale), int(w * scale)

    @property
    def offset(self) -> tuple[int, int]:
        """(dy, dx): the frame's top-left corner inside the input."""
        (nh, nw), (H, W) = self.new_size, self.input_size
        return (H - nh) // 2, (W - nw) // 2

    def image(self, grey: np.ndarray) -> np.ndarray:
        """A grey frame (h, w) uint8 -> the input (H, W) uint8, bicubic, padded with grey 128."""
        if grey.shape != self.image_size or grey.dtype != np.uint8:
            raise ValueError(f"expected a {self.image_size} uint8 frame, got {grey.shape} {grey.dtype}")
        (nh, nw), (dy, dx) = self.new_size, self.offset
        resized = np.asarray(Image.fromarray(grey).resize((nw, nh), Image.Resampling.BICUBIC))
        padded = np.full(self.input_size, PADDING_GREY, np.uint8)
        padded[dy : dy + nh, dx : dx + nw] = resized
        return padded

    def boxes_to_input(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 5) x1, y1, x2, y2, class in image pixels -> (m, 5) float32 in input pixels, m <= n.

        Corners are truncated to whole pixels and clipped to the input; boxes up to 1 pixel across dropped.
        """
        (h, w), (H, W), (nh, nw), (dy, dx) = self.image_size, self.input_size, self.new_size, self.offset
        scaled = np.array(boxes, np.float64).reshape(-1, 5)
        corners = np.trunc(scaled[:, :4] * (nw, nh, nw, nh) / (w, h, w, h) + (dx, dy, dx, dy))
        scaled[:, :4] = np.clip(corners, 0, (W, H, W, H))
        sides = scaled[:, 2:4] - scaled[:, :2]
        return scaled[(sides > 1).all(axis=1)].astype(np.float32)

    def boxes_to_image(self, boxes: Boxes) -> Boxes:
        """Boxes (..., 4) x1, y1, x2, y2 in input pixels -> the same type in image pixels, clipped to them."""
        (h, w), (nh, nw), (dy, dx) = self.image_size, self.new_size, self.offset
        offset, scale, limit = (dx, dy, dx, dy), (w / nw, h / nh, w / nw, h / nh), (w, h, w, h)
        if isinstance(boxes, torch.Tensor):
            offset, scale, limit = (boxes.new_tensor(values) for values in (offset, scale, limit))
            return torch.minimum(((boxes - offset) * scale).clamp(min=0), limit)
        return np.clip((boxes - np.array(offset)) * np.array(scale), 0, limit).astype(boxes.dtype)
