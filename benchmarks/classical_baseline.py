"""Classical single-frame detectors, to see what learning buys: `python benchmarks/classical_baseline.py`.

White top-hat: the frame less its grey opening, which keeps what is smaller than the kernel. Max-median: the frame less
the largest of the medians along four directions, which keeps edges. What stands out most is a target; the response in
grey levels over 255 is its confidence. Nothing is trained and nothing looks at another frame. The detections are scored
as a network's are, and by `utils_coco/get_map_coco.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from scipy.ndimage import median_filter
from tqdm import tqdm

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.results import shorten, write_result
from utils.annotations import load_annotations
from utils.cli import Unset, UserError, run_command
from utils.evaluation import evaluate
from utils.evaluation_report import format_report, make_folder, write_metrics
from utils.frames import read_frame
from utils.json_files import write_json


@dataclass
class Config:
    """Detect with a classical filter on annotated frames: detections.json, metrics.json and the usual tables."""

    data_root: Path = Path("datasets/DAUB")
    """Folder that the frame paths of the annotations are relative to."""
    annotations: Unset[Path] = None
    """COCO JSON or annotation list; default: annotations/instances_test2017.json of the data root."""
    output: Path = Path("runs/classical")
    """Folder for detections.json and metrics.json."""
    method: Literal["top-hat", "max-median"] = "top-hat"
    """The filter."""
    kernel: int = 3
    """Side of the top-hat's ellipse, or length of the medians, in pixels; odd."""
    peaks: Literal["maxima", "components"] = "maxima"
    """A target is a local maximum of the response, or a connected component of what exceeds --threshold."""
    threshold: Unset[float] = None
    """Of components: standard deviations of the frame's response above its mean (default: 5)."""
    box: int = 8
    """Side of the boxes in pixels, centred on the peak or the component; 0: a component's own box."""
    max_detections: int = 100
    """Detections kept of a frame, strongest first."""
    resamples: int = 1000
    """Draws of the sequences that the 95 % intervals come from; 0: no intervals."""
    result: Unset[Path] = None
    """Write a result file for the tables of the docs, such as docs/results/classical/daub_test_top-hat.json."""
    data: str = ""
    """What the frames are, in words, for the result file."""


def main(config: Config) -> None:
    """Detect, write, score, print."""
    check(config)
    make_folder(config.output)
    path = config.annotations or config.data_root / "annotations" / "instances_test2017.json"
    annotations = load_annotations(path, config.data_root)
    if len(annotations.category_ids) != 1:
        raise UserError(f"{path}: {len(annotations.category_ids)} classes, and a filter tells none apart")
    annotated = {annotation["image_id"] for annotation in annotations.coco["annotations"]}
    records = [record for record in annotations.records if record.image_id in annotated]  # as the protocol does
    detect = detector(config)
    results = []
    for record in tqdm(records, desc=config.method, unit="frame", disable=None):
        boxes, scores = detect(read_frame(record.path))
        results += [
            {"image_id": record.image_id, "category_id": annotations.category_ids[0], "bbox": box, "score": score}
            for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)
        ]
    write_json(config.output / "detections.json", results, indent=None)
    names = ("method", "kernel", "peaks", "box", "max_detections")
    protocol = {name: getattr(config, name) for name in names}
    if config.peaks == "components":
        protocol["threshold"] = deviations(config)
    evaluation = evaluate(
        annotations.coco, results, max_detections=config.max_detections, resamples=config.resamples, protocol=protocol
    )
    write_metrics(evaluation, config.output)
    if config.result:
        write_result(config.result, shorten(evaluation.to_json(), data=config.data))
    print(format_report(evaluation))


def check(config: Config) -> None:
    """`UserError` where the settings make no filter."""
    if config.kernel < 3 or config.kernel % 2 == 0:
        raise UserError(f"--kernel {config.kernel}: must be odd and 3 or more")
    if config.box < 0 or (config.box == 0 and config.peaks == "maxima"):
        raise UserError(f"--box {config.box}: must be 1 or more; 0, a component's own box, is for --peaks components")
    if config.threshold is not None and config.peaks == "maxima":
        raise UserError(f"--threshold {config.threshold:g}: is for --peaks components; local maxima have none")
    if config.max_detections < 1 or config.resamples < 0:
        raise UserError("--max-detections must be 1 or more, --resamples 0 or more")


def deviations(config: Config) -> float:
    """The threshold of components, in standard deviations."""
    return 5.0 if config.threshold is None else config.threshold


def detector(config: Config) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function from a grey frame (h, w) to boxes (n, 4) x, y, w, h and scores (n,), strongest first."""
    respond = partial(RESPONSES[config.method], size=config.kernel)

    def detect(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        response = respond(frame)
        if config.peaks == "maxima":
            boxes, scores = maxima(response, config.box)
        else:
            boxes, scores = components(response, deviations(config), config.box)
        order = np.argsort(-scores, kind="stable")[: config.max_detections]
        return boxes[order], scores[order] / 255

    return detect


def white_top_hat(frame: np.ndarray, size: int) -> np.ndarray:
    """Frame less its opening by an ellipse, (h, w) float32 >= 0."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.morphologyEx(frame, cv2.MORPH_TOPHAT, kernel).astype(np.float32)


def max_median(frame: np.ndarray, size: int) -> np.ndarray:
    """Frame less the largest of four directional medians (Deshpande et al., 1999), (h, w) float32 >= 0."""
    row, diagonal = np.ones((1, size), bool), np.eye(size, dtype=bool)
    footprints = (row, row.T, diagonal, diagonal[::-1])
    medians = [median_filter(frame, footprint=footprint, mode="nearest") for footprint in footprints]
    return np.maximum(frame.astype(np.float32) - np.maximum.reduce(medians), 0)


RESPONSES = {"top-hat": white_top_hat, "max-median": max_median}


def maxima(response: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of a side around the local maxima of 3 x 3 pixels; a plateau is one maximum, at its centre."""
    peak = (response > 0) & (response == cv2.dilate(response, np.ones((3, 3), np.uint8)))
    count, labels, _, centres = cv2.connectedComponentsWithStats(peak.astype(np.uint8), connectivity=8)
    heights = np.zeros(count, np.float32)
    heights[labels] = response  # a plateau has one; its centre may lie beside it
    return square_boxes(centres[1:], side), heights[1:]  # the first is the background


def components(response: np.ndarray, threshold: float, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of the connected parts above the threshold, or of a side around their centres; score: the highest value."""
    above = response > response.mean() + threshold * response.std()
    count, labels, stats, centres = cv2.connectedComponentsWithStats(above.astype(np.uint8), connectivity=8)
    highest = np.zeros(count, np.float32)
    np.maximum.at(highest, labels, response)
    boxes = square_boxes(centres[1:], side) if side else stats[1:, :4].astype(float)
    return boxes, highest[1:]


def square_boxes(centres: np.ndarray, side: int) -> np.ndarray:
    """Boxes (n, 4) x, y, w, h around pixel centres (n, 2): pixel 0 reaches from 0 to 1."""
    corners = centres + 0.5 - side / 2
    return np.concatenate([corners, np.full_like(corners, side)], axis=1)


if __name__ == "__main__":
    run_command(main, Config)
