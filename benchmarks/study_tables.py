"""The tables of docs/study.md, made of the result files of the study and of the classical baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, interval, percent, read_result, table
from utils.cli import UserError
from utils.evaluation_metrics import TargetBin
from utils.evaluation_report import bin_name

NOT_RUN = "not run yet"
LABELS = {  # in the order of the table
    "base": "T = 5, S x L = 1 x 1, motion weight 1, gate: the base",
    "key_frame": "the base's network, key frame repeated",
    "frames_3": "T = 3",
    "frames_7": "T = 7",
    "interval_2": "T = 5, every second frame",
    "motion_0": "no motion term",
    "motion_0.3": "motion weight 0.3",
    "stack_1x2": "S x L = 1 x 2",
    "stack_2x1": "S x L = 2 x 1",
    "stack_2x2": "S x L = 2 x 2",
    "stack_3x2": "S x L = 3 x 2",
    "no_gate": "neck without gate",
}
CLASSICAL = {  # result file -> its name in the table
    "top-hat": "white top-hat, 3 x 3 ellipse",
    "max-median": "max-median, 5 pixels",
}

Seeds = dict[int, Mapping[str, Any]]  # seed -> result


def study_tables(folder: Path, classical: Path = RESULTS / "classical") -> dict[str, str | None]:
    """The tables of the page by their names; None for one that the folder has no results of."""

    def rows(name: str, by: str) -> str | None:
        return row_table(read_rows(folder / name), by) if (folder / name).is_dir() else None

    return {
        "hard": rows("hard", by="contrast"),
        "hard-recalibrated": rows("hard_recalibrated", by="contrast"),
        "daub": rows("daub", by="sequence"),
        "daub-recalibrated": rows("daub_recalibrated", by="sequence"),
        "classical-test": classical_table(classical, "daub_test"),
        "classical-train": classical_table(classical, "daub_train"),
    }


def read_rows(folder: Path) -> dict[str, Seeds]:
    """The results of each row by seed; `UserError` where they are of several data sets or schedules."""
    rows: dict[str, Seeds] = {}
    for name in LABELS:
        found = [read_result(path) for path in sorted(folder.glob(f"{name}_seed*.json"))]
        rows[name] = {result["seed"]: result for result in found}
    everything = [result for seeds in rows.values() for result in seeds.values()]
    kinds = {(r["counts"]["frames"], r["counts"]["targets"], r["training_frames"], r["data"]) for r in everything}
    if len(kinds) > 1:
        raise UserError(f"{folder}: results on different data; a table needs all of one, remove the others")
    return rows


def row_table(rows: Mapping[str, Seeds], by: str) -> str:
    """A line for each row: mean and range over the seeds, the difference from the base seed by seed, and the parts."""
    parts = list(dict.fromkeys(name for seeds in rows.values() for r in seeds.values() for name in _parts(r, by)))
    head = ("", "seeds", "mAP50", "lowest to highest", "95 % (sequences)", "against the base", "says", *parts)
    lines = []
    for name, label in LABELS.items():
        seeds = rows[name]
        if not seeds:
            lines.append((label, 0, NOT_RUN, *[""] * (len(head) - 3)))
            continue
        values = [result["published"]["mAP50"] for result in seeds.values()]
        shares = [_parts(result, by) for result in seeds.values()]
        means = [_mean([share[part] for share in shares if part in share]) for part in parts]
        lines.append((
            label, len(seeds), percent(_mean(values)), interval((min(values), max(values))), _ends(seeds),
            *_against(seeds, rows["base"] if name != "base" else {}), *map(percent, means),
        ))  # fmt: skip
    return table(head, lines)


def _against(seeds: Seeds, base: Seeds) -> tuple[str, str]:
    """Difference of mAP50 from the base in points, mean and range over the shared seeds, and what it says."""
    shared = [seed for seed in seeds if seed in base]
    differences = [100 * (seeds[s]["published"]["mAP50"] - base[s]["published"]["mAP50"]) for s in shared]
    if not differences:
        return "", ""
    text = f"{_mean(differences):+.1f} ({min(differences):+.1f} to {max(differences):+.1f})"
    if len(differences) < 3:
        return text, "too few seeds"
    if min(differences) > 0 or max(differences) < 0:
        return text, "better" if min(differences) > 0 else "worse"
    return text, "nothing"


def _ends(seeds: Seeds) -> str:
    """The ends of the bootstrap intervals, each the mean over the seeds."""
    intervals = [result["intervals"]["mAP50"] for result in seeds.values() if result["intervals"]]
    return interval([_mean([ends[side] for ends in intervals]) for side in (0, 1)]) if intervals else ""


def _parts(result: Mapping[str, Any], by: str) -> dict[str, float]:
    """Pd by contrast, or mAP50 by sequence, under the heading of its column."""
    if by == "contrast":
        return {f"Pd, SCR {bin_name(TargetBin(**entry))}": entry["pd"] for entry in result["per_scr"]}
    return {name: sequence["mAP50"] for name, sequence in result["per_sequence"].items()}


def classical_table(folder: Path, frames: str) -> str:
    """mAP50 of the filters, of all frames and by sequence."""
    found = {name: read_result(folder / f"{frames}_{name}.json") for name in CLASSICAL}
    sequences = list(dict.fromkeys(name for result in found.values() if result for name in result["per_sequence"]))
    lines = []
    for name, label in CLASSICAL.items():
        result = found[name]
        if result is None:
            lines.append((label, NOT_RUN, *[""] * (len(sequences) + 1)))
            continue
        each = [percent(result["per_sequence"][sequence]["mAP50"]) for sequence in sequences]
        lines.append((label, percent(result["published"]["mAP50"]), *each, percent(result["pd_at"]["1"])))
    return table(("filter", "mAP50", *sequences, "Pd at 1 false alarm a frame"), lines)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
