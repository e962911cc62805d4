"""Several detectors' results files on one ground truth: scored alike, in one table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.annotation_files import MAX_CLASSES, category_entries, list_categories
from utils.cli import UserError, as_text
from utils.evaluation import Scored, score
from utils.evaluation_metrics import Evaluation
from utils.evaluation_report import format_report, recorded, write_metrics
from utils.json_files import write_json
from utils.results_file import read_results

DETECTED_EMPTY = "detected_empty_frames"  # in a protocol: whether frames without annotations were looked at
COLUMNS = (
    "detector", "mAP50", "mAP50_low", "mAP50_high", "published_P", "published_R", "published_F1", "P", "R", "F1",
    "best_F1", "best_F1_confidence", "Pd", "false_alarms_per_frame", "Pd_at_0.1_per_frame",
)  # fmt: skip
RESULTS = ("metrics.json", "comparison.json", "comparison.csv")  # what write_results writes, one run's and several's


def detector_names(files: Sequence[Path], names: Sequence[str]) -> list[str]:
    """The names to show: as given, or the files' own, with their folder where that tells them apart."""
    if names and len(names) != len(files):
        raise UserError(f"--names: {len(names)} for {len(files)} detection files; give one a file")
    found = [as_text(name) for name in names or [path.stem for path in files]]
    if len(set(found)) < len(found) and not names:
        found = [as_text(f"{path.resolve().parent.name}/{path.stem}") for path in files]
    if len(set(found)) < len(found):
        raise UserError(f"{', '.join(found)}: two detectors of one name; give each its own with --names")
    return found


def score_files(
    files: Sequence[Path], names: Sequence[str], coco: dict, of_list: bool = False, **options: Any
) -> dict[str, Scored]:
    """Score results files on one ground truth, by name; options: those of `score`.

    What a metrics.json beside a file says of its protocol and speed is taken over, if it is about that file. Ground
    truth of an annotation list (`of_list`) has the classes of the detections too: a list does not say how many.
    """
    results = {name: read_results(path) for name, path in zip(detector_names(files, names), files, strict=True)}
    if of_list:
        coco = _with_classes(coco, int(max(found.category_ids.max(initial=1) for found in results.values())))
    scored = {}
    for (name, found), path in zip(results.items(), files, strict=True):
        protocol, speed = recorded(path)
        if options.get("include_empty_frames") and protocol.get(DETECTED_EMPTY) is False:
            raise UserError(
                f"{path}: frames without annotations were not looked at, as the metrics.json beside it says, so they "
                "cannot be scored; detect anew with --include-empty-frames, or leave it out"
            )
        protocol = {**protocol, "detections": str(path.resolve())}
        scored[name] = score(coco, found, **options, protocol=protocol, speed=speed, results_source=str(path))
    return scored


def _with_classes(coco: dict, count: int) -> dict:
    """The ground truth of a list with so many classes, if it has fewer."""
    if len(coco["categories"]) >= min(count, MAX_CLASSES):
        return coco
    return {**coco, "categories": category_entries(list_categories([], min(count, MAX_CLASSES)))}


def refuse_other_run(folder: Path, files: Sequence[Path]) -> None:
    """`UserError` where the metrics.json of `files` would take the place of a network's, whose detections stay."""
    own = folder / "detections.json"
    if len(files) == 1 and files[0].resolve() != own.resolve() and (weights := recorded(own)[0].get("weights")):
        raise UserError(f"{folder}: holds the evaluation of {weights}, which would be lost; give another --output")


def protocol_warnings(runs: Mapping[str, Evaluation]) -> list[str]:
    """In what the protocols of the runs differ, as far as it is recorded; where it was not, that."""
    own = ("weights", "detections", DETECTED_EMPTY)  # the first two name the detector, the last `score_files` looks at
    found, first = [], {}  # of each key the first run that recorded it
    for name, run in runs.items():
        for key, value in run.protocol.items():
            one = first.setdefault(key, name)
            if (theirs := runs[one].protocol[key]) != value and key not in own:
                found.append(f"{one} and {name}: {key} {theirs} and {value}")
    unknown = [name for name, run in runs.items() if "weights" not in run.protocol]
    if unknown and len(unknown) < len(runs):
        found.append(f"how the detections of {', '.join(unknown)} were made is not recorded")
    return found


def format_comparison(runs: Mapping[str, Evaluation]) -> str:
    """One line a detector, values in percent where they are fractions."""
    first = next(iter(runs.values()))
    width = max(len("detector"), *map(len, runs))
    confidence = first.operating_point.confidence
    head = f"{'mAP50':>6} {'[95 %]':>15} | {'P':>6} {'R':>6} {'F1':>6} | {'P':>6} {'R':>6} {'F1':>6} | "
    lines = [
        f"{first.counts.frames} frames, {first.counts.targets} targets (in %)",
        f"{'':<{width}} {'':>22} | {'published protocol':^20} | {f'confidence {confidence:g}':^20} | "
        f"{'best F1':^14} | {'centre distance':^23}",
        f"{'detector':<{width}} {head}{'F1':>6} {'at':>7} | {'Pd':>6} {'FA/frame':>9} {'Pd@0.1':>6}",
    ]
    for name, run in runs.items():
        low_high = "[{:.1f}, {:.1f}]".format(*(100 * v for v in run.intervals["mAP50"])) if run.intervals else ""
        published, point, best = run.published, run.operating_point, run.best_f1
        values = (published.precision, published.recall, published.f1), (point.precision, point.recall, point.f1)
        parts = [" ".join(f"{100 * value:6.2f}" for value in group) for group in values]
        lines.append(
            f"{name:<{width}} {100 * published.mAP50:6.2f} {low_high:>15} | {' | '.join(parts)} | "
            f"{100 * best.f1:6.2f} {best.confidence:7.3f} | {100 * run.pd_fa.pd:6.2f} "
            f"{run.pd_fa.false_alarms_per_frame:9.4f} {100 * run.pd_fa_curve.pd_at['0.1']:6.2f}"
        )
    lines.append("Pd@0.1: the highest Pd with at most 0.1 false alarms per frame")
    return "\n".join(lines)


def comparison_rows(runs: Mapping[str, Evaluation]) -> list[dict[str, object]]:
    """The rows of comparison.csv; all metrics are fractions."""
    rows = []
    for name, run in runs.items():
        published, point, best = run.published, run.operating_point, run.best_f1
        low, high = run.intervals.get("mAP50", ("", ""))
        values = (
            name, published.mAP50, low, high, published.precision, published.recall, published.f1,
            point.precision, point.recall, point.f1, best.f1, best.confidence, run.pd_fa.pd,
            run.pd_fa.false_alarms_per_frame, run.pd_fa_curve.pd_at["0.1"],
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def write_results(runs: Mapping[str, Evaluation], folder: Path) -> Path:
    """metrics.json of one run; of several comparison.json, metrics by name, and comparison.csv, a row each.

    Detections in the same folder are recorded by their bare name: it holds where the folder moves.
    """
    for run in runs.values():
        if Path(run.protocol.get("detections", "")).parent == folder.resolve():
            run.protocol["detections"] = Path(run.protocol["detections"]).name
    if len(runs) == 1:
        return write_metrics(next(iter(runs.values())), folder)
    path = folder / "comparison.json"
    write_json(path, {name: run.to_json() for name, run in runs.items()})
    table = path.with_suffix(".csv")
    try:
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(comparison_rows(runs))
    except OSError as error:
        raise UserError(f"{table}: cannot be written ({error.strerror}); choose another --output") from None
    return path


def format_results(runs: Mapping[str, Evaluation]) -> str:
    """The report of one run, or the table of several."""
    return format_report(next(iter(runs.values()))) if len(runs) == 1 else format_comparison(runs)
