"""Frames per second and latency of a detector: evaluation mode, after warm-up, each part named.

The published frames-per-second figures of this field time the building of the network too, with BatchNorm in
training mode: they are not comparable with these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from nets import VideoStream
from utils.annotations import Annotations
from utils.clips import normalise_frames
from utils.detector import Detector, KeyFrameStream
from utils.frames import read_frame, sequence_frames, split_runs
from utils.letterbox import Letterbox

SECONDS = 5.0  # wanted for each of the measurements, so that a slow machine is not kept busy for minutes


def speed_sample(annotations: Annotations, count: int) -> list[Path]:
    """The first `count` frames of the longest run of annotated frames in the most annotated folder.

    Annotated ones only: they have been read, so timing meets no damaged frame that the evaluation did not need.
    """
    folders = [record.path.parent for record in annotations.records]
    if not folders:
        return []
    most = max(dict.fromkeys(folders), key=folders.count)
    annotated = {record.path for record in annotations.records if record.path.parent == most}
    runs = split_runs([path for path in sequence_frames(most) if path in annotated])
    return max(runs, key=len)[:count]


def measure_speed(detector: Detector, paths: Sequence[Path]) -> dict[str, float | int | str]:
    """Speed of a detector on consecutive frames of one sequence.

    `fps_network`: frames of the input size in device memory through the network, `chunk` at a time;
    `fps_without_reading`: letterbox, network and NMS on frames in memory; `fps_with_reading`: reading and
    decoding too (from the operating system's cache, as the frames have just been read);
    `latency_ms`: median time from one new frame in memory to its boxes, frame by frame.
    """
    images = [read_frame(path, detector.intensity) for path in paths[: 2 * detector.chunk]]
    _consume(detector.stream(images))  # warm-up: memory, caches, choice of kernels
    seconds = _seconds(detector, lambda: _consume(detector.stream(images)))
    count = min(max(int(SECONDS / seconds * len(images)), len(images)), len(paths))
    paths = paths[:count]
    images = [read_frame(path, detector.intensity) for path in paths]
    frames = _letterboxed(detector, images)

    def rate(work: Callable[[], None]) -> float:
        return count / _seconds(detector, work)

    def read() -> Iterator[np.ndarray]:
        return (read_frame(path, detector.intensity) for path in paths)

    return {
        "device": _device_name(detector.device),
        "input_size": f"{detector.input_size[0]} x {detector.input_size[1]}",
        "frames_timed": count,
        "chunk": detector.chunk,
        "fps_network": rate(lambda: _run_network(detector, frames)),
        "fps_without_reading": rate(lambda: _consume(detector.stream(images))),
        "fps_with_reading": rate(lambda: _consume(detector.stream(read()))),
        "latency_ms": 1000 * _latency(detector, images),
    }


def _seconds(detector: Detector, work: Callable[[], None]) -> float:
    """Wall time of `work`, waiting for the GPU before and after."""
    _synchronize(detector)
    start = time.perf_counter()
    work()
    _synchronize(detector)
    return time.perf_counter() - start


def _synchronize(detector: Detector) -> None:
    if detector.device.type == "cuda":
        torch.cuda.synchronize(detector.device)


def _consume(items: Iterable) -> None:
    for _ in items:
        pass


def _letterboxed(detector: Detector, images: Sequence[np.ndarray]) -> torch.Tensor:
    """Grey frames (h, w) -> uint8 (N, H, W) on the detector's device."""
    letterbox = Letterbox(images[0].shape, detector.input_size, detector.resize)
    return torch.from_numpy(np.stack([letterbox.image(image) for image in images])).to(detector.device)


@torch.inference_mode()
def _run_network(detector: Detector, frames: torch.Tensor) -> None:
    network = _stream(detector)
    for chunk in frames.split(detector.chunk):
        network.push(normalise_frames(chunk))


@torch.inference_mode()
def _latency(detector: Detector, images: Sequence[np.ndarray], repeats: int = 20) -> float:
    """Median seconds from one frame in memory to its boxes, in a stream whose earlier frames are known."""
    network = _stream(detector)
    letterbox = Letterbox(images[0].shape, detector.input_size, detector.resize)

    def one(image: np.ndarray) -> None:
        frame = torch.from_numpy(letterbox.image(image)[None]).to(detector.device)
        detector.to_detections(network.push(normalise_frames(frame)), letterbox)

    known = detector.model.num_frames  # these fill the stream and warm the one-frame path up
    times = [_seconds(detector, lambda image=image: one(image)) for image in images[: known + repeats]]
    return float(np.median(times[known:] or times))


def _stream(detector: Detector) -> VideoStream | KeyFrameStream:
    return KeyFrameStream(detector.model) if detector.repeat_key_frame else VideoStream(detector.model)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
