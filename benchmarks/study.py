"""What is each idea worth? `make study`, or

python -m benchmarks.study                                         # on synthetic sequences of the hard preset
python -m benchmarks.study --suite daub --data-root datasets/DAUB  # on DAUB, where it is at hand
python -m benchmarks.study --recalibrated                          # the same networks, statistics of whole frames
python -m benchmarks.study --list                                  # the commands alone

Rows differ from the base in one thing and share data, schedule and seeds. Each is trained and tested by commands that
are printed; its result file under docs/results/study is what the tables of docs/study.md are made of. A row that has
its file is not run again and a broken-off one goes on, so the study may be stopped and started at any time.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vid_map_coco
from benchmarks.results import DOCS, RESULTS, fill_file, read_result, shorten, write_result
from benchmarks.study_tables import study_tables
from train_DAUB import DAUBConfig
from utils import recalibrate
from utils.annotations import load_annotations
from utils.cli import Several, Unset, UserError, parse_config, run_command
from utils.config import TrainConfig
from utils.json_files import read_json
from utils.run_state import newest_run
from utils.trainer import train
from utils_coco import make_synthetic_dataset

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """One line of the table: what it changes of the base."""

    name: str
    flags: str = ""  # of train_DAUB.py
    weights_of: str = ""  # the row whose network it tests in another way; none: it trains its own
    tested: str = ""  # flags of vid_map_coco.py


ROWS = (
    Row("base"),
    Row("key_frame", weights_of="base", tested="--repeat-key-frame"),
    Row("frames_3", "--num-frames 3"),
    Row("frames_7", "--num-frames 7"),
    Row("interval_2", "--frame-interval 2"),
    Row("motion_0", "--motion-weight 0"),
    Row("motion_0.3", "--motion-weight 0.3"),
    Row("stack_1x2", "--num-layers 2"),
    Row("stack_2x1", "--num-slices 2"),
    Row("stack_2x2", "--num-slices 2 --num-layers 2"),
    Row("stack_3x2", "--num-slices 3 --num-layers 2"),
    Row("no_gate", "--no-gate"),
)
SHARED = "--preset released --width 0.25 --flip --init kaiming --optimizer adam --lr 8e-3 --batch-size 8"
LAST_ALONE = "--val-interval 100000 --save-interval 0 --resume"  # last.pth is tested: none is chosen on the test frames


@dataclass(frozen=True)
class Suite:
    """The same data and schedule for all rows."""

    data_root: Path
    training: str  # flags of train_DAUB.py
    synthetic: str = ""  # flags of make_synthetic_dataset.py, where the data are made


HARD_DATA = "--preset hard --frames 16 --scr 2 8 --target-size 4 6 --speed 1.25 2.5 --targets 2 3 --distractors 2 4"
SUITES = {
    "hard": Suite(
        Path("runs/study/data_hard"),
        f"{SHARED} --input-size 128 128 --crop 64 --epochs 12 --epoch-share 0.4",
        f"{HARD_DATA} --sequences 96 24 --image-size 128 128 --seed 77",
    ),
    "daub": Suite(
        Path("datasets/DAUB"),
        f"{SHARED} --input-size 512 512 --crop 128 --target-share 0.5 --photometric 0.1 --epochs 10 --epoch-share 0.4",
    ),
}
QUICK = Suite(
    Path("data_quick"),
    "--preset released --width 0.0625 --input-size 64 64 --epochs 1 --epoch-share 1 --batch-size 4 --workers 0",
    "--preset easy --frames 8 --sequences 1 1 --image-size 64 64 --seed 77 --workers 1",
)  # fmt: skip


@dataclass
class Config:
    """Run the rows that have no result yet, then write the tables of docs/study.md."""

    suite: Literal["hard", "daub"] = "hard"
    """hard: synthetic sequences, made here, by contrast; daub: DAUB's frames, by sequence."""
    data_root: Unset[Path] = None
    """Folder of the data set (default: datasets/DAUB; of the hard suite runs/study/data_hard)."""
    train_list: Unset[Path] = None
    """Annotations to train on (default: the layout's own), such as those of the frames at hand."""
    test_list: Unset[Path] = None
    """Annotations to test on (default: the layout's own)."""
    rows: Several[str] = ()
    """Rows to run, such as base key_frame frames_3 (default: all)."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Every row is trained once with each."""
    recalibrated: bool = False
    """Test the networks with BatchNorm statistics of whole training frames (utils.recalibrate), a table of its own."""
    work: Path = Path("runs/study")
    """Folder for the runs and their evaluations."""
    results: Path = RESULTS / "study"
    """Folder of the result files."""
    page: Path = DOCS / "study.md"
    """The page whose tables are written."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1."""
    list: bool = False
    """Print the commands of the rows that have no result yet, and stop."""
    tables: bool = False
    """Only write the tables from the result files that there are."""
    quick: bool = False
    """The same with a tiny network, on tiny data, for one epoch: shows that it works and nothing else."""


def main(config: Config) -> None:
    """Run what is missing, row after row of a seed, so that an early stop leaves whole seeds."""
    rows = chosen_rows(config)
    if config.quick and (config.results == RESULTS / "study" or config.page == DOCS / "study.md"):
        raise UserError("--quick: measures nothing; pass a folder of its own with --results and a copy with --page")
    if not config.tables:
        suite = prepare(config)
        refuse_other_data(config, suite)
        for seed in config.seeds:
            for row in rows:
                run_row(config, suite, row, seed)
    if not config.list:
        fill_file(config.page, study_tables(config.results))
        print(f"filled {config.page} from {config.results}")


def chosen_rows(config: Config) -> list[Row]:
    """The rows asked for, in the table's order."""
    known = [row.name for row in ROWS]
    if unknown := [name for name in config.rows if name not in known]:
        raise UserError(f"--rows {' '.join(unknown)}: no such row; there are {' '.join(known)}")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise UserError("--seeds: give one seed or more, each once")
    return [row for row in ROWS if not config.rows or row.name in config.rows]


def prepare(config: Config) -> Suite:
    """The suite with its data in place."""
    suite = SUITES[config.suite]
    if config.quick:
        suite = Suite(config.work / QUICK.data_root, QUICK.training, QUICK.synthetic)
    if config.data_root:
        suite = Suite(config.data_root, suite.training)
    if suite.synthetic:
        words = ["--output", str(suite.data_root), *suite.synthetic.split()]
        if not (suite.data_root / "annotations" / "instances_test2017.json").is_file():
            show("utils_coco/make_synthetic_dataset.py", words)
            if not config.list:
                make_synthetic_dataset.main(parse_config(make_synthetic_dataset.Config, [*words, "--overwrite"]))
    return suite


def refuse_other_data(config: Config, suite: Suite) -> None:
    """`UserError` where the results that there are come of another number of training frames than these."""
    path = config.train_list or suite.data_root / "annotations" / "instances_train2017.json"
    if config.list:
        return  # nothing is made
    frames = len(load_annotations(path, suite.data_root, check_files=False).records)
    for found in sorted((config.results / table_name(config)).glob("*_seed*.json")):
        other = read_result(found)["training_frames"]
        if other != frames:
            raise UserError(
                f"{found}: of {other} training frames, and {path} has {frames}; pass the folder of your own results "
                "with --results, and a copy of docs/study.md with --page"
            )


def table_name(config: Config) -> str:
    """The folder of a table's results, and its name in the page."""
    return config.suite + "_recalibrated" * config.recalibrated


def run_row(config: Config, suite: Suite, row: Row, seed: int) -> None:
    """Train and test one row with one seed, unless its result is there."""
    path = config.results / table_name(config) / f"{row.name}_seed{seed}.json"
    own = f"{suite.training} {row.flags}".strip()
    if (found := read_result(path)) is not None:
        if (found["training"], found["tested"]) != (own, row.tested):
            raise UserError(f"{path}: made with other settings ({found['training']}); remove it to run the row again")
        return
    run_dir = config.work / config.suite / f"{row.weights_of or row.name}_seed{seed}"
    trained = next((r for r in ROWS if r.name == row.weights_of), row)
    training = training_words(config, suite, trained, seed, run_dir)
    statistics = recalibrating_words(config, suite, run_dir)
    testing = testing_words(config, suite, row, run_dir)
    show("train_DAUB.py", training)
    if config.recalibrated:
        show("-m utils.recalibrate", statistics)
    show("vid_map_coco.py", testing)
    if config.list:
        return
    frames = finish_training(parse_config(DAUBConfig, training))
    if config.recalibrated:
        recalibrate.main(parse_config(recalibrate.Config, statistics))
    vid_map_coco.main(parse_config(vid_map_coco.Config, testing))
    metrics = read_json(Path(testing[testing.index("--output") + 1]) / "metrics.json", "metrics")
    facts = {"row": row.name, "seed": seed, "training": own, "tested": row.tested, "data": suite.synthetic}
    write_result(path, shorten(metrics, **facts, training_frames=frames))


def training_words(config: Config, suite: Suite, row: Row, seed: int, run_dir: Path) -> list[str]:
    """The command line of a row's training."""
    places: dict[str, Any] = {
        "data-root": suite.data_root, "run-dir": run_dir, "seed": seed, "device": config.device,
        "classes": ROOT / "model_data" / "classes_DAUB.txt", "train-list": config.train_list,
        "val-list": config.test_list,
    }  # fmt: skip
    given = [word for name, value in places.items() if value is not None for word in (f"--{name}", str(value))]
    return [*given, *f"{suite.training} {row.flags} {LAST_ALONE}".split()]


def recalibrating_words(config: Config, suite: Suite, run_dir: Path) -> list[str]:
    """The command line that takes a network's statistics anew."""
    words = ["--weights", str(run_dir / "last.pth"), "--output", str(run_dir / "recalibrated.pth")]
    lists = ["--train-list", str(config.train_list)] if config.train_list else []
    return [*words, "--data-root", str(suite.data_root), *lists, "--device", config.device]


def testing_words(config: Config, suite: Suite, row: Row, run_dir: Path) -> list[str]:
    """The command line of a row's test."""
    weights = run_dir / ("recalibrated.pth" if config.recalibrated else "last.pth")
    output = run_dir / ("evaluation_" + row.name + "_recalibrated" * config.recalibrated)
    lists = ["--annotations", str(config.test_list)] if config.test_list else []
    words = ["--weights", str(weights), "--data-root", str(suite.data_root), "--output", str(output)]
    fixed = "--no-report --speed-frames 0 --published none --device"
    return [*words, *lists, *row.tested.split(), *fixed.split(), config.device]


def finish_training(config: TrainConfig) -> int:
    """Train to the end; the number of training frames. KeyboardInterrupt where a signal broke it off, to end too."""
    train(config)
    _, content = newest_run(config.run_dir)
    if content["training"]["progress"]["epoch"] < config.epochs:
        raise KeyboardInterrupt
    return content["training"]["num_clips"]


def show(script: str, words: list[str], launcher: str = "python") -> None:
    """Print a command as it can be typed."""
    print(f"\n{launcher} {script} {shlex.join(words)}", flush=True)


if __name__ == "__main__":
    run_command(main, Config)
