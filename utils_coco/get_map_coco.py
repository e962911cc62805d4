"""Score any detector's COCO results: `python utils_coco/get_map_coco.py --gt G.json --detections D.json`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.annotations import is_list, load_annotations
from utils.cli import Several, Unset, UserError, run_command
from utils.comparison import (
    RESULTS,
    detector_names,
    format_results,
    protocol_warnings,
    refuse_other_run,
    score_files,
    write_results,
)
from utils.converted import refuse_source
from utils.evaluation_report import make_folder
from utils.json_files import read_json


@dataclass
class Config:
    """Metrics of detections from files: ground truth and COCO results of one detector or several."""

    gt: Path
    """Ground truth: a COCO JSON, or an annotation list (image ids are then its lines that are not blank, from 1)."""
    detections: tuple[Path, ...]
    """COCO results: a JSON list of image_id, category_id, bbox (x, y, w, h in image pixels), score; or several."""
    names: Several[str] = ()
    """Names of the detectors, to show (default: the files')."""
    output: Unset[Path] = None
    """Folder for metrics.json (of several files comparison.json and .csv); without it the tables are only printed."""
    confidence: float = 0.5
    """Confidence of the operating point and of Pd and false alarms, 0 to 1."""
    max_detections: int = 100
    """Detections of a frame and category scored by IoU, best first; Pd and false alarms, by centre, count all."""
    include_empty_frames: bool = False
    """Score the frames without annotations too (the published protocol skips them)."""
    resamples: int = 1000
    """Draws of the sequences that the 95 % intervals come from; 0: no intervals."""


def read_ground_truth(path: Path) -> dict:
    """The COCO dict of a ground truth file, whose frames need not be at hand."""
    if is_list(path):
        return load_annotations(path, path.parent, check_files=False).coco
    return read_json(path, "ground truth")


def main(config: Config) -> None:
    """Write `metrics.json` and print the report."""
    if not config.detections:
        raise UserError("--detections: give a COCO results file or several")
    if config.max_detections < 1 or config.resamples < 0:
        raise UserError("--max-detections must be 1 or more, --resamples 0 or more")
    detector_names(config.detections, config.names)
    if config.output is not None:
        for name in RESULTS:
            refuse_source(config.output / name, [config.gt, *config.detections])
        refuse_other_run(config.output, config.detections)
        make_folder(config.output)
    scored = score_files(
        config.detections,
        config.names,
        read_ground_truth(config.gt),
        of_list=is_list(config.gt),
        confidence=config.confidence,
        max_detections=config.max_detections,
        include_empty_frames=config.include_empty_frames,
        resamples=config.resamples,
        truth_source=str(config.gt),
    )
    runs = {name: entry.evaluation for name, entry in scored.items()}
    for warning in protocol_warnings(runs):
        print(f"warning: not the same protocol: {warning}", file=sys.stderr)
    written = None if config.output is None else write_results(runs, config.output)
    print(format_results(runs))
    if written:
        print(f"\nmetrics: {written}")


if __name__ == "__main__":
    run_command(main, Config)
