"""Time and memory of an evaluation: `python benchmarks/evaluation.py`.

Annotations shaped as DAUB's test set and detections around and beside the targets are made here, written as a COCO
results file, read back and scored with everything that `vid_map_coco.py` scores. Numbers are of one core.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.cli import UserError, run_command
from utils.evaluation import evaluate
from utils.results_file import read_results

SIDE = 256  # pixels of a frame, as DAUB's
BOX = 8
NEAR = 8  # detections of a frame that lie around its target; the others lie anywhere


@dataclass
class Config:
    """Time the evaluation of made-up detections."""

    frames: int = 4795
    """Annotated frames, one target each (DAUB's test set has 4795)."""
    sequences: int = 7
    """Sequences that they are of."""
    detections: int = 100
    """Detections a frame."""


def main(config: Config) -> None:
    """Print seconds and peak memory of each step."""
    if min(config.frames, config.sequences, config.detections) < 1:
        raise UserError("--frames, --sequences and --detections must be 1 or more")
    rng = np.random.default_rng(0)
    coco, centres = ground_truth(rng, config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detections.json"
        write_detections(rng, config, centres, path)
        size = path.stat().st_size / 2**20
        print(f"{config.frames} frames, {config.frames * config.detections} detections, file of {size:.0f} MiB")
        print(f"before                   {peak():7.0f} MiB at most so far")
        start = time.perf_counter()
        table = read_results(path)
        read = time.perf_counter()
    print(f"read     {read - start:8.2f} s {'':6} {peak():7.0f} MiB")
    evaluation = evaluate(coco, table, resamples=1000)
    print(f"evaluate {time.perf_counter() - read:8.2f} s {'':6} {peak():7.0f} MiB")
    print(f"AP50 {evaluation.coco.AP50:.4f}, Pd {evaluation.pd_fa.pd:.4f}")


def ground_truth(rng: np.random.Generator, config: Config) -> tuple[dict, np.ndarray]:
    """COCO ground truth and the targets' centres (frames, 2)."""
    centres = rng.uniform(BOX, SIDE - BOX, (config.frames, 2)).round()
    images, annotations = [], []
    for n, (x, y) in enumerate(centres.tolist(), start=1):
        name = f"images/test/data{n % config.sequences}/{n}.bmp"
        images.append({"id": n, "file_name": name, "height": SIDE, "width": SIDE})
        box = [x - BOX / 2, y - BOX / 2, BOX, BOX]
        annotations.append({"id": n, "image_id": n, "category_id": 1, "bbox": box, "area": BOX * BOX, "iscrowd": 0})
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "target"}]}, centres


def write_detections(rng: np.random.Generator, config: Config, centres: np.ndarray, path: Path) -> None:
    """A COCO results file, written frame by frame."""
    with path.open("w") as file:
        file.write("[")
        for n, centre in enumerate(centres, start=1):
            corners = rng.uniform(0, SIDE - BOX, (config.detections, 2))
            near = corners[:NEAR]
            near[:] = centre - BOX / 2 + rng.normal(0, 2, near.shape)
            scores = rng.uniform(0.001, 1, config.detections)
            rows = [
                f'{{"image_id": {n}, "category_id": 1, "bbox": [{x:.3f}, {y:.3f}, {BOX}, {BOX}], "score": {score:.5f}}}'
                for (x, y), score in zip(corners, scores, strict=True)
            ]
            file.write((",\n" if n > 1 else "\n") + ",\n".join(rows))
        file.write("\n]\n")


def peak() -> float:
    """Most memory that the process has held so far, MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    run_command(main, Config)
