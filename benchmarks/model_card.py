"""Measure the project's own weights and write docs/model_card.md's tables from the result files.

python -m benchmarks.model_card --name drone_ir --data-root datasets/drone_ir
python -m benchmarks.model_card --name DAUB --data-root datasets/DAUB --annotations test.json
python -m benchmarks.model_card                           # the tables alone, from docs/results/card

Each data set is one command, so that an evaluation of hours need not be done at one go.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vid_map_coco
from benchmarks.results import (
    DOCS,
    RESULTS,
    contrast_table,
    fill_file,
    interval,
    percent,
    read_result,
    rounded,
    sequence_table,
    shorten,
    table,
    write_result,
)
from utils.checkpoint import DEFAULT_WEIGHTS, load_network
from utils.cli import Unset, UserError, run_command
from utils.json_files import read_json
from utils.published_curves import DATASETS, load_published_curves
from vid_predict import CONFIDENCE

CARD = DOCS / "model_card.md"
DATA = {  # name of a result file -> what the card calls the data
    "drone_ir": "drone_ir, frames 1 to 50 of 10 held-back videos",
    "drone_ir_whole": "drone_ir, the same videos whole",
    "synthetic_easy": "synthetic, preset easy, held back",
    "synthetic_daub": "synthetic, preset daub, held back",
    "synthetic_hard": "synthetic, preset hard, held back",
    "DAUB": "DAUB, real test frames, never trained on DAUB",
    "IRDST": "IRDST, sequence 6, never trained on IRDST",
}
SYNTHETIC = [name for name in DATA if name.startswith("synthetic")]
BY_SEQUENCE = ("drone_ir", "drone_ir_whole", "DAUB", "IRDST")
MISSING = "Not measured yet."


@dataclass
class Config:
    """Measure the project's weights on a data set and fill the model card; without --name fill it alone."""

    name: (
        Literal["drone_ir", "drone_ir_whole", "synthetic_easy", "synthetic_daub", "synthetic_hard", "DAUB", "IRDST"]
        | None
    ) = None
    """The data set, as the card knows it."""
    data_root: Unset[Path] = None
    """Folder that the frame paths of its annotations are relative to."""
    annotations: Unset[Path] = None
    """COCO JSON or annotation list; default: annotations/instances_test2017.json of the data root."""
    weights: Path = DEFAULT_WEIGHTS
    """The weight file that the card is about."""
    key_frame: bool = True
    """Evaluate once more with the key frame repeated: what a single frame gives."""
    output: Path = Path("runs/model_card")
    """Folder for the detections and the whole report of each evaluation."""
    results: Path = RESULTS / "card"
    """Folder of the result files."""
    card: Path = CARD
    """The page to fill."""
    device: str = "auto"
    """Where the network runs: auto (a GPU if there is one), cpu, cuda, cuda:1."""


def main(config: Config) -> None:
    """Measure, if asked to, and fill the page."""
    if (config.name is None) != (config.data_root is None):
        raise UserError("give --name and --data-root together, or neither to fill the card from the result files alone")
    if config.name:
        measure(config)
    fill_file(config.card, card_tables(read_results(config.results)))
    print(f"filled {config.card} from {config.results}")


def measure(config: Config) -> None:
    """Evaluate the weights as vid_map_coco.py does and keep the result in short."""
    network = load_network(config.weights)
    confidence = CONFIDENCE if network.confidence is None else network.confidence
    digest = hashlib.sha256(config.weights.read_bytes()).hexdigest()
    folder = config.output / config.name
    whole = _evaluate(config, folder, confidence, repeat_key_frame=False)
    content = shorten(whole, data=DATA[config.name], weights_sha256=digest)
    if config.key_frame:
        single = _evaluate(config, folder / "key_frame", confidence, repeat_key_frame=True)
        content["key_frame_repeated"] = rounded({name: single[name] for name in ("published", "pd_fa")})
    about = {
        "weights_sha256": digest,
        "file": config.weights.name,
        "bytes": config.weights.stat().st_size,
        "architecture": network.model.architecture,
        "class_names": network.class_names,
        "input_size": network.input_size,
        "frame_scales": network.frame_scales,
        "confidence": confidence,
        "provenance": network.provenance,
    }
    write_result(config.results / f"{config.name}.json", content)
    write_result(config.results / "weights.json", about)


def _evaluate(config: Config, folder: Path, confidence: float, repeat_key_frame: bool) -> Mapping[str, Any]:
    """The metrics.json of one evaluation; its report is for the whole clip alone."""
    vid_map_coco.main(
        vid_map_coco.Config(
            weights=config.weights, data_root=config.data_root, annotations=config.annotations, output=folder,
            device=config.device, confidence=confidence, repeat_key_frame=repeat_key_frame,
            report=not repeat_key_frame, speed_frames=0, published="none",
        )
    )  # fmt: skip
    return read_json(folder / "metrics.json", "metrics")


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Result files of the weights measured last, by name, `weights` among them; others are named and left out."""
    found = {name: read_result(folder / f"{name}.json") for name in ("weights", *DATA)}
    found = {name: content for name, content in found.items() if content is not None}
    own = found.get("weights", {}).get("weights_sha256")
    old = [name for name, content in found.items() if content["weights_sha256"] != own]
    if old:
        print(f"note: {', '.join(old)}: measured with other weights than the last, left out", file=sys.stderr)
    return {name: content for name, content in found.items() if name not in old}


def card_tables(results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The tables of the card by their names in the page."""
    measured = {name: results[name] for name in DATA if name in results}
    contrasts = {DATA[name].split(", ")[1]: measured[name] for name in SYNTHETIC if name in measured}
    return {
        "weights": weights_table(results["weights"]) if "weights" in results else MISSING,
        "summary": summary_table(measured) if measured else MISSING,
        "contrast": contrast_table(contrasts) if contrasts else MISSING,
        **{name: sequence_table(measured[name]) if name in measured else MISSING for name in BY_SEQUENCE},
        "published": published_table(),
    }


def weights_table(about: Mapping[str, Any]) -> str:
    """What the weight file says of itself."""
    made, network = about["provenance"], about["architecture"]
    chosen = made.get("settings", {}).items()
    settings = " ".join(f"`{_flag(name, value)}`" for name, value in chosen)
    version = f"revision {made['revision']}, torch {made['torch']}" if made.get("revision") else "not recorded"
    apart = network.get("frame_interval", 1)
    frames = f"{network['num_frames']}" + (f", frames {apart} apart" if apart > 1 else "")
    size = f"T = {frames}, depth {network['depth']}, width {network['width']}"
    rows = [
        ("file", f"`{about['file']}`, {about['bytes'] / 1e6:.1f} MB, SHA-256 `{about['weights_sha256'][:16]}…`"),
        ("network", f"{size}, without motion branch"),
        ("classes", ", ".join(about["class_names"])),
        ("input", "{} x {}".format(*about["input_size"]) + _scales(about["frame_scales"])),
        ("confidence shown from", f"{about['confidence']:g}"),
        ("trained on", made.get("data") or "not recorded"),
        ("settings other than the defaults", settings or "none recorded"),
        ("epochs done", made.get("epochs_done") or "not recorded"),
        ("trained by", version),
        *([("BatchNorm's statistics", made["statistics"])] if "statistics" in made else []),
    ]
    return table(("", ""), rows, words=2)


def _flag(name: str, value: object) -> str:
    """A setting as it is typed."""
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{'' if value else 'no-'}{name}"
    return f"--{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"


def _scales(scales: list[float] | None) -> str:
    return "" if scales is None else f", frames enlarged {scales[0]:g} to {scales[1]:g} times"


def summary_table(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each data set."""
    head = ("data", "frames", "mAP50", "95 %", "key frame repeated")
    head += ("at confidence", "P", "R", "Pd", "false alarms a frame")
    rows = []
    for name, result in measured.items():
        point, single = result["operating_point"], result.get("key_frame_repeated")
        rows.append((
            DATA[name], result["counts"]["frames"], percent(result["published"]["mAP50"]),
            interval(result["intervals"].get("mAP50")), percent(single and single["published"]["mAP50"]),
            f"{point['confidence']:g}", percent(point["precision"]), percent(point["recall"]),
            percent(result["pd_fa"]["pd"]), f"{result['pd_fa']['false_alarms_per_frame']:.3f}",
        ))  # fmt: skip
    return table(head, rows)


def published_table() -> str:
    """mAP50 of published curves (their means): SSTNet's and the best other method's."""
    rows = []
    for dataset in DATASETS:
        curves = load_published_curves(dataset)
        means = {method: float(np.mean(curve)) for method, curve in curves.curves.items()}
        best = max((method for method in means if method != "SSTNet"), key=means.get)
        rows.append((dataset, curves.test_frames or "", percent(means["SSTNet"]), f"{percent(means[best])} ({best})"))
    return table(("whole test set of", "frames", "SSTNet, as published", "best of the others"), rows)


if __name__ == "__main__":
    run_command(main, Config)
