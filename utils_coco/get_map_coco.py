"""Score any detector's COCO results: `python utils_coco/get_map_coco.py --gt G.json --detections D.json`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.annotations import load_annotations
from utils.cli import run_command
from utils.evaluation import evaluate
from utils.evaluation_report import format_report, make_folder, read_json, write_metrics


@dataclass
class Config:
    """Metrics of detections from two files: ground truth and COCO results."""

    gt: Path
    """Ground truth: a COCO JSON, or an annotation list (image ids are then its lines, from 1)."""
    detections: Path
    """COCO results: a JSON list of image_id, category_id, bbox (x, y, w, h in image pixels), score."""
    output: Path | None = None
    """Folder for metrics.json; without it the tables are only printed."""
    confidence: float = 0.5
    """Confidence of the operating point and of Pd and false alarms, 0 to 1."""
    include_empty_frames: bool = False
    """Score the frames without annotations too (the published protocol skips them)."""


def read_ground_truth(path: Path) -> dict:
    """The COCO dict of a ground truth file, whose frames need not be at hand."""
    if path.suffix.lower() == ".json":
        return read_json(path, "ground truth")
    return load_annotations(path, path.parent, check_files=False).coco


def main(config: Config) -> None:
    """Write `metrics.json` and print the report."""
    if config.output is not None:
        make_folder(config.output)
    evaluation = evaluate(
        read_ground_truth(config.gt),
        read_json(config.detections, "detections"),
        config.confidence,
        include_empty_frames=config.include_empty_frames,
        protocol={"detections": str(config.detections)},
        truth_source=str(config.gt),
        results_source=str(config.detections),
    )
    written = None if config.output is None else write_metrics(evaluation, config.output)
    print(format_report(evaluation))
    if written:
        print(f"\nmetrics: {written}")


if __name__ == "__main__":
    run_command(main, Config)
