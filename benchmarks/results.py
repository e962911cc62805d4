"""Result files under docs/results and the tables of the docs that are made of them.

A result file is what a metrics.json says in short, with the command that gives it again. A page holds tables between
two marks, `<!-- table: NAME -->` and `<!-- end -->`; `fill` writes them anew, and a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.cli import UserError
from utils.evaluation_metrics import TargetBin
from utils.evaluation_report import bin_name, make_folder
from utils.json_files import read_json, whole_file, write_json
from utils.runlog import environment

DOCS = Path(__file__).resolve().parents[1] / "docs"
RESULTS = DOCS / "results"
TABLE = re.compile(r"(?P<start><!-- table: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
PLACES = ("weights", "detections")  # of a protocol: paths of somebody's machine


def shorten(metrics: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """What a result file keeps of a metrics.json (four digits), after `facts` of its own and the versions."""
    versions = environment()
    kept = {
        "protocol": {name: value for name, value in metrics["protocol"].items() if name not in PLACES},
        **{name: metrics[name] for name in ("counts", "published", "operating_point", "best_f1", "pd_fa")},
        "pd_at": metrics["pd_fa_curve"]["pd_at"],
        **{name: metrics[name] for name in ("intervals", "per_sequence", "per_scr")},
    }
    return {**facts, "revision": versions["git"], "torch": versions["packages"]["torch"], **rounded(kept)}


def rounded(value: Any) -> Any:
    """JSON-like values with four digits after the point."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: rounded(entry) for name, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, list | tuple) else value


def write_result(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result file, whole or not at all; `UserError` where that is impossible."""
    make_folder(path.parent)
    write_json(path, content, indent=1)


def read_result(path: Path) -> dict[str, Any] | None:
    """The content of a result file; None where it has not been made yet."""
    return read_json(path, "result") if path.is_file() else None


def fill(page: str, tables: Mapping[str, str | None], source: str) -> str:
    """A page with its tables written anew, but for those of None, which stay; `UserError` where page and tables do not
    have the same names."""
    names = [match["name"] for match in TABLE.finditer(page)]
    if sorted(names) != sorted(tables):
        raise UserError(
            f"{source}: has marks of the tables {', '.join(names) or 'none'}, and there are {', '.join(tables)}; "
            "write <!-- table: NAME --> and <!-- end --> for each once"
        )


    def anew(match: re.Match) -> str:
        table = tables[match["name"]]
        return match[0] if table is None else f"{match['start']}{table}\n{match['end']}"

    return TABLE.sub(anew, page)


def fill_file(path: Path, tables: Mapping[str, str | None]) -> None:
    """Write the tables of a page anew."""
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); it is part of the project") from None
    with whole_file(path) as file:
        file.write(fill(page, tables, str(path)))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], words: int = 1) -> str:
    """A Markdown table whose first `words` columns are aligned to the left, the others to the right."""
    rule = ["---" if column < words else "---:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (head, rule, *rows))


def percent(fraction: float | None) -> str:
    """Such as 81.3; nothing for None."""
    return "" if fraction is None else f"{100 * fraction:.1f}"


def interval(low_high: Sequence[float] | None) -> str:
    """Such as 75.2 to 88.0."""
    return "" if not low_high else f"{percent(low_high[0])} to {percent(low_high[1])}"


def sequence_table(result: Mapping[str, Any]) -> str:
    """The sequences of a result; precision, recall, Pd and false alarms at its confidence."""
    rows = [
        (name, s["frames"], s["targets"], percent(s["mAP50"]), percent(s["precision"]), percent(s["recall"]),
         percent(s["pd"]), f"{s['false_alarms_per_frame']:.3f}")
        for name, s in result["per_sequence"].items()
    ]  # fmt: skip
    return table(("sequence", "frames", "targets", "mAP50", "P", "R", "Pd", "false alarms a frame"), rows)


def contrast_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Pd by signal-to-clutter ratio, a column for each result; in brackets the number of targets."""
    bins = {entry["least"]: entry for result in results.values() for entry in result["per_scr"]}
    rows = []
    for least in sorted(bins):
        cells = []
        for result in results.values():
            own = next((entry for entry in result["per_scr"] if entry["least"] == least), None)
            cells.append("" if own is None else f"{percent(own['pd'])} ({own['targets']})")
        rows.append((bin_name(TargetBin(**bins[least])), *cells))
    return table(("SCR", *results), rows)
