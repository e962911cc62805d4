"""Make weights for infrared video, of the kind that comes with the project: `make weights VIDEOS=DIR`, or

python -m benchmarks.infrared_weights --videos DIR --start before.pth   # what came of it: docs/model_card.md
python -m benchmarks.infrared_weights --videos DIR --list               # the commands alone

Synthetic sequences of every preset, some of them painted into CC0 infrared videos, and these videos themselves; no
frame of DAUB, IRDST or another data set. What is there already is not made again and a broken-off training goes on.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.study import finish_training, show
from train_DAUB import DAUBConfig
from utils import release_weights
from utils.annotation_files import write_list
from utils.annotations import load_annotations
from utils.cli import Unset, UserError, parse_config, run_command
from utils_coco import make_synthetic_dataset, video_to_frames

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ROOT / "model_data" / "classes_DAUB.txt"
HELD_BACK = (  # the videos of the model card's test
    "IR_AIRPLANE_030", "IR_AIRPLANE_045", "IR_AIRPLANE_050", "IR_BIRD_004", "IR_BIRD_053", "IR_BIRD_074",
    "IR_DRONE_059", "IR_DRONE_142", "IR_DRONE_152", "IR_HELICOPTER_045",
)  # fmt: skip
UNSEEN_STEP = 40  # every so many frames of the held-back videos are key frames of the loss after the last epoch
PADDED = 4  # first frames of a sequence, whose clips repeat them, so that nothing moves: they are not learned
DAUB = "--preset daub --targets 1 2"
POINTS = f"{DAUB} --speed 0.15 1.2 --distractors 0 4"
SLOW_POINTS = f"{DAUB} --speed 0.18 0.5 --distractors 0 4"  # before a moving camera these are the hard ones
ALONE = "--distractors 0 0"  # in the sky a point is a target even where it stands: the videos have such


@dataclass(frozen=True)
class SyntheticSet:
    """One call of make_synthetic_dataset.py."""

    name: str
    sequences: int
    flags: str
    in_videos: bool = False  # painted into the training videos


SETS = (
    SyntheticSet("daub", 600, f"{POINTS} --scr 1 8 --target-size 0.8 2.4"),
    SyntheticSet("daub_large", 300, f"{POINTS} --scr 1 8 --stuck 0 2 --target-size 0.8 5"),
    SyntheticSet("painted", 200, f"{DAUB} --speed 0.15 1.2 {ALONE} --scr 1 8 --target-size 1.2 4", in_videos=True),
    SyntheticSet("hard", 120, "--preset hard"),
    SyntheticSet("easy", 80, "--preset easy"),
    SyntheticSet("sky", 300, f"--preset sky {ALONE}"),
    SyntheticSet("irdst", 120, "--preset irdst --image-size 256 256"),
    SyntheticSet("daub_dim", 150, f"{POINTS} --scr 0.7 2.5 --target-size 0.8 2.4"),
    SyntheticSet("daub_slow", 700, f"{SLOW_POINTS} --scr 1 8 --target-size 0.8 2.4"),
)
TRAINING = (
    "--preset released --motion-weight 0 --optimizer adamw --batch-size 16 --crop 160 --target-share 0.5 --flip "
    "--photometric 0.1 --noise 1.5 --lr-bounds 1e-6 1e-3 --val-interval 100000 --save-interval 5 --resume"
)
WORDS = (
    "synthetic sequences of the presets easy, daub, hard, irdst and sky, also painted into videos of the "
    "Drone-detection-dataset (Svanström, Englund, Alonso-Fernandez; CC0 1.0), and these videos themselves"
)


@dataclass
class Config:
    """Make the data, train, and write the weight file."""

    videos: Path
    """Folder with the 30 small-target videos of the Drone-detection-dataset and their boxes.json."""
    start: Unset[Path] = None
    """Weights to start from (default: none, kaiming initialisation, which takes several times as many epochs)."""
    work: Path = Path("runs/weights")
    """Folder for the data, the run and the weight file, sstnet_infrared.pth."""
    epochs: int = 36
    """Epochs of a thirtieth of the clips."""
    lr: float = 2e-3
    """Nominal learning rate, for a batch of 64."""
    amp: Literal["off", "bf16"] = "off"
    """Mixed precision: bf16 is faster on GPUs and on CPUs with AMX or AVX512-BF16, and slower on other CPUs."""
    processes: int = 1
    """Processes that share a step: GPUs, or CPU cores (two of one thread do more than one of two threads)."""
    seed: int = 7000
    """Of the training; the synthetic sets take this one and the next ones."""
    confidence: float = 0.25
    """Confidence that vid_predict.py shows detections from with these weights."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1."""
    list: bool = False
    """Print the commands of what is still to be made, and stop."""
    quick: bool = False
    """The same with few tiny frames and a tiny network, in a folder quick of --work: shows that it works and nothing
    else."""


def main(config: Config) -> None:
    """Make what is missing, one command after another."""
    if config.quick:  # whose sets are others, and would be taken for the real ones
        config = replace(config, work=config.work / "quick")
    for words in data_commands(config):
        run_data_command(config, words)
    if not config.list:
        synthetic = (rows for made in SETS for rows in key_frames(config.work, made.name))
        write_list(config.work / "train.txt", [*key_frames(config.work, "videos"), *synthetic])
        write_list(config.work / "val.txt", key_frames(config.work, "videos", UNSEEN_STEP, split="test"))
    train(config, training_words(config))
    releasing = releasing_words(config)
    show("-m utils.release_weights", releasing)
    if not config.list:
        release_weights.main(parse_config(release_weights.Config, releasing))


def train(config: Config, words: list[str]) -> None:
    """Train to the end, in one process or several."""
    launcher = ["--standalone", "--nproc-per-node", str(config.processes)]
    show("train_DAUB.py", words, " ".join(["torchrun", *launcher]) if config.processes > 1 else "python")
    if config.list:
        return
    if config.processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", *launcher, str(ROOT / "train_DAUB.py"), *words]
        if status := subprocess.run(command, check=False).returncode:
            raise UserError(f"the training ended with status {status}; its lines above say why")
    finish_training(parse_config(DAUBConfig, words))


def data_commands(config: Config) -> Iterator[list[str]]:
    """The command lines that make the data that are not there yet, script first."""
    folder = config.work / "videos"
    if not (folder / "annotations" / "instances_train2017.json").is_file():
        words = ["--videos", str(config.videos), "--boxes", str(config.videos / "boxes.json"), "--output", str(folder)]
        yield ["video_to_frames.py", *words, "--val", *(HELD_BACK[1:2] if config.quick else HELD_BACK)]
    for number, made in enumerate(SETS):
        output = config.work / made.name
        if (output / "annotations" / "instances_train2017.json").is_file():
            continue
        size = "--frames 20" if not config.quick else "--frames 8"
        words = ["--output", str(output), "--seed", str(config.seed + number), *made.flags.split(), *size.split()]
        words += ["--sequences", str(1 if config.quick else made.sequences), "0", "--overwrite"]
        if made.in_videos:
            words += ["--footage", str(folder / "annotations" / "instances_train2017.json")]
        yield ["make_synthetic_dataset.py", *words]


def run_data_command(config: Config, words: list[str]) -> None:
    """Print a command and run it."""
    script, *flags = words
    show(f"utils_coco/{script}", flags)
    if not config.list:
        module = {"video_to_frames.py": video_to_frames, "make_synthetic_dataset.py": make_synthetic_dataset}[script]
        module.main(parse_config(module.Config, flags))


def key_frames(work: Path, name: str, step: int = 1, split: str = "train") -> Iterator[tuple[str, list[list[float]]]]:
    """Every so many frames of each sequence of a set with their boxes, named from the work folder; none padded."""
    folder = work / name
    sequences = defaultdict(list)
    for record in load_annotations(folder / "annotations" / f"instances_{split}2017.json", folder).records:
        sequences[record.path.parent].append(record)
    for records in sequences.values():
        for record in records[PADDED::step]:
            yield f"{name}/{record.name}", record.boxes.tolist()


def training_words(config: Config) -> list[str]:
    """The command line of the training."""
    start = ["--pretrained", str(config.start)] if config.start else ["--init", "kaiming"]
    words = [*TRAINING.split(), "--amp", config.amp, "--epochs", str(config.epochs), "--epoch-share", "0.0333"]
    words += ["--lr", f"{config.lr:g}"]
    lists = ["--train-list", str(config.work / "train.txt"), "--val-list", str(config.work / "val.txt")]
    places = ["--data-root", str(config.work), *lists, "--run-dir", str(config.work / "run")]
    places += ["--classes", str(CLASSES), "--seed", str(config.seed), "--device", config.device]
    if config.quick:
        words += ["--width", "0.0625", "--crop", "64", "--epochs", "1", "--workers", "0", "--batch-size", "4"]
        words += ["--epoch-share", "1"]
    return [*places, *words, *start]


def releasing_words(config: Config) -> list[str]:
    """The command line that makes the weight file."""
    words = ["--weights", str(config.work / "run" / "last.pth"), "--output", str(config.work / "sstnet_infrared.pth")]
    scales = ["--frame-scales", "1.6", "2"]
    return [*words, "--data", WORDS, "--confidence", f"{config.confidence:g}", *scales]


if __name__ == "__main__":
    run_command(main, Config)
