"""Printing, writing and finding again of evaluations, shared by the commands that score detections."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from utils.cli import UserError
from utils.evaluation_metrics import Evaluation, OperatingPoint, TargetBin
from utils.json_files import read_json, write_json
from utils.pd_fa import CENTRE_DISTANCE


def make_folder(path: Path, flag: str = "--output") -> None:
    """Make an output folder to write into before the work begins; `UserError` where that is impossible. `flag` names
    it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be made or written ({error.strerror}); choose another {flag}") from None


def format_report(evaluation: Evaluation) -> str:
    """The tables of one evaluation as text, values in percent where they are fractions."""
    counts, coco, published = evaluation.counts, evaluation.coco, evaluation.published
    pd_fa, confidence = evaluation.pd_fa, evaluation.operating_point.confidence
    megapixel = _number(pd_fa.false_alarms_per_megapixel)
    lines = [
        f"{counts.frames} frames, {counts.targets} targets, {counts.detections} detections (tables in %)",
        "",
        f"COCO                AP {_percent(coco.AP)}  AP50 {_percent(coco.AP50)}  AP75 {_percent(coco.AP75)}"
        f"  AP small {_percent(coco.AP_small)}  AR100 {_percent(coco.AR100)}",
        f"published protocol  mAP50 {_percent(published.mAP50)}  P {_percent(published.precision)}"
        f"  R {_percent(published.recall)}  F1 {_percent(published.f1)}  (P: a mean over the PR curve)",
        f"operating point     {_point(evaluation.operating_point)}",
        f"best F1             {_point(evaluation.best_f1)}",
        f"Pd, false alarms    Pd {_percent(pd_fa.pd)}  {pd_fa.false_alarms_per_frame:.4f} false alarms per "
        f"frame, {megapixel} per megapixel, at confidence {confidence:.3f}",
        f"                    (centres within {CENTRE_DISTANCE:g} pixels; alarms: boxes that hit nothing, "
        "not the Fa of false pixels)",
        f"                    best Pd {_rates(evaluation)}",
        *_intervals(evaluation),
        "",
        *_sequence_table(evaluation),
        *_bin_table("size (side, pixels)", evaluation.per_size),
        *_bin_table("contrast (SCR)", evaluation.per_scr),
    ]
    if evaluation.speed:
        lines += ["", *(f"speed: {name} {_value(value)}" for name, value in evaluation.speed.items())]
    return "\n".join([*lines, *(f"note: {note}" for note in evaluation.notes)])


def write_metrics(evaluation: Evaluation, folder: Path) -> Path:
    """Write `metrics.json` into the folder and return its path."""
    path = folder / "metrics.json"
    write_json(path, evaluation.to_json())
    return path


def recorded(detections: Path) -> tuple[dict, dict]:
    """How a detections.json of `vid_map_coco.py` was made, and how fast: what the metrics.json beside it says of them.

    A metrics.json that names another file of detections is of a comparison written there, and says nothing of this one.
    """
    metrics = detections.with_name("metrics.json")
    if detections.name != "detections.json" or not metrics.is_file():
        return {}, {}
    content = read_json(metrics, "metrics")
    protocol = content.get("protocol") if isinstance(content, dict) else None
    if not isinstance(protocol, dict) or "weights" not in protocol:
        return {}, {}
    about = metrics.parent / str(protocol.get("detections", detections.name))  # a bare name is of the same folder
    if about.resolve() != detections.resolve():
        return {}, {}
    speed = content.get("speed")
    return protocol, speed if isinstance(speed, dict) else {}


def is_evaluation(folder: Path) -> bool:
    """Whether a folder has a metrics.json or comparison.json of ours."""
    for name in ("metrics.json", "comparison.json"):
        if (folder / name).is_file():
            content = read_json(folder / name, name.removesuffix(".json"))
            runs = [content, *content.values()] if isinstance(content, dict) else []
            if any(isinstance(run, dict) and "protocol" in run for run in runs):
                return True
    return False


def _sequence_table(evaluation: Evaluation) -> list[str]:
    width = max([len("sequence"), *map(len, evaluation.per_sequence)])
    rows = [
        f"{'sequence':<{width}} {'frames':>7} {'targets':>7} {'mAP50':>6} {'P':>6} {'R':>6} {'Pd':>6} "
        f"{'FA/frame':>9} {'FA/Mpix':>9}"
    ]
    for name, s in evaluation.per_sequence.items():
        rows.append(
            f"{name:<{width}} {s.frames:>7} {s.targets:>7} {_percent(s.mAP50)} {_percent(s.precision)} "
            f"{_percent(s.recall)} {_percent(s.pd)} {s.false_alarms_per_frame:>9.4f} "
            f"{_number(s.false_alarms_per_megapixel):>9}"
        )
    return rows


def _rates(evaluation: Evaluation) -> str:
    """The best Pd that a number of false alarms allows."""
    rates = evaluation.pd_fa_curve.pd_at.items()
    return ", ".join(f"{_percent(pd).strip()} at {rate}" for rate, pd in rates) + " false alarms per frame"


def _intervals(evaluation: Evaluation) -> list[str]:
    """The 95 % intervals of the headline figures in a line, or none."""
    if not evaluation.intervals:
        return []
    names = {"mAP50": "mAP50", "precision": "P", "recall": "R", "f1": "F1", "pd": "Pd"}
    parts = [
        "{} {:.1f} to {:.1f}".format(name, *(100 * value for value in evaluation.intervals[key]))
        for key, name in names.items()
    ]
    alarms = "false alarms per frame {:.3f} to {:.3f}".format(*evaluation.intervals["false_alarms_per_frame"])
    sequences = len(evaluation.per_sequence)
    return [
        f"95 % intervals      {', '.join(parts)},",
        f"                    {alarms}, by drawing {sequences} sequences",
    ]


def _bin_table(title: str, bins: Sequence[TargetBin]) -> list[str]:
    """Recall and Pd of targets by size or contrast, or no line."""
    if not bins:
        return []
    rows = [f"{title:<20} {'targets':>8} {'R':>6} {'Pd':>6}"]
    for b in bins:
        rows.append(f"{bin_name(b):<20} {b.targets:>8} {_percent(b.recall)} {_percent(b.pd)}")
    return ["", *rows]


def bin_name(b: TargetBin) -> str:
    """Such as `5 to 8`, the lower end included."""
    return f"{b.least:g} or more" if b.below is None else f"{b.least:g} to {b.below:g}"


def _point(point: OperatingPoint) -> str:
    return (
        f"P {_percent(point.precision)}  R {_percent(point.recall)}  F1 {_percent(point.f1)}"
        f"  at confidence {point.confidence:.3f} (IoU 0.5)"
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:6.2f}"


def _value(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
