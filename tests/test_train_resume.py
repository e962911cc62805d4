"""Runs that are stopped, killed or poisoned: what they leave, what they say, and how they go on."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training_cases import ROOT, flags, make_data, read_rows, read_weights, run, same_run, small_config
from utils.cli import UserError
from utils.trainer import Trainer


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("train") / "data")


@pytest.fixture(scope="module")
def finished(data_root, tmp_path_factory) -> Path:
    """A run of two epochs, which tests read but do not change."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    Trainer(small_config(data_root, run_dir, save_interval=1)).fit()
    return run_dir


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
        process.stdout.readline()  # what is trained
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
    assert same_run(whole, broken) and [row["epoch"] for row in read_rows(broken)] == ["1", "2", "3"]


def test_resume_of_a_finished_run_changes_nothing(data_root, tmp_path, capsys):
    Trainer(small_config(data_root, tmp_path, epochs=1)).fit()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    status, out, error = run(capsys, flags(data_root, tmp_path, epochs=1, resume=True))
    assert status == 0 and error == "" and f"{tmp_path}: finished already, 1 epochs; raise --epochs" in out
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    status, out, _ = run(capsys, flags(data_root, tmp_path, epochs=2, resume=True))
    assert status == 0 and "going on after epoch 1; epochs 1 -> 2" in out
    assert [row["epoch"] for row in read_rows(tmp_path)] == ["1", "2"]


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
    status, out, error = run(capsys, flags(data_root, tmp_path / "run", **{**settings, "epochs": 2}, resume=True))
    assert status == 0 and error == "" and "epoch 2/2" in out


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
