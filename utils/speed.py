"""Frames per second and latency of a detector: evaluation mode, after warm-up, each part named.

The published frames-per-second figures of this field time the building of the network too, with BatchNorm in
training mode: they are not comparable with these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from utils.annotations import Annotations
from utils.clips import normalise_frames
from utils.detector import Detector
from utils.frames import read_frame, sequence_frames, split_runs
from utils.letterbox import Letterbox
from utils.onnx_network import OnnxNetwork

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
    """Speed of a detector on consecutive frames of one sequence, in files.

    What `measure_in_memory` gives, and `fps_with_reading`: reading and decoding too (from the operating system's
    cache, as the frames have just been read).
    """
    read = partial(read_frame, intensity=detector.intensity)
    images = [read(paths[0])]
    images += map(read, paths[1 : 2 * detector.together(detector.letterbox(images[0].shape))])
    count = min(max(int(SECONDS / warm_up(detector, images) * len(images)), len(images)), len(paths))
    paths = paths[:count]
    measured = measure_in_memory(detector, [read(path) for path in paths])
    reading = _seconds(detector, lambda: _consume(detector.stream(map(read, paths))))
    return measured | {"fps_with_reading": count / reading}


def warm_up(detector: Detector, images: Sequence[np.ndarray]) -> float:
    """Run twice over grey frames (h, w), for memory, caches and choice of kernels; seconds of the second time."""
    _consume(detector.stream(images))
    return _seconds(detector, lambda: _consume(detector.stream(images)))


def measure_in_memory(detector: Detector, images: Sequence[np.ndarray]) -> dict[str, float | int | str]:
    """Speed of a warm detector on consecutive grey frames (h, w) of one size.

    `fps_network`: frames of the input size in device memory through the network, `chunk` at a time;
    `fps_without_reading`: letterbox, network and NMS; `latency_ms`: median time from one new frame in memory to its
    boxes, frame by frame.
    """
    letterbox, count = detector.letterbox(images[0].shape), len(images)
    chunk = detector.together(letterbox)
    frames = torch.from_numpy(np.stack([letterbox.image(image) for image in images])).to(detector.device)
    _run_network(detector, frames[: chunk + count % chunk], chunk)  # the last chunk is a size of its own
    return {
        "device": _device_name(detector),
        "input_size": f"{letterbox.input_size[0]} x {letterbox.input_size[1]}",
        "frames_timed": count,
        "chunk": chunk,
        "fps_network": count / _seconds(detector, lambda: _run_network(detector, frames, chunk)),
        "fps_without_reading": count / _seconds(detector, lambda: _consume(detector.stream(images))),
        "latency_ms": 1000 * _latency(detector, images, letterbox),
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


@torch.inference_mode()
def _run_network(detector: Detector, frames: torch.Tensor, chunk: int) -> None:
    network = detector.network()
    for part in frames.split(chunk):
        network.push(normalise_frames(part))


@torch.inference_mode()
def _latency(detector: Detector, images: Sequence[np.ndarray], letterbox: Letterbox, repeats: int = 20) -> float:
    """Median seconds from one frame in memory to its boxes, in a stream whose earlier frames are known."""
    network = detector.network()

    def one(image: np.ndarray) -> None:
        frame = torch.from_numpy(letterbox.image(image)[None]).to(detector.device)
        detector.to_detections(network.push(normalise_frames(frame)), letterbox)

    known = detector.model.num_frames  # these fill the stream and warm the one-frame path up
    times = [_seconds(detector, lambda image=image: one(image)) for image in images[: known + repeats]]
    return float(np.median(times[known:] or times))


def _device_name(detector: Detector) -> str:
    if isinstance(detector.model, OnnxNetwork):
        return detector.model.device_name
    if detector.device.type == "cuda":
        return torch.cuda.get_device_name(detector.device)
    return f"{detector.device.type}, {torch.get_num_threads()} threads"
