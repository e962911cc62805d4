"""Evaluate a network, or any detector's COCO results file, on an annotated data set.

python vid_map_coco.py --weights W --data-root datasets/DAUB
python vid_map_coco.py --detections D.json --annotations datasets/DAUB/annotations/instances_test2017.json
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from utils.annotations import Annotations, load_annotations
from utils.cli import UserError, run_command
from utils.config import choose_device
from utils.detector import Detector
from utils.evaluation import evaluate
from utils.evaluation_metrics import Evaluation
from utils.evaluation_report import format_report, make_folder, read_json, write_json, write_metrics
from utils.figures import PublishedCurves, load_published_curves, save_pr_figure
from utils.speed import measure_speed, speed_sample

TEST_ANNOTATIONS = Path("annotations", "instances_test2017.json")  # of the published layouts
DATASETS = ("DAUB", "IRDST", "ITSDT-15K", "DMIST-60", "DMIST-100")
PUBLISHED_PROTOCOL = {
    "resize": "letterbox",
    "input_size": [512, 512],
    "nms": 0.65,
    "min_confidence": 0.001,
    "max_detections": 100,
    "repeat_key_frame": False,
}


@dataclass
class Config:
    """Detect on annotated frames and measure: tables, metrics.json, detections.json, pr_curve.png."""

    weights: Path | None = None
    """Weight file: one of this project's checkpoints or a released one."""
    detections: Path | None = None
    """Evaluate this COCO results file instead of a network."""
    data_root: Path = Path("datasets/DAUB")
    """Folder that the frame paths of the annotations are relative to."""
    annotations: Path | None = None
    """COCO JSON or annotation list; default: annotations/instances_test2017.json of the data root."""
    output: Path = Path("runs/evaluation")
    """Folder for metrics.json, detections.json and pr_curve.png."""
    device: str = "auto"
    """Where the network runs: auto (a GPU if there is one), cpu, cuda, cuda:1."""
    confidence: float = 0.5
    """Confidence of the operating point and of Pd and false alarms, 0 to 1."""
    resize: Literal["letterbox", "stretch"] = "letterbox"
    """How a frame is fitted into the input: letterbox keeps its proportions."""
    nms: float = 0.65
    """IoU above which the weaker of two detections is dropped."""
    input_size: tuple[int, int] | None = None
    """Height and width of the network's input in pixels, multiples of 32; default: as trained."""
    min_confidence: float = 0.001
    """Detections below this confidence are not kept at all."""
    max_detections: int = 100
    """Detections kept in a frame, best first."""
    repeat_key_frame: bool = False
    """Show the network its key frame T times: a single-frame detector to compare with."""
    include_empty_frames: bool = False
    """Detect and score on frames without annotations too (the published protocol skips them)."""
    published: Literal["auto", "none", "DAUB", "IRDST", "ITSDT-15K", "DMIST-60", "DMIST-100"] = "auto"
    """Published curves under the PR curve; auto: those of the data set that the data root is named after."""
    chunk: int = 8
    """Consecutive frames that go through the network together."""
    speed_frames: int = 100
    """Frames to time at most, after the detection; 0: no timing."""


def main(config: Config) -> None:
    """Detect or read detections, evaluate, print, and write the files."""
    _check(config)
    if config.detections is None:
        annotations, results, protocol, speed = _detect(config)
    else:
        annotations = load_annotations(_annotation_file(config), config.data_root, check_files=False)
        results = read_json(config.detections, "detections")
        protocol, speed = {"detections": str(config.detections)}, {}
    evaluation = evaluate(
        annotations.coco,
        results,
        config.confidence,
        include_empty_frames=config.include_empty_frames,
        protocol=protocol,
        speed=speed,
        truth_source=str(annotations.source),
        results_source=str(config.detections or "detections"),
    )
    written = _write(config, evaluation)
    print(f"{format_report(evaluation)}\n\n{written}")


def _check(config: Config) -> None:
    """What would only fail after the detection."""
    if (config.weights is None) == (config.detections is None):
        raise UserError("give either --weights FILE (a network) or --detections FILE (COCO results)")
    for name in ("confidence", "nms", "min_confidence"):
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)} is not between 0 and 1")
    for name, least in (("max_detections", 1), ("chunk", 1), ("speed_frames", 0)):
        if getattr(config, name) < least:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)} is less than {least}")
    make_folder(config.output)


def _annotation_file(config: Config) -> Path:
    return config.annotations or config.data_root / TEST_ANNOTATIONS


def _detect(config: Config) -> tuple[Annotations, list[dict], dict, dict]:
    """Annotations, COCO results, protocol and speed of the network."""
    detector = Detector.from_file(
        config.weights,
        choose_device(config.device),
        config.input_size,
        resize=config.resize,
        nms=config.nms,
        min_confidence=config.min_confidence,
        max_detections=config.max_detections,
        chunk=config.chunk,
        repeat_key_frame=config.repeat_key_frame,
    )
    path, names = _annotation_file(config), detector.class_names
    # A list cannot say how many classes there are; a JSON does.
    classes_of_list = None if path.suffix.lower() == ".json" else len(names)
    annotations = load_annotations(path, config.data_root, classes_of_list)
    if classes_of_list is None and len(annotations.class_names) > 1 and annotations.class_names != names:
        theirs, ours = ", ".join(annotations.class_names), ", ".join(names)
        print(f"warning: {path}: categories {theirs}, but the network's are {ours}: matched by order", file=sys.stderr)
    shown = annotations
    if not config.include_empty_frames:
        annotated = {annotation["image_id"] for annotation in annotations.coco["annotations"]}
        shown = replace(annotations, records=tuple(r for r in annotations.records if r.image_id in annotated))
    results = detector.detect(shown)
    write_json(config.output / "detections.json", results, indent=None)  # now: what follows may fail
    sample = speed_sample(shown, config.speed_frames) if config.speed_frames else []
    protocol = {
        "weights": str(config.weights),
        **{name: getattr(config, name) for name in PUBLISHED_PROTOCOL},
        "input_size": list(detector.input_size),
    }
    return annotations, results, protocol, time_frames(detector, sample) if sample else {}


def time_frames(detector: Detector, sample: list[Path]) -> dict:
    """Speed on these frames, or a note of what prevented it: a finished evaluation is not given up for it."""
    try:
        return measure_speed(detector, sample)
    except UserError as error:
        return {"note": f"not measured: {error}"}


def _write(config: Config, evaluation: Evaluation) -> str:
    """Write metrics.json and pr_curve.png; say where they are."""
    published = _published_curves(config)
    if published is not None:
        for warning in _differences(evaluation, published):
            print(f"warning: not comparable with the published curves: {warning}", file=sys.stderr)
    figure = config.output / "pr_curve.png"
    save_pr_figure(figure, f"this run, {evaluation.counts.frames} frames", evaluation.pr_curve, published)
    detections = config.detections or config.output / "detections.json"
    metrics = write_metrics(evaluation, config.output)
    return f"metrics:    {metrics}\ndetections: {detections}\nPR curve:   {figure}"


def _published_curves(config: Config) -> PublishedCurves | None:
    if config.published == "auto":
        named = {name.lower(): name for name in DATASETS}.get(config.data_root.resolve().name.lower())
        return load_published_curves(named) if named else None
    return None if config.published == "none" else load_published_curves(config.published)


def _differences(evaluation: Evaluation, published: PublishedCurves) -> list[str]:
    """In what this evaluation departs from the one behind the published curves."""
    protocol, frames = evaluation.protocol, evaluation.counts.frames
    found = [
        f"{name} {protocol[name]} instead of {usual}"
        for name, usual in PUBLISHED_PROTOCOL.items()
        if name in protocol and protocol[name] != usual
    ]
    if published.test_frames not in (None, frames):
        found.append(f"{frames} frames; the test set of {published.dataset} has {published.test_frames}")
    if protocol["include_empty_frames"]:
        found.append("frames without targets are included")
    return found


if __name__ == "__main__":
    run_command(main, Config)
