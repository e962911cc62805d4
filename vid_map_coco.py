"""Evaluate a network, or any detectors' COCO results files, on an annotated data set.

python vid_map_coco.py --weights W --data-root datasets/DAUB
python vid_map_coco.py --detections A.json B.json --names A B --data-root datasets/DAUB
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from utils.annotations import Annotations, is_list, load_annotations
from utils.check_rows import contrast_warning, jump_warning
from utils.checkpoint import weights_or_default
from utils.cli import Several, Unset, UserError, run_command
from utils.clips import clip_places
from utils.comparison import (
    DETECTED_EMPTY,
    RESULTS,
    detector_names,
    format_results,
    protocol_warnings,
    refuse_other_run,
    score_files,
    write_results,
)
from utils.config import choose_device
from utils.contrast import measure_contrasts
from utils.converted import refuse_source
from utils.detector import Detector
from utils.evaluation import Scored, score
from utils.evaluation_metrics import Evaluation
from utils.evaluation_report import is_evaluation, make_folder
from utils.figures import FIGURES, save_figures
from utils.frames import Intensity, check_intensity, read_image_size
from utils.gallery import Case, Gallery, Strip, choose_cases, save_page
from utils.json_files import write_json
from utils.prediction_files import refuse_prediction
from utils.published_curves import DATASETS, PublishedCurves, load_published_curves
from utils.report import Section, save_report
from utils.speed import measure_speed, speed_sample

TEST_ANNOTATIONS = Path("annotations", "instances_test2017.json")  # of the published layouts
PUBLISHED_PROTOCOL = {
    "resize": "letterbox",
    "input_size": [512, 512],
    "nms": 0.65,
    "min_confidence": 0.001,
    "max_detections": 100,
    "repeat_key_frame": False,
    "intensity": "full",
    "frame_interval": 1,
}
NETWORK_ONLY = (
    "resize", "input_size", "nms", "min_confidence", "repeat_key_frame", "frame_interval", "chunk", "speed_frames",
)  # fmt: skip
REPORT = (  # patterns in the output folder
    "report.html",
    *(f"gallery_{kind}{number}.png" for kind in ("misses", "false_alarms") for number in ("", "_[0-9]", "_[0-9][0-9]")),
    *(f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")),
)  # fmt: skip
GALLERY = 6  # failures of each kind, where the frames are known to be at hand
PLACES = clip_places(5)  # of the frames of a gallery strip where no network says which its clips hold


@dataclass
class Config:
    """Detect on annotated frames and measure: tables, metrics.json, detections.json, figures, report.html."""

    weights: Unset[Path] = None
    """Weight file: one of this project's checkpoints, a released one, or an ONNX file of utils.export_onnx (default:
    the project's own, model_data/sstnet_infrared.pth)."""
    detections: Several[Path] = ()
    """Evaluate COCO results files instead of a network; several are compared in one table and one figure."""
    names: Several[str] = ()
    """Names of the detectors behind --detections, to show (default: the files')."""
    data_root: Path = Path("datasets/DAUB")
    """Folder that the frame paths of the annotations are relative to."""
    annotations: Unset[Path] = None
    """COCO JSON or annotation list; default: annotations/instances_test2017.json of the data root."""
    output: Path = Path("runs/evaluation")
    """Folder for metrics.json, detections.json, report.html, the figures and the gallery."""
    device: str = "auto"
    """Where the network runs: auto (a GPU if there is one), cpu, cuda, cuda:1."""
    confidence: float = 0.5
    """Confidence of the operating point and of Pd and false alarms, 0 to 1."""
    resize: Literal["letterbox", "stretch"] = "letterbox"
    """How a frame is fitted into the input: letterbox keeps its proportions."""
    nms: float = 0.65
    """IoU above which the weaker of two detections is dropped."""
    input_size: Unset[tuple[int, int]] = None
    """Height and width of the network's input in pixels, multiples of 32; default: as trained, or from the frames'
    size where the weights say how."""
    intensity: Unset[Intensity] = None
    """How 16-bit and float frames become grey: full, or LOW HIGH, values that become 0 and 255; default: as trained,
    full with --detections."""
    min_confidence: float = 0.001
    """Detections below this confidence are not kept at all."""
    max_detections: int = 100
    """Detections kept in a frame, best first; of a file, those of a frame and category that are scored by IoU (Pd and
    false alarms by centre count all)."""
    repeat_key_frame: bool = False
    """Show the network its key frame T times: a single-frame detector to compare with."""
    frame_interval: Unset[int] = None
    """Frames from one frame of a clip to the next (default: as trained)."""
    include_empty_frames: bool = False
    """Detect and score on frames without annotations too (the published protocol skips them)."""
    report: bool = True
    """Draw the figures, the gallery and report.html."""
    gallery: Unset[int] = None
    """Worst misses and most confident false alarms to show, of each; default: 6 with --weights, else 0."""
    resamples: int = 1000
    """Draws of the sequences that the 95 % intervals come from; 0: no intervals."""
    contrast: bool = True
    """Measure the signal-to-clutter ratio of targets in their frames, if there, where annotations do not state it."""
    published: Literal["auto", "none", "DAUB", "IRDST", "ITSDT-15K", "DMIST-60", "DMIST-100"] = "auto"
    """Published curves under the PR curve; auto: those of the data set that the data root is named after."""
    chunk: int = 0
    """Consecutive frames that go through the network together; 0: as many as suit the device and the input size."""
    speed_frames: int = 100
    """Frames to time at most, after the detection; 0: no timing."""


def main(config: Config) -> None:
    """Detect or read detections, evaluate, print, and write the files."""
    _check(config)
    if not config.detections:
        config = replace(config, weights=weights_or_default(config.weights))
    runs, annotations, places, intensity = _score_network(config) if config.weights else _score_files(config)
    evaluations = {name: scored.evaluation for name, scored in runs.items()}
    for warning in protocol_warnings(evaluations):
        print(f"warning: not the same protocol: {warning}", file=sys.stderr)
    if config.detections:
        _remove_older(config.output, several=len(runs) > 1)
    metrics = write_results(evaluations, config.output)
    published = _published_curves(config)
    for warning in _differences(evaluations, published) if published else ():
        print(f"warning: not comparable with the published curves: {warning}", file=sys.stderr)
    written = {"detections": config.detections or [config.output / "detections.json"], "metrics": [metrics]}
    if config.report:
        figures = save_figures(config.output, evaluations, published)
        sections = _gallery(config, runs, annotations, places, intensity)
        save_report(config.output / "report.html", evaluations, figures, sections)
        written |= {"figures": figures.values(), "report": [config.output / "report.html"]}
    print(f"{format_results(evaluations)}\n")
    for what, paths in written.items():
        print(f"{what + ':':<11} {', '.join(map(str, paths))}")


def _check(config: Config) -> None:
    """What would only fail after the detection."""
    if config.weights and config.detections:
        raise UserError("give either --weights FILE (a network) or --detections FILE (COCO results)")
    for name in ("confidence", "nms", "min_confidence"):
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)} is not between 0 and 1")
    least_values = {
        "max_detections": 1, "frame_interval": 1, "chunk": 0, "speed_frames": 0, "resamples": 0, "gallery": 0,
    }  # fmt: skip
    for name, least in least_values.items():
        if getattr(config, name) is not None and getattr(config, name) < least:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)} is less than {least}")
    if config.intensity is not None:
        check_intensity(config.intensity)
    if config.gallery and not config.report:
        raise UserError("--gallery is part of the report: leave out --no-report")
    if config.names and not config.detections:
        raise UserError("--names is for --detections")
    if config.detections:
        detector_names(config.detections, config.names)
        defaults = {field.name: field.default for field in fields(Config)}
        for name in NETWORK_ONLY:
            if getattr(config, name) != defaults[name]:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} is for --weights: the detections of a file are scored as they are")
    for name in RESULTS if config.detections else ("detections.json", *RESULTS):
        refuse_source(config.output / name, [_annotation_file(config), *config.detections])
    if config.detections:
        refuse_other_run(config.output, config.detections)
    else:
        refuse_prediction(config.output)
    _refuse_foreign(config.output)
    make_folder(config.output)


def _refuse_foreign(folder: Path) -> None:
    """`UserError` where files have the names of an evaluation's, which goes, and no evaluation is there."""
    found = sorted(path for pattern in (*REPORT, *RESULTS) for path in folder.glob(pattern))
    if found and not is_evaluation(folder):
        raise UserError(f"{found[0]}: of no evaluation, and would be lost; give another --output, or remove it")


def _remove_older(folder: Path, several: bool) -> None:
    """Take away what an earlier evaluation drew and compared in the folder: it would be read as this one's.

    The metrics.json of a single detector stays beside its detections while several are compared.
    """
    for pattern in REPORT if several else (*REPORT, *RESULTS):
        for path in folder.glob(pattern):
            path.unlink()


def _score_network(config: Config) -> tuple[dict[str, Scored], Annotations, range, Intensity]:
    """The network's detections scored, the annotations, a clip's frames (`clip_places`), how they become grey."""
    detector = _detector(config)
    path = _annotation_file(config)
    annotations = load_annotations(path, config.data_root, len(detector.class_names) if is_list(path) else None)
    _refuse_frame_folder(config, annotations)
    shown = _shown(config, annotations)
    for warning in (*jump_warning("evaluation", shown), *contrast_warning(shown, detector.intensity)):
        print(f"warning: {warning}", file=sys.stderr)
    results = detector.detect(shown)
    write_json(config.output / "detections.json", results, indent=None)  # now: what follows may fail
    _remove_older(config.output, several=False)  # an older metrics.json would lend its protocol to these detections
    sample = speed_sample(shown, config.speed_frames) if config.speed_frames else []
    speed = time_frames(detector, sample) if sample else {}
    options = _options(config, annotations, detector.intensity)
    scored = score(annotations.coco, results, **options, protocol=_protocol(config, detector, shown), speed=speed)
    places = clip_places(detector.model.num_frames, detector.frame_interval)
    return {"this run": scored}, annotations, places, detector.intensity


def _score_files(config: Config) -> tuple[dict[str, Scored], Annotations, range, Intensity]:
    """The detections of the files scored, the annotations, the frames of a gallery strip, how they become grey."""
    intensity = config.intensity or "full"
    path = _annotation_file(config)
    annotations = load_annotations(path, config.data_root, check_files=bool(config.gallery), files_if_there=True)
    _refuse_frame_folder(config, annotations)
    options = {**_options(config, annotations, intensity), "of_list": is_list(path)}
    return score_files(config.detections, config.names, annotations.coco, **options), annotations, PLACES, intensity


def _options(config: Config, annotations: Annotations, intensity: Intensity) -> dict:
    """How to score, the same for a network and for files."""
    return {
        "confidence": config.confidence,
        "include_empty_frames": config.include_empty_frames,
        "max_detections": config.max_detections,
        "resamples": config.resamples,
        "scr": measure_contrasts(annotations, intensity) if config.contrast else None,
        "truth_source": str(annotations.source),
    }


def _gallery(
    config: Config, runs: Mapping[str, Scored], annotations: Annotations, places: range, intensity: Intensity
) -> list[Section]:
    """The failures of every run as sections of the report and as PNG pages."""
    count = (GALLERY if config.weights else 0) if config.gallery is None else config.gallery
    sections = []
    for number, (name, scored) in enumerate(runs.items(), start=1):
        gallery = Gallery(scored, annotations, places, intensity)
        own = "" if len(runs) == 1 else f"_{number}"
        whose = "" if len(runs) == 1 else f" of {name}"
        for title, cases in zip(("misses", "false_alarms"), choose_cases(scored, count), strict=True):
            strips = list(filter(None, (_strip(gallery, case, bool(config.detections)) for case in cases)))
            heading = "Worst misses" if title == "misses" else "Most confident false alarms"
            sections.append(Section(heading + whose, strips))
            page = config.output / f"gallery_{title}{own}.png"
            if strips:
                save_page(page, strips)
    return sections


def _strip(gallery: Gallery, case: Case, needed: bool) -> Strip | None:
    """A case drawn, or a warning: an evaluation that a network was run for is not given up for a frame beside one."""
    try:
        return gallery.strip(case)
    except UserError as error:
        if needed:
            raise
        print(f"warning: not in the gallery: {error}", file=sys.stderr)
        return None


def _annotation_file(config: Config) -> Path:
    return config.annotations or config.data_root / TEST_ANNOTATIONS


def _detector(config: Config) -> Detector:
    """The network under the protocol asked for."""
    return Detector.from_file(
        config.weights,
        choose_device(config.device),
        config.input_size,
        config.intensity,
        resize=config.resize,
        nms=config.nms,
        min_confidence=config.min_confidence,
        max_detections=config.max_detections,
        chunk=config.chunk,
        repeat_key_frame=config.repeat_key_frame,
        frame_interval=config.frame_interval,
    )


def _shown(config: Config, annotations: Annotations) -> Annotations:
    """The annotations with the records alone that the network is to see."""
    if not config.include_empty_frames:
        annotated = {annotation["image_id"] for annotation in annotations.coco["annotations"]}
        annotations = replace(annotations, records=tuple(r for r in annotations.records if r.image_id in annotated))
    return annotations


def _refuse_frame_folder(config: Config, annotations: Annotations) -> None:
    """`UserError` where figures would lie among the frames, and be taken for some."""
    folders = {record.path.parent for record in annotations.records}
    if config.output.resolve() in {folder.resolve() for folder in folders}:
        raise UserError(f"{config.output}: holds annotated frames; give another --output")


def _protocol(config: Config, detector: Detector, shown: Annotations) -> dict:
    """How the detections were made, as metrics.json says it."""
    return {
        "weights": str(config.weights),
        **{name: getattr(config, name) for name in PUBLISHED_PROTOCOL},
        "input_size": _input_sizes(detector, shown),
        "intensity": detector.intensity if detector.intensity == "full" else list(detector.intensity),
        "frame_interval": detector.frame_interval,
        DETECTED_EMPTY: config.include_empty_frames,
    }


def _input_sizes(detector: Detector, annotations: Annotations) -> list[int] | str:
    """The network's input (height, width) on these frames, or its several sizes as text."""
    first = {record.path.parent: record.path for record in annotations.records}  # of each folder one frame
    sizes = {detector.letterbox(read_image_size(path)).input_size for path in first.values()}
    if len(sizes) > 1:
        return ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
    return list(next(iter(sizes), detector.input_size))


def time_frames(detector: Detector, sample: list[Path]) -> dict:
    """Speed on these frames, or a note of what prevented it: a finished evaluation is not given up for it."""
    try:
        return measure_speed(detector, sample)
    except UserError as error:
        return {"note": f"not measured: {error}"}


def _published_curves(config: Config) -> PublishedCurves | None:
    if config.published == "auto":
        known = {name.lower(): name for name in DATASETS}
        roots = Path(os.path.abspath(config.data_root)), config.data_root.resolve()  # as a link is named, and its aim
        named = next((known[root.name.lower()] for root in roots if root.name.lower() in known), None)
        return load_published_curves(named) if named else None
    return None if config.published == "none" else load_published_curves(config.published)


def _differences(runs: Mapping[str, Evaluation], published: PublishedCurves) -> list[str]:
    """In what these evaluations depart from the one behind the published curves."""
    run = next(iter(runs.values()))  # all are of the same frames
    found = []
    for name, usual in PUBLISHED_PROTOCOL.items():
        recorded = "max_detections_scored" if name == "max_detections" else name  # as they were scored, not written
        for value in dict.fromkeys(str(r.protocol.get(recorded, usual)) for r in runs.values()):
            if value != str(usual):
                found.append(f"{name} {value} instead of {usual}")
    if published.test_frames not in (None, run.counts.frames):
        found.append(f"{run.counts.frames} frames; the test set of {published.dataset} has {published.test_frames}")
    if run.protocol["include_empty_frames"]:
        found.append("frames without targets are included")
    return found


if __name__ == "__main__":
    run_command(main, Config)
