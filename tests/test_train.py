"""The training commands end to end: files of a run, resuming, options, and what a user sees meanwhile."""

from __future__ import annotations

import gc
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import vid_map_coco
from tests.training_cases import CLIPS, ROOT, flags, make_data, read_rows, read_weights, small_config
from train_DAUB import DAUBConfig
from train_IRDST import IRDSTConfig
from utils.checkpoint import load_network
from utils.cli import UserError, run_command
from utils.clips import collate_clips
from utils.runlog import COLUMNS
from utils.trainer import Trainer, train

RUN_FILES = {"config.json", "metrics.csv", "last.pth", "best.pth", "curves.png"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A network this small only loses time to threads; and the same sums make the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("train") / "data")


def run(capsys, arguments: list[str], config_type: type = DAUBConfig, main=train) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stop:
        run_command(main, config_type, arguments)
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


@pytest.fixture(scope="module")
def finished(data_root, tmp_path_factory) -> Path:
    """A run of two epochs, which tests read but do not change."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    Trainer(small_config(data_root, run_dir, save_interval=1)).fit()
    return run_dir


def same_state(first: object, second: object) -> bool:
    """Whether two checkpoints' contents are equal, bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_state, first, second))
    return first == second


def same_run(first: Path, second: Path) -> bool:
    """Whether two runs ended with the same weights, states and rows (but for the time that they took)."""
    for name in ("last.pth", "best.pth"):
        contents = [read_weights(folder / name) for folder in (first, second)]
        for content in contents:
            content.get("training", {}).pop("settings", None)  # the folder differs
        if not same_state(*contents):
            return False
    rows = [[{**row, "seconds": ""} for row in read_rows(folder)] for folder in (first, second)]
    return rows[0] == rows[1]


# What a run leaves


def test_command_writes_the_files_of_a_run(data_root, tmp_path, capsys):
    status, out, error = run(capsys, flags(data_root, tmp_path / "run"))
    assert status == 0 and error == ""  # no progress bar where there is no terminal
    assert [line.split()[:2] for line in out.splitlines()[:2]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert out.splitlines()[-1].startswith("done: ") and "best.pth" in out
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written >= RUN_FILES and not [name for name in written if name.endswith(".tmp")]
    assert len([name for name in written if "tfevents" in name]) == 1
    assert Image.open(tmp_path / "run" / "curves.png").width >= 800


def test_metrics_table(finished):
    rows = read_rows(finished)
    assert list(rows[0]) == list(COLUMNS) and [row["epoch"] for row in rows] == ["0", "1"]
    for row in rows:
        values = {name: float(row[name]) for name in COLUMNS}
        assert all(map(math.isfinite, values.values()))
        terms = sum(values[f"train_{name}"] for name in ("iou", "obj", "cls", "motion"))
        assert values["train_total"] == pytest.approx(terms, rel=1e-5)
        assert 0 <= values["val_mAP50"] <= 1
    assert [float(row["lr"]) for row in rows] == pytest.approx([6.25e-5, 6.25e-4])


def test_config_says_how_to_repeat_the_run(finished, data_root):
    content = json.loads((finished / "config.json").read_text())
    assert content["config"]["width"] == 0.125 and content["config"]["data_root"] == str(data_root)
    assert content["config"].keys() == small_config(data_root, finished).to_json().keys()
    assert {"command", "python", "packages", "git", "threads"} <= content["environment"].keys()
    assert content["environment"]["packages"]["torch"] == torch.__version__.split("+")[0]


def test_tensorboard_has_every_column(finished):
    board = EventAccumulator(str(finished)).Reload()
    tags = {name.replace("_", "/", 1) for name in COLUMNS if name != "epoch"}
    assert set(board.Tags()["scalars"]) == tags
    events = board.Scalars("train/total")
    assert [event.step for event in events] == [0, 1]
    assert events[1].value == pytest.approx(float(read_rows(finished)[1]["train_total"]))


def test_checkpoints_hold_what_they_are_for(finished, data_root):
    best, last = finished / "best.pth", finished / "last.pth"
    assert best.stat().st_size < 0.4 * last.stat().st_size  # weights alone; weights, average and momentum
    assert read_weights(best).keys() == {"format", "architecture", "class_names", "input_size", "model"}
    for path in (best, last, finished / "epoch_001.pth", finished / "epoch_002.pth"):
        network = load_network(path)
        assert network.class_names == ("target",) and tuple(network.input_size) == (64, 64)
    averages, weights = read_weights(last)["model"], read_weights(last)["training"]["network"]
    assert not torch.equal(averages["neck.pair_weights"], weights["neck.pair_weights"])


def test_evaluation_of_the_best_weights(finished, data_root, tmp_path, capsys):
    arguments = ["--weights", str(finished / "best.pth"), "--data-root", str(data_root), "--output", str(tmp_path)]
    more = ["--device", "cpu", "--speed-frames", "4"]
    assert run(capsys, [*arguments, *more], vid_map_coco.Config, vid_map_coco.main)[0] == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["published"].keys() == {"mAP50", "precision", "recall", "f1"}
    assert metrics["coco"].keys() >= {"AP", "AP50", "AP75", "AP_small", "AR100"}
    for name in ("operating_point", "best_f1"):
        assert metrics[name].keys() >= {"confidence", "precision", "recall", "f1"}
    assert metrics["pd_fa"].keys() >= {"pd", "false_alarms_per_frame", "false_alarms_per_megapixel"}
    assert metrics.keys() >= {"protocol", "per_sequence", "speed"}
    best = min(read_rows(finished), key=lambda row: float(row["val_loss"]))
    assert metrics["published"]["mAP50"] == pytest.approx(float(best["val_mAP50"]), abs=1e-9)


# Learning


def test_network_learns_a_clip_by_heart(data_root, tmp_path):
    trainer = Trainer(small_config(data_root, tmp_path, optimizer="adam", lr=1.0, iou_loss="giou"))
    assert trainer._set_learning_rate() == 1e-4  # the first epoch warms up
    for group in trainer.optimizer.param_groups:
        group["lr"] = trainer.schedule.peak
    trainer.model.train()
    batch = collate_clips([trainer.loader.dataset.clips[index] for index in (5, 13)])
    losses = [trainer.train_step(batch) for _ in range(40)]
    detection = [step["total"] - step["motion"] for step in losses]
    assert np.mean(detection[-5:]) < 0.5 * np.mean(detection[:5])
    assert losses[-1]["motion"] < losses[0]["motion"]
    for name in ("iou", "obj"):
        assert np.mean([step[name] for step in losses[-5:]]) < np.mean([step[name] for step in losses[:5]])


def test_clips_come_the_same_from_lists_and_processes(data_root, tmp_path, finished):
    lists = {"train_list": data_root / "coco_train_DAUB.txt", "val_list": data_root / "coco_val_DAUB.txt"}
    Trainer(small_config(data_root, tmp_path, workers=1, **lists)).fit()
    assert same_run(tmp_path, finished)


def test_seed_decides(data_root, tmp_path, finished):
    Trainer(small_config(data_root, tmp_path, seed=1, epochs=1)).fit()
    assert read_rows(tmp_path)[0]["train_total"] != read_rows(finished)[0]["train_total"]


@pytest.mark.parametrize("options", [{"amp": "bf16"}, {"channels_last": True}])
def test_options_change_little_in_the_first_epoch(options, data_root, tmp_path, finished):
    Trainer(small_config(data_root, tmp_path, **options, epochs=1)).fit()
    mine, plain = read_rows(tmp_path)[0], read_rows(finished)[0]
    for name in ("train_total", "train_motion"):
        assert float(mine[name]) == pytest.approx(float(plain[name]), rel=0.05)
    assert {value.dtype for value in read_weights(tmp_path / "best.pth")["model"].values()} == {
        torch.float32,
        torch.int64,
    }


def test_bf16_is_used_where_asked_for(data_root, tmp_path):
    kinds = {}
    for amp in ("off", "bf16"):
        trainer = Trainer(small_config(data_root, tmp_path, amp=amp, batch_size=2))
        trainer.model.train()
        kinds[amp] = trainer._forward(next(iter(trainer.loader)))[0].dtype
    assert kinds == {"off": torch.float32, "bf16": torch.bfloat16}


def test_cross_slice_with_crops_and_other_losses(data_root, tmp_path, capsys):
    options = {"preset": "cross-slice", "crop": 32, "flip": True, "photometric": 0.1, "iou_loss": "giou"}
    more = {"epochs": 1, "epoch_share": 0.3, "best_by": "mAP50", "optimizer": "adam", "schedule": "step"}
    status, out, _ = run(capsys, flags(data_root, tmp_path, **options, **more), IRDSTConfig)
    assert status == 0 and "epoch 1/1" in out and "best.pth" in out
    architecture = read_weights(tmp_path / "best.pth")["architecture"]
    assert (architecture["num_slices"], architecture["num_layers"]) == (2, 2)


def test_frames_without_targets_are_no_fault(data_root, tmp_path):
    lists = {}
    for kind, name in (("train_list", "coco_train_DAUB.txt"), ("val_list", "coco_val_DAUB.txt")):
        paths = [line.split()[0] for line in (data_root / name).read_text().splitlines()]
        lists[kind] = tmp_path / name
        lists[kind].write_text("\n".join(paths))
    Trainer(small_config(data_root, tmp_path / "run", epochs=1, **lists)).fit()
    row = read_rows(tmp_path / "run")[0]
    assert (row["train_iou"], row["train_cls"], row["val_mAP50"]) == ("0.0", "0.0", "0.0")
    assert float(row["train_obj"]) > 0 and (tmp_path / "run" / "best.pth").exists()


# Validation at an interval


@pytest.mark.parametrize(("epochs", "interval", "validated"), [(4, 3, [2, 3]), (2, 5, [1])])
def test_epochs_without_validation_leave_cells_empty(data_root, tmp_path, capsys, epochs, interval, validated):
    status, out, _ = run(capsys, flags(data_root, tmp_path, epochs=epochs, val_interval=interval, epoch_share=0.3))
    rows = read_rows(tmp_path)
    assert status == 0 and [row["epoch"] for row in rows] == [str(epoch) for epoch in range(epochs)]
    assert [n for n, row in enumerate(rows) if row["val_loss"] and row["val_mAP50"]] == validated
    assert out.count("val loss") == len(validated) and (tmp_path / "best.pth").exists()


def test_best_is_the_lowest_number(data_root, tmp_path):
    trainer = Trainer(small_config(data_root, tmp_path))
    assert trainer._improves(float("nan"))  # something must be there to evaluate
    (tmp_path / "best.pth").touch()
    scores = (5.0, float("nan"), 6.0, 4.0, 4.0)
    assert [trainer._improves(score) for score in scores] == [True, False, False, True, False]


# Stopping and going on


def with_dropout(**settings: object) -> dict:
    """Settings whose training draws random numbers beside the sampler's."""
    return {"num_slices": 1, "num_layers": 2, "epochs": 3, "epoch_share": 0.5, "val_interval": 2, **settings}


def test_killed_run_ends_as_if_it_had_not_been(data_root, tmp_path, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    Trainer(small_config(data_root, whole, **with_dropout())).fit()

    command = [sys.executable, str(ROOT / "train_DAUB.py"), *flags(data_root, killed, **with_dropout(workers=1))]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment["OMP_NUM_THREADS"] = "1"
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()  # comes when the epoch ends, not when the buffer is full
        process.send_signal(signal.SIGKILL)
    assert line.startswith("epoch 1/3") and process.returncode == -signal.SIGKILL
    assert read_weights(killed / "last.pth")["training"]["epoch"] < 3

    status, out, error = run(capsys, flags(data_root, killed, **with_dropout(workers=1), resume=True))
    assert status == 0 and error == "" and re.search(r"last\.pth: going on after epoch \d$", out, re.MULTILINE)
    assert same_run(whole, killed)


class DiesBeforeSaving(Trainer):
    """Is interrupted in its last epoch between the row of the log and the checkpoint."""

    def _save(self, improved: bool) -> None:
        if self.epoch == self.config.epochs:
            raise KeyboardInterrupt
        super()._save(improved)


def test_row_without_checkpoint_is_written_anew(data_root, tmp_path, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = {"epochs": 3, "epoch_share": 0.5}
    Trainer(small_config(data_root, whole, **settings)).fit()
    with pytest.raises(KeyboardInterrupt):
        DiesBeforeSaving(small_config(data_root, broken, **settings)).fit()
    assert len(read_rows(broken)) == 3 and read_weights(broken / "last.pth")["training"]["epoch"] == 2
    assert "last.pth is of epoch 2, --resume goes on from there" in capsys.readouterr().err.replace("\n", " ")
    status, out, _ = run(capsys, flags(data_root, broken, **settings, resume=True))
    assert status == 0 and "going on after epoch 2" in out
    assert same_run(whole, broken) and [row["epoch"] for row in read_rows(broken)] == ["0", "1", "2"]


def test_resume_of_a_finished_run_changes_nothing(data_root, tmp_path, capsys):
    Trainer(small_config(data_root, tmp_path, epochs=1)).fit()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    status, out, error = run(capsys, flags(data_root, tmp_path, epochs=1, resume=True))
    assert status == 0 and error == "" and f"{tmp_path}: finished already, 1 epochs; raise --epochs" in out
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    status, out, _ = run(capsys, flags(data_root, tmp_path, epochs=2, resume=True))
    assert status == 0 and "going on after epoch 1; epochs 1 -> 2" in out
    assert [row["epoch"] for row in read_rows(tmp_path)] == ["0", "1"]


def test_resume_without_a_checkpoint_starts_anew(data_root, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    status, out, _ = run(capsys, flags(data_root, tmp_path / "run", epochs=1, resume=True))
    assert status == 0 and "last.pth: not there yet; --resume starts from the beginning" in out
    assert len(read_rows(tmp_path / "run")) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"width": 0.25}, "of a run with width 0.125, not 0.25; pass the same flags, or another --run-dir"),
        ({"optimizer": "adam"}, "made with --optimizer sgd; pass that or another --run-dir"),
    ],
)
def test_resume_with_another_network_changes_nothing(data_root, finished, capsys, changed, message):
    before = {path: path.read_bytes() for path in finished.iterdir()}
    status, _, error = run(capsys, flags(data_root, finished, **changed, epochs=4, resume=True))
    assert status == 2 and error == f"error: {finished / 'last.pth'}: {message}\n"
    assert {path: path.read_bytes() for path in finished.iterdir()} == before


# Pretrained weights


def test_pretrained_weights_are_reported_and_not_needed_again(data_root, tmp_path, finished, capsys):
    weights = tmp_path / "start.pth"
    weights.write_bytes((finished / "best.pth").read_bytes())
    settings = {"pretrained": weights, "epochs": 1, "epoch_share": 0.3}
    status, out, _ = run(capsys, flags(data_root, tmp_path / "run", **settings))
    count = len(read_weights(weights)["model"])
    assert status == 0 and f"{weights}: {count} tensors loaded, 0 missing, 0 unexpected, 0 mismatched" in out
    weights.unlink()
    status, _, error = run(capsys, flags(data_root, tmp_path / "run", **settings, resume=True))
    assert status == 2 and error == f"error: {weights}: no such file; --pretrained takes a weight file (.pth)\n"


def test_loss_that_is_no_number_stops_the_run(data_root, tmp_path, finished, capsys):
    content = read_weights(finished / "best.pth")
    content["model"]["head.obj_preds.0.bias"].fill_(float("nan"))
    torch.save(content, tmp_path / "poisoned.pth")
    arguments = flags(data_root, tmp_path / "run", pretrained=tmp_path / "poisoned.pth", workers=1)
    status, _, error = run(capsys, arguments)
    assert status == 2 and error.count("\n") == 1
    frames = r"images/train/data\d/\d\.bmp(, images/train/data\d/\d\.bmp){3}"
    assert re.match(rf"error: epoch 1: the loss is nan for the clips that end at {frames}; look at these frames", error)
    assert "no checkpoint has been written yet" in error and not list((tmp_path / "run").glob("*.pth"))
    gc.collect()
    assert not multiprocessing.active_children()  # of the loader


def test_loss_that_is_no_number_leaves_the_last_checkpoint(data_root, tmp_path, capsys):
    Trainer(small_config(data_root, tmp_path, epochs=1)).fit()
    content = read_weights(tmp_path / "last.pth")
    content["training"]["network"]["head.obj_preds.0.bias"].fill_(float("inf"))
    torch.save(content, tmp_path / "last.pth")
    before = {name: (tmp_path / name).read_bytes() for name in ("last.pth", "best.pth")}
    status, _, error = run(capsys, flags(data_root, tmp_path, epochs=3, resume=True))
    assert status == 2 and "last.pth is of epoch 1, --resume goes on from there" in error
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


class Diverges(Trainer):
    """Its steps' losses are finite, but the last step leaves a weight that is not."""

    def train_step(self, batch):
        values = super().train_step(batch)
        with torch.no_grad():
            self.model.neck.pair_weights[0] = float("inf")
        self.ema.update(self.model)
        return values


def test_infinite_weights_are_not_saved(data_root, tmp_path):
    trainer = Diverges(small_config(data_root, tmp_path, epoch_share=0.3))  # one step an epoch
    with pytest.raises(UserError, match="epoch 1: its last step made weights infinite; lower --lr; no checkpoint"):
        trainer.fit()
    assert not list(tmp_path.glob("*.pth")) and read_rows(tmp_path) == []


class OutOfMemory(Trainer):
    def train_step(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")


def test_out_of_memory_names_the_remedy(data_root, tmp_path):
    with pytest.raises(UserError, match="out of memory at --batch-size 4 and --input-size 64 64; lower one of them"):
        OutOfMemory(small_config(data_root, tmp_path)).fit()


class KillsItsReader(Trainer):
    """As the kernel does where memory is short."""

    def train_step(self, batch):
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
        return super().train_step(batch)


def test_killed_reader_names_the_remedy(data_root, tmp_path):
    with pytest.raises(UserError, match="a process that reads clips was killed .*lower --workers or --cache-mb"):
        KillsItsReader(small_config(data_root, tmp_path, workers=1, batch_size=1, epochs=50)).fit()


def test_readers_end_with_the_run(data_root, tmp_path):
    trainer = Trainer(small_config(data_root, tmp_path, workers=2, epochs=1))
    trainer.fit()
    gc.collect()
    assert not multiprocessing.active_children()
    assert len(next(iter(trainer.loader)).clips) == 4 and len(trainer.train_data.records) == CLIPS
