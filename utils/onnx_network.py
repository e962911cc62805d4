"""ONNX files of `python -m utils.export_onnx`, run by ONNX Runtime: what a file says of itself, and its streams.

onnxruntime is an extra (requirements-export.txt), imported where a file is opened.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.checkpoint import remembered_in
from utils.cli import UserError
from utils.clips import clip_places
from utils.frames import Intensity

FORMAT = "sstnet-onnx-1"
REMEMBERED = ("intensity", "frame_scales", "confidence", "provenance")  # files of before they were written lack them


@dataclass(frozen=True)
class Suppression:
    """Non-maximum suppression inside a file; the protocol of `utils.detections.postprocess`."""

    nms: float = 0.65
    min_confidence: float = 0.001
    max_detections: int = 100


@dataclass(frozen=True)
class Form:
    """What goes into a file's network and what comes out.

    streaming: one frame and the cache of a `StreamingForm`, not a clip. The first output is `output` (B, 5+K, h, w),
    with `decode` `candidates` (B, h*w, 6), with `suppression` `detections` (B, max_detections, 6), best first and
    filled up with zeros; rows are x1, y1, x2, y2 in input pixels, score, class.
    """

    streaming: bool = False
    decode: bool = False
    suppression: Suppression | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return ("frames", "first", "features", "halves") if self.streaming else ("clips",)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        result = "detections" if self.suppression else "candidates" if self.decode else "output"
        return (result, "next_features", "next_halves") if self.streaming else (result,)


@dataclass(frozen=True)
class Description:
    """What a file says of itself, as metadata: each field is a key, its value JSON."""

    form: Form
    architecture: dict[str, Any]  # the arguments of SSTNet
    class_names: tuple[str, ...]
    input_size: tuple[int, int]  # height, width that the network was trained with
    stride: int
    mean: tuple[float, ...]  # of the three channels, which are equal: (grey / 255 - mean) / std
    std: tuple[float, ...]
    intensity: Intensity = "full"  # this and what follows: as in LoadedNetwork
    frame_scales: tuple[float, float] | None = None
    confidence: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def remembered(self) -> dict[str, Any]:
        """What the weight file said beside, as fields of `LoadedNetwork`."""
        return {name: getattr(self, name) for name in REMEMBERED}

    def to_metadata(self) -> dict[str, str]:
        """Keys and JSON values for the file."""
        return {"format": FORMAT} | {name: json.dumps(value) for name, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Description:
        """Read it back; KeyError, TypeError or ValueError where a file says something else."""
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')}, not {FORMAT}")
        stated = [name for name in cls.__dataclass_fields__ if name in metadata or name not in REMEMBERED]
        values = {name: json.loads(metadata[name]) for name in stated}
        values |= remembered_in(values)
        form = values.pop("form")
        inside = form.pop("suppression")
        lists = {name: tuple(values.pop(name)) for name in ("class_names", "input_size", "mean", "std")}
        return cls(Form(**form, suppression=Suppression(**inside) if inside else None), **lists, **values)


def extra(*names: str) -> ModuleType:
    """Import packages of requirements-export.txt and return the last; a line where one is missing."""
    for name in names:
        try:
            module = import_module(name)
        except ImportError as error:
            raise UserError(f"ONNX files need {name} ({error}): pip install -r requirements-export.txt") from error
    return module


class OnnxNetwork:
    """An ONNX file in ONNX Runtime, for a `Detector`: `stream()` takes frames as `VideoStream` does.

    device: where it runs; a CUDA device needs the package onnxruntime-gpu.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
        runtime = extra("onnxruntime")
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such file; write one with python -m utils.export_onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # as many as PyTorch would take
        options.log_severity_level = 3  # errors, which become ours
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=_providers(runtime, device))
        except Exception as error:  # of many types, without a base of their own
            raise UserError(f"{path}: not an ONNX file, or a damaged one ({error})") from error
        try:
            self.description = Description.from_metadata(self.session.get_modelmeta().custom_metadata_map)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: no SSTNet of this version ({error}); write one with python -m utils.export_onnx"
            ) from error
        self.form = self.description.form
        self.class_names = self.description.class_names
        self.input_size = self.description.input_size
        self.num_frames: int = self.description.architecture["num_frames"]
        self.frame_interval: int = self.description.architecture.get("frame_interval", 1)  # older files do not say
        self.device_name = f"ONNX Runtime, {self.session.get_providers()[0]}, {options.intra_op_num_threads} threads"

    def check_protocol(self, nms: float, min_confidence: float, max_detections: int) -> None:
        """UserError where detections are wanted that the suppression inside the file has dropped already."""
        inside = self.form.suppression
        if inside is None:
            return
        if nms != inside.nms or min_confidence < inside.min_confidence or max_detections > inside.max_detections:
            raise UserError(
                f"{self.path}: its own suppression has IoU {inside.nms}, confidence {inside.min_confidence} and "
                f"{inside.max_detections} detections, not IoU {nms}, {min_confidence} and {max_detections}; "
                "ask for the file's, or export without --nms"
            )

    def stream(
        self, repeat_key_frame: bool = False, frame_interval: int | None = None
    ) -> ClipStream | CacheStream:
        """The network at the beginning of a sequence; with `repeat_key_frame` every frame is one."""
        kind = CacheStream if self.form.streaming else ClipStream
        return kind(self, repeat_key_frame, frame_interval or self.frame_interval)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The file's outputs of its inputs, both in the order of `Form`."""
        return self.session.run(list(self.form.outputs), dict(zip(self.form.inputs, inputs, strict=True)))

    def empty_cache(self, streams: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Zeros of the cache's shapes for frames of `size` (H, W), to go with first frames."""
        references, stride = self.num_frames - 1, self.description.stride
        shapes = {value.name: value.shape for value in self.session.get_inputs()}
        cells = (size[0] // stride, size[1] // stride)
        features, halves = (
            np.zeros((streams, references, shapes[name][2], *cells), np.float32) for name in ("features", "halves")
        )
        return features, halves


def _providers(runtime: ModuleType, device: str | torch.device) -> list:
    """What runs the network: CUDA where it is wanted and there, else the CPU, with a warning."""
    device = torch.device(device)
    if device.type != "cuda":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        print("warning: onnxruntime has no CUDA (onnxruntime-gpu has): the network runs on the CPU", file=sys.stderr)
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": device.index or 0}), "CPUExecutionProvider"]


class ClipStream:
    """Consecutive frames through a file that takes clips; used as `VideoStream`."""

    def __init__(self, network: OnnxNetwork, repeat_key_frame: bool = False, frame_interval: int = 1) -> None:
        self.network = network
        self.repeat_key_frame = repeat_key_frame
        self.places = clip_places(network.num_frames, frame_interval)
        self._past: Tensor | None = None  # the frames that later clips reach back to

    def reset(self) -> None:
        """The next frame is the first of a sequence."""
        self._past = None

    def push(self, frames: Tensor) -> Tensor:
        """Frames (N, 3, H, W) -> the file's first output for the clip that ends at each of them."""
        if self.repeat_key_frame:
            clips = torch.stack([frames] * len(self.places), dim=2)  # (N, 3, T, H, W)
        else:
            reach = -self.places[0]
            past = self._past if self._past is not None else frames[:1].expand(reach, -1, -1, -1)
            known = torch.cat([past, frames])
            self._past = known[len(frames) :].clone()
            clips = torch.stack([known[reach + t : reach + t + len(frames)] for t in self.places], dim=2)
        (result,) = self.network.run([clips.numpy()])
        return torch.from_numpy(result)


class CacheStream:
    """Consecutive frames through a file that takes one frame and its cache; used as `VideoStream`.

    Every `frame_interval`-th frame has a cache of its own; all of them begin with the sequence's first frame.
    """

    def __init__(self, network: OnnxNetwork, repeat_key_frame: bool = False, frame_interval: int = 1) -> None:
        self.network = network
        self.repeat_key_frame = repeat_key_frame
        self._caches: deque[Sequence[np.ndarray]] = deque(maxlen=frame_interval)  # the next frame's first

    def reset(self) -> None:
        """The next frame is the first of a sequence."""
        self._caches.clear()

    def push(self, frames: Tensor) -> Tensor:
        """Frames (N, 3, H, W) -> the file's first output for each of them."""
        results = []
        for frame in frames.numpy():
            begins = not self._caches
            cache = self.network.empty_cache(1, frame.shape[1:]) if begins else self._caches.popleft()
            first = np.array([begins or self.repeat_key_frame])
            result, *cache = self.network.run([frame[None], first, *cache])
            self._caches.extend([cache] * (self._caches.maxlen if begins else 1))
            results.append(torch.from_numpy(result))
        return torch.cat(results)
