"""Validation of a run: loss and mAP50 of a network, its frames shared among the processes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from nets import SSTNet, YOLOXLoss
from utils.annotations import Annotations
from utils.clips import to_targets
from utils.detections import Detections, coco_results
from utils.detector import Detector
from utils.distributed import Processes
from utils.evaluation import evaluate
from utils.frames import Intensity, natural_key
from utils.signals import Stopped, StopSignals


@dataclass(frozen=True)
class Validated:
    """One frame: the number of its record, its detection loss, and what was found."""

    record: int
    loss: float
    found: Detections


def validate(
    model: SSTNet, criterion: YOLOXLoss, data: Annotations, class_names: tuple[str, ...], input_size: tuple[int, int],
    device: torch.device, processes: Processes, stop: StopSignals, intensity: Intensity = "full",
) -> tuple[float, float]:
    """Mean detection loss an image and mAP50; `Stopped` in all processes where one was asked to stop, which ends its
    own share there."""
    detector = Detector(model, class_names, input_size, device, intensity=intensity)
    own = _validate_share(detector, criterion, data, processes, stop)
    shares = processes.all_of((stop.received, own))
    for received, _ in shares:
        if received is not None:
            raise Stopped(received)
    if not processes.is_main:
        return processes.from_main((0.0, 0.0))
    frames = sorted((frame for _, share in shares for frame in share), key=lambda frame: frame.record)
    results = []
    for frame in frames:
        results += coco_results(frame.found, data.records[frame.record].image_id, data.category_ids)
    loss = float(np.mean([frame.loss for frame in frames]))
    return processes.from_main((loss, evaluate(data.coco, results, truth_source=str(data.source)).published.mAP50))


def _validate_share(
    detector: Detector, criterion: YOLOXLoss, data: Annotations, processes: Processes, stop: StopSignals
) -> list[Validated]:
    """This process's frames: neighbours in time, so that few frames are extracted by two processes."""
    numbers = list(range(len(data.records)))
    if processes.several:
        paths = [record.path for record in data.records]
        numbers.sort(key=lambda i: (str(paths[i].parent), natural_key(paths[i].name)))
    share = processes.share(numbers)
    part = replace(data, records=tuple(data.records[i] for i in share))
    frames: list[Validated] = []
    hidden = None if processes.is_main else True
    with tqdm(total=len(share), desc="validate", unit="frame", disable=hidden, leave=False) as bar:
        for index, output, letterbox in detector.raw_outputs(part):
            if stop.received is not None:
                break
            targets = to_targets(letterbox.boxes_to_input(part.records[index].boxes))
            loss = criterion(output[None], [targets]).total.item()
            frames.append(Validated(share[index], loss, detector.to_detections(output[None], letterbox)[0]))
            bar.update()
    return frames
