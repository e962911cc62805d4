"""Frames in, boxes out: weights, letterbox, network and non-maximum suppression behind one class.

Videos, frame folders and annotated data sets all go through `VideoStream`, which extracts each frame once,
however many clips it is in.
"""

from __future__ import annotations

import copy
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nets import SSTNet, VideoStream, frames_together, inference_form
from utils.annotations import Annotations, match_categories
from utils.checkpoint import LoadedNetwork, load_network
from utils.cli import UserError
from utils.clips import normalise_frames
from utils.detections import STRIDE, Detections, coco_results, postprocess
from utils.frame_blocks import plan_blocks, read_block_frame
from utils.frames import Intensity
from utils.letterbox import Letterbox, input_between
from utils.onnx_network import OnnxNetwork

Item = TypeVar("Item")
Result = TypeVar("Result")

READERS = 4  # threads that read and letterbox frames ahead of the network


class Stream(Protocol):
    """A network that consecutive frames are pushed through."""

    def reset(self) -> None:
        """The next frame is the first of a sequence."""

    def push(self, frames: Tensor) -> Tensor:
        """Frames (N, 3, H, W) -> head outputs (N, 5+K, H/8, W/8), or their decoded boxes (N, n, 6)."""


class KeyFrameStream:
    """A single-frame detector to compare with: each clip is its key frame, T times. Used as `VideoStream`."""

    def __init__(self, model: SSTNet) -> None:
        self.model = model

    def reset(self) -> None:
        """Nothing is remembered between frames."""

    def push(self, frames: Tensor) -> Tensor:
        """Frames (N, 3, H, W) -> (N, 5+K, H/8, W/8)."""
        features = self.model.extract(frames)  # (N, C, H/8, W/8)
        return self.model.detect([features] * self.model.num_frames)


def open_network(weights: str | Path, device: str | torch.device = "cpu") -> LoadedNetwork:
    """The network of a checkpoint, or of an ONNX file."""
    if Path(weights).suffix.lower() == ".onnx":
        onnx = OnnxNetwork(weights, device)
        return LoadedNetwork(onnx, onnx.class_names, onnx.input_size, **onnx.description.remembered)
    return load_network(weights, device)


class Detector:
    """A network, in its inference form, with its input size and protocol.

    `min_confidence`, `nms` (IoU) and `max_detections` are those of the published evaluation. `chunk`
    consecutive frames go through the network together, and are read ahead of it (0: as many as suit the device).
    `repeat_key_frame` makes it a single-frame detector. `frame_interval` is how many frames apart those of a clip are
    (None: as trained). `intensity` is how deep frames are to become grey. With
    `frame_scales` (least, most) the input is not `input_size` for all frames but what `input_between` makes of a
    frame's size.
    """

    def __init__(
        self,
        model: SSTNet | OnnxNetwork,
        class_names: tuple[str, ...],
        input_size: tuple[int, int],
        device: str | torch.device = "cpu",
        resize: str = "letterbox",
        nms: float = 0.65,
        min_confidence: float = 0.001,
        max_detections: int = 100,
        chunk: int = 0,
        repeat_key_frame: bool = False,
        intensity: Intensity = "full",
        frame_scales: tuple[float, float] | None = None,
        frame_interval: int | None = None,
    ) -> None:
        if any(side <= 0 or side % 32 for side in input_size):
            raise UserError(f"input size {input_size[0]} x {input_size[1]}: both sides must be multiples of 32")
        # What goes into ONNX Runtime and comes out of it is in the memory of the CPU, wherever it computes.
        self.device = torch.device("cpu" if isinstance(model, OnnxNetwork) else device)
        if isinstance(model, OnnxNetwork):
            model.check_protocol(nms, min_confidence, max_detections)
            self.model = model
        else:
            if model.stride != STRIDE:
                raise ValueError(f"a network of stride {model.stride}: utils/detections.py:STRIDE is {STRIDE}")
            form = inference_form(model)
            self.model = (copy.deepcopy(form) if form is model else form).to(self.device)  # the caller's is not moved
        self.class_names = tuple(class_names)
        self.input_size = (int(input_size[0]), int(input_size[1]))
        self.resize = resize
        self.nms = nms
        self.min_confidence = min_confidence
        self.max_detections = max_detections
        self.given_chunk = chunk
        self.chunk = chunk or frames_together(self.input_size, self.device)
        self.read_ahead = chunk or max(self.chunk, READERS)
        self.repeat_key_frame = repeat_key_frame
        self.frame_interval = self.model.frame_interval if frame_interval is None else frame_interval
        self.intensity = intensity
        self.frame_scales = frame_scales

    @classmethod
    def from_file(
        cls,
        weights: str | Path,
        device: str | torch.device = "cpu",
        input_size: tuple[int, int] | None = None,
        intensity: Intensity | None = None,
        **protocol: object,
    ) -> Detector:
        """The network of a file that `open_network` reads; input size and intensity are what it says unless given."""
        return cls.of(open_network(weights, device), device, input_size, intensity, **protocol)

    @classmethod
    def of(
        cls,
        network: LoadedNetwork,
        device: str | torch.device = "cpu",
        input_size: tuple[int, int] | None = None,
        intensity: Intensity | None = None,
        **protocol: object,
    ) -> Detector:
        """The detector of a network that was loaded already."""
        scales = None if input_size else network.frame_scales
        size, rule = input_size or network.input_size, intensity or network.intensity
        return cls(network.model, network.class_names, size, device, intensity=rule, frame_scales=scales, **protocol)

    def letterbox(self, image_size: tuple[int, int]) -> Letterbox:
        """How frames of a size (h, w) go into the network."""
        size = self.input_size
        if self.frame_scales:
            size = input_between(image_size, size, self.frame_scales)
        return Letterbox(image_size, size, self.resize)

    def together(self, letterbox: Letterbox) -> int:
        """How many frames of a letterbox's input go through the network at once."""
        return self.given_chunk or frames_together(letterbox.input_size, self.device)

    def stream(self, frames: Iterable[np.ndarray]) -> Iterator[Detections]:
        """Detect in the consecutive grey frames (h, w) uint8 of one sequence, lazily and in constant memory.

        Frames are taken `read_ahead` frames ahead of what has come out. A frame of another size is a `UserError`, as is
        one in colour.
        """
        frames = iter(frames)
        first = next(frames, None)
        if first is None:
            return
        if first.ndim != 2 or first.dtype != np.uint8:
            raise UserError(f"a frame of shape {first.shape}, {first.dtype}: expected grey (h, w) uint8; convert it")
        letterbox = self.letterbox(first.shape)
        network = self.network()
        numbered = enumerate(chain([first], frames))
        inputs = _map_ahead(partial(_fit_frame, letterbox=letterbox), numbered, depth=self.read_ahead)
        for chunk in _chunks(inputs, self.together(letterbox)):
            yield from self.to_detections(self._push(network, chunk), letterbox)

    def raw_outputs(self, annotations: Annotations) -> Iterator[tuple[int, Tensor, Letterbox]]:
        """Yield (record index, head output (5+K, h, w), letterbox) for every annotated frame.

        (An ONNX file that decodes gives its boxes (n, 6) instead.)

        Each frame that an annotated clip needs is read and extracted once; other frames are left alone.
        Records come folder by folder in temporal order, which need not be the order of the annotations.
        """
        reach = 0 if self.repeat_key_frame else (self.model.num_frames - 1) * self.frame_interval
        blocks = plan_blocks(annotations, reach, self.letterbox)
        frames = ((block, position) for block in blocks for position in range(len(block.paths)))
        inputs = _map_ahead(partial(read_block_frame, intensity=self.intensity), frames, 2 * self.read_ahead)
        network = self.network()
        for block, members in groupby(inputs, key=itemgetter(0)):
            network.reset()
            for chunk in _chunks(members, self.together(block.letterbox)):
                outputs = self._push(network, [frame for _, _, frame in chunk])
                for (block, position, _), output in zip(chunk, outputs, strict=True):
                    for record in block.records[position]:
                        yield record, output, block.letterbox

    def detect(self, annotations: Annotations, progress: bool = True) -> list[dict]:
        """COCO results of every annotated frame: image_id, category_id, bbox [x, y, w, h], score."""
        category_ids, warning = match_categories(annotations, self.class_names)
        if warning:
            print(f"warning: {warning}", file=sys.stderr)
        results: list[dict] = []
        total = len(annotations.records)
        with tqdm(total=total, desc="detect", unit="frame", disable=None if progress else True) as bar:
            for index, output, letterbox in self.raw_outputs(annotations):
                detections = self.to_detections(output[None], letterbox)[0]
                results += coco_results(detections, annotations.records[index].image_id, category_ids)
                bar.update()
        return results

    def to_detections(self, outputs: Tensor, letterbox: Letterbox) -> list[Detections]:
        """Head outputs (N, 5+K, h, w), or their decoded boxes (N, n, 6), -> detections in image pixels."""
        found = []
        for rows in postprocess(outputs, self.min_confidence, self.nms, self.max_detections):
            rows = rows.cpu().numpy()
            boxes = letterbox.boxes_to_image(rows[:, :4]).astype(np.float32, copy=False)
            found.append(Detections(boxes, rows[:, 4], rows[:, 5].astype(np.int64)))
        return found

    def network(self) -> Stream:
        """The network at the beginning of a sequence."""
        if isinstance(self.model, OnnxNetwork):
            return self.model.stream(self.repeat_key_frame, self.frame_interval)
        return KeyFrameStream(self.model) if self.repeat_key_frame else VideoStream(self.model, self.frame_interval)

    def _push(self, network: Stream, frames: list[np.ndarray]) -> Tensor:
        """Letterboxed grey frames, N of (H, W) uint8 -> what `to_detections` takes."""
        with torch.inference_mode():
            grey = torch.from_numpy(np.stack(frames)).to(self.device, non_blocking=True)  # (N, H, W)
            return network.push(normalise_frames(grey))


def _fit_frame(numbered: tuple[int, np.ndarray], letterbox: Letterbox) -> np.ndarray:
    """Letterbox frame `(number, image)` of a sequence whose first frame set the letterbox."""
    number, frame = numbered
    if frame.shape != tuple(letterbox.image_size):
        (height, width), (first_height, first_width) = frame.shape, letterbox.image_size
        raise UserError(
            f"frame {number + 1} is {width} x {height} but the first one {first_width} x {first_height}; "
            "give frames of one size at a time"
        )
    return letterbox.image(frame)


def _map_ahead(function: Callable[[Item], Result], items: Iterable[Item], depth: int) -> Iterator[Result]:
    """Yield `function(item)` in order while threads work on at most `depth` items ahead."""
    pending: deque = deque()
    with ThreadPoolExecutor(READERS) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` consecutive items, the last one shorter."""
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk
