"""report.html: the tables, figures and gallery of an evaluation in one file that needs no network.

Pictures are data URIs; the layout folds to one column on a phone.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from utils.cli import UserError, as_text
from utils.drawing import COLOURS
from utils.evaluation_metrics import Evaluation, TargetBin
from utils.evaluation_report import bin_name
from utils.gallery import ANNOTATED, UNSURE, Strip
from utils.pd_fa import CENTRE_DISTANCE

FIGURES = {
    "pr_curve": "Precision over recall at IoU 0.5. Published curves, if any, are those of whole test sets.",
    "pd_fa_curve": "Detection probability over false alarms per frame; the dot is the stated confidence.",
    "ap_by_sequence": "AP50 of every sequence, the worst on top.",
    "confidence": "Detections by confidence: how many hit a target and how many hit none.",
}
KEY = '<span class="key" style="border-color:{}"></span>{}'
LEGEND = (
    "Each row is the clip that ends at the frame of the failure. Frame lines: "
    + ", ".join(
        KEY.format("rgb({},{},{})".format(*colour), what)
        for colour, what in (
            (ANNOTATED, "annotated and found"),
            (COLOURS["miss"], "annotated and missed"),
            (COLOURS["hit"], "detection that hits (corners)"),
            (COLOURS["false alarm"], "false alarm (corners)"),
            (UNSURE, "best detection below the stated confidence (corners)"),
        )
    )
    + ". Numbers are confidences."
)
STYLE = """
:root{color-scheme:light}
*{box-sizing:border-box}
body{font:16px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#1a1a1a;background:#fff;margin:0 auto;
  padding:16px;max-width:1080px}
h1{font-size:1.5em;margin:.2em 0}
h2{font-size:1.2em;margin:1.8em 0 .6em;border-bottom:1px solid #ccc;padding-bottom:.2em}
p,figcaption,li{color:#444}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;white-space:nowrap}
th,td{padding:4px 10px;text-align:right;border-bottom:1px solid #e2e2e2}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:#fff}
.words td:last-child{text-align:left;white-space:normal;overflow-wrap:anywhere}
th{font-weight:600;border-bottom:2px solid #888}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px}
.tile{border:1px solid #d5d5d5;border-radius:8px;padding:10px 12px}
.tile b{display:block;font-size:1.6em;font-variant-numeric:tabular-nums}.tile span{color:#555;font-size:.86em}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:24px;align-items:start}
figure{margin:0}figure>img{width:100%;height:auto}
figcaption{font-size:.9em}
.case{margin:0 0 1.6em}.case h3{font-size:1em;margin:0}.case p{margin:.1em 0 .4em;font-size:.92em}
.strip{display:grid;grid-auto-flow:column;grid-auto-columns:1fr;gap:6px}
.strip figure{min-width:0}.strip img{width:100%;height:auto;display:block;image-rendering:pixelated}
.strip figcaption{font-size:.78em;overflow-wrap:anywhere}
.key{display:inline-block;width:.9em;height:.9em;border:2px solid;background:#444;vertical-align:-.1em;
  margin-right:.3em}
@media(max-width:640px){
  body{padding:12px}
  table{font-size:.8em}th,td{padding:4px 6px}
  th{white-space:normal}
  .strip{grid-auto-flow:row;grid-template-columns:repeat(4,1fr)}
  .strip figure:last-child{grid-column:1/-1;order:-1}
}
"""


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the gallery."""

    title: str
    strips: Sequence[Strip]


def save_report(
    path: Path, runs: Mapping[str, Evaluation], figures: Mapping[str, Path], gallery: Sequence[Section] = ()
) -> None:
    """Write the report of one evaluation, or the comparison of several; `figures`: their PNG paths by name."""
    first = next(iter(runs.values()))
    parts = [_summary(first)] if len(runs) == 1 else [_comparison(runs)]
    parts.append(_figures(figures))
    if len(runs) == 1:
        parts += [_sequences(first), _bins("Targets by size", "side of the box, pixels", first.per_size)]
        parts.append(_bins("Targets by contrast", "signal-to-clutter ratio", first.per_scr))
    parts += [_section(section) for section in gallery if section.strips]
    parts.append(_protocol(runs))
    title = "Evaluation of " + (next(iter(runs)) if len(runs) == 1 else f"{len(runs)} detectors")
    counted = f"{first.counts.frames} frames, {first.counts.targets} targets, {first.counts.detections} detections"
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1><p>{counted if len(runs) == 1 else counted.rpartition(',')[0]}</p>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )
    try:
        path.write_text(as_text(page), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --output") from None


def _summary(run: Evaluation) -> str:
    """The headline figures as tiles, and the three ways to read the same detections as a table."""
    point, pd_fa, published, coco = run.operating_point, run.pd_fa, run.published, run.coco
    at = f"at confidence {point.confidence:g}"
    tiles = [
        ("mAP50, %", _percent(published.mAP50), _interval(run, "mAP50")),
        ("precision, %", _percent(point.precision), _interval(run, "precision")),
        ("recall, %", _percent(point.recall), _interval(run, "recall")),
        ("F1, %", _percent(point.f1), _interval(run, "f1")),
        ("Pd, %", _percent(pd_fa.pd), _interval(run, "pd")),
        ("false alarms a frame", f"{pd_fa.false_alarms_per_frame:.3f}", _false_alarm_interval(run)),
    ]
    html = f'<p>{at[0].upper() + at[1:]}, mAP50 over all:</p><div class="tiles">' + "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{value}</b><span>{note}</span></div>'
        for name, value, note in tiles
    )
    best = run.best_f1
    rows = [
        ["published protocol*", *map(_percent, (published.precision, published.recall, published.f1))],
        [f"confidence {point.confidence:g}", *map(_percent, (point.precision, point.recall, point.f1))],
        [f"best F1 (confidence {best.confidence:.3f})", *map(_percent, (best.precision, best.recall, best.f1))],
    ]
    table = _table(["IoU 0.5, %", "precision", "recall", "F1"], rows)
    names = ("AP", "AP50", "AP75", "AP_small", "AR100")
    second = _table(["COCO, %", *names], [["boxes", *(_percent(getattr(coco, name)) for name in names)]])
    rates = ", ".join(f"{_percent(pd)} % with at most {rate}" for rate, pd in run.pd_fa_curve.pd_at.items())
    megapixel = pd_fa.false_alarms_per_megapixel
    alarms = "" if megapixel is None else f" False alarms per million pixels {at}: {megapixel:.3f}."
    words = (
        "<p>* Its precision is a mean over the precision-recall curve, not an operating point. Brackets: 95 % "
        "intervals by drawing the sequences anew. Pd: targets with a detection within "
        f"{CENTRE_DISTANCE:g} pixels of the centre; false alarms are boxes that hit nothing, not the false "
        f"pixels (Fa) of segmentation papers. Best Pd by false alarms per frame: {rates}.{alarms}</p>"
    )
    return f"{html}</div>\n<h2>Tables</h2>{table}<br>{second}{words}"


def _comparison(runs: Mapping[str, Evaluation]) -> str:
    first = next(iter(runs.values()))
    head = ["%", "mAP50", "95 %", "P", "R", "F1", "best F1", "Pd", "false alarms per frame", "Pd at 0.1 per frame"]
    rows = [
        [
            name,
            _percent(run.published.mAP50),
            _interval(run, "mAP50"),
            *map(_percent, (run.operating_point.precision, run.operating_point.recall, run.operating_point.f1)),
            _percent(run.best_f1.f1),
            _percent(run.pd_fa.pd),
            f"{run.pd_fa.false_alarms_per_frame:.3f}",
            _percent(run.pd_fa_curve.pd_at["0.1"]),
        ]
        for name, run in runs.items()
    ]
    words = (
        f"<p>P, R, F1, Pd and false alarms at confidence {first.operating_point.confidence:g}; P, R and F1 by IoU "
        f"0.5, Pd and false alarms by centres within {CENTRE_DISTANCE:g} pixels.</p>"
    )
    return f"<h2>Comparison</h2>{_table(head, rows)}{words}"


def _figures(figures: Mapping[str, Path]) -> str:
    """The figures as SVG, sharp at any size."""
    items = []
    for name, path in figures.items():
        data = base64.b64encode(path.with_suffix(".svg").read_bytes()).decode()
        picture = f'<img alt="{escape(FIGURES[name])}" src="data:image/svg+xml;base64,{data}">'
        items.append(f"<figure>{picture}<figcaption>{escape(FIGURES[name])}</figcaption></figure>")
    return f'<h2>Figures</h2><div class="figures">{"".join(items)}</div>'


def _sequences(run: Evaluation) -> str:
    head = ["sequence", "frames", "targets", "AP50", "P", "R", "Pd", "false alarms per frame"]
    rows = [
        [name, str(s.frames), str(s.targets), *map(_percent, (s.mAP50, s.precision, s.recall, s.pd)),
         f"{s.false_alarms_per_frame:.3f}"]
        for name, s in run.per_sequence.items()
    ]  # fmt: skip
    return f"<h2>Sequences</h2>{_table(head, rows)}"


def _bins(title: str, what: str, bins: Sequence[TargetBin]) -> str:
    """Recall and Pd by size or contrast; nothing where nothing is known."""
    if not bins:
        return ""
    rows = [
        [bin_name(b), str(b.targets), _percent(b.recall), _percent(b.pd)]
        for b in bins
    ]
    return f"<h2>{title}</h2>{_table([what, 'targets', 'recall', 'Pd'], rows)}"


def _section(section: Section) -> str:
    cases = []
    for strip in section.strips:
        cells = "".join(
            f'<figure><img alt="{escape(cell.name)}" src="{_png(cell.picture)}">'
            f"<figcaption>{escape(cell.name)}</figcaption></figure>"
            for cell in strip.cells
        )
        cases.append(
            f'<div class="case"><h3>{escape(strip.title)}</h3><p>{escape(strip.text)}</p>'
            f'<div class="strip">{cells}</div></div>'
        )
    return f"<h2>{escape(section.title)}</h2><p>{LEGEND}</p>{''.join(cases)}"


def _protocol(runs: Mapping[str, Evaluation]) -> str:
    """How the detections were made and timed, and what the figures leave out."""
    parts = []
    for name, run in runs.items():
        pairs = [*run.protocol.items(), *((f"speed: {key}", value) for key, value in run.speed.items())]
        rows = [[key.replace("_", " "), _plain(value)] for key, value in pairs]
        notes = "".join(f"<li>{escape(note)}</li>" for note in run.notes)
        heading = f"<h3>{escape(name)}</h3>" if len(runs) > 1 else ""
        parts.append(f"{heading}{_table(['protocol', ''], rows, 'words')}{f'<ul>{notes}</ul>' if notes else ''}")
    return f"<h2>Protocol</h2>{''.join(parts)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="{kind}"><tr>{top}</tr>{body}</table></div>'


def _png(picture: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _interval(run: Evaluation, name: str) -> str:
    return "[{:.1f}, {:.1f}]".format(*(100 * value for value in run.intervals[name])) if run.intervals else ""


def _false_alarm_interval(run: Evaluation) -> str:
    return "[{:.3f}, {:.3f}]".format(*run.intervals["false_alarms_per_frame"]) if run.intervals else ""


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return " x ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
