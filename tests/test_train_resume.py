"""Runs that are stopped, killed or poisoned: what they leave, what they say, and how they go on."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from tests.training_cases import flags, read_rows, read_weights, run, same_run, small_config, truncate
from utils.cli import UserError
from utils.trainer import Trainer

# Stopping and going on


class DiesBeforeSaving(Trainer):
    """Is interrupted in its last epoch between the row of the log and the checkpoint."""

    def _save(self) -> None:
        if self.progress.epoch == self.config.epochs:
            raise KeyboardInterrupt
        super()._save()


def test_row_without_checkpoint_is_written_anew(data_root, tmp_path, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = {"epochs": 3, "epoch_share": 0.5}
    Trainer(small_config(data_root, whole, **settings)).fit()
    with pytest.raises(KeyboardInterrupt):
        DiesBeforeSaving(small_config(data_root, broken, **settings)).fit()
    position = read_weights(broken / "last.pth")["training"]["progress"]
    assert len(read_rows(broken)) == 3 and (position["epoch"], position["step"]) == (2, 2)
    assert "last.pth is of step 2 of epoch 3, --resume goes on from there" in capsys.readouterr().err
    status, out, _ = run(capsys, flags(data_root, broken, **settings, resume=True))
    assert status == 0 and "going on after step 2 of epoch 3" in out
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


def test_other_batches_begin_the_epoch_anew(data_root, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        DiesBeforeSaving(small_config(data_root, tmp_path, epochs=1)).fit()
    capsys.readouterr()
    status, out, _ = run(capsys, flags(data_root, tmp_path, epochs=1, batch_size=8, resume=True))
    assert status == 0 and "after step 4 of epoch 1; batch_size 4 -> 8; other batches: epoch 1 begins anew" in out
    assert read_weights(tmp_path / "last.pth")["training"]["ema_updates"] == 4 + 2


def test_the_same_files_spelled_otherwise_are_the_same(data_root, tmp_path, capsys):
    run_dir = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        DiesBeforeSaving(small_config(data_root, run_dir, epochs=1)).fit()
    capsys.readouterr()
    link = tmp_path / "elsewhere"
    link.symlink_to(data_root)
    names = {"train_list": "instances_train2017.json", "val_list": "instances_test2017.json"}
    lists = {name: link / "annotations" / file for name, file in names.items()}
    status, out, _ = run(capsys, flags(link, run_dir, epochs=1, resume=True, **lists))
    assert status == 0 and "going on after step 4 of epoch 1\n" in out and "anew" not in out
    status, out, _ = run(capsys, flags(link, run_dir, epochs=2, resume=True, val_list=lists["train_list"]))
    assert status == 0 and "val_list" in out and "the best begins anew" in out


class DiesBeforeValidating(Trainer):
    def validate(self) -> tuple[float, float]:
        raise KeyboardInterrupt


def test_the_first_checkpoint_of_an_epoch_begun_anew_is_written(data_root, tmp_path, capsys):
    """It is of the same step as the last one of the run before, and of other clips."""
    for settings in ({"seed": 1}, {"seed": 2, "resume": True}):
        with pytest.raises(KeyboardInterrupt):
            DiesBeforeValidating(small_config(data_root, tmp_path, epochs=1, **settings)).fit()
    training = read_weights(tmp_path / "last.pth")["training"]
    assert training["settings"]["seed"] == 2 and training["ema_updates"] == 8
    assert "epoch 1 begins anew" in capsys.readouterr().out


def test_what_is_judged_by_other_scores_has_another_best(data_root, tmp_path, capsys):
    Trainer(small_config(data_root, tmp_path, epochs=1)).fit()
    content = read_weights(tmp_path / "last.pth")
    content["training"]["progress"]["best"] = 0.0  # as of an easier validation
    torch.save(content, tmp_path / "last.pth")
    before = (tmp_path / "best.pth").read_bytes()
    for settings, begins_anew in (({"epochs": 2}, False), ({"epochs": 3, "iou_loss": "giou"}, True)):
        status, out, _ = run(capsys, flags(data_root, tmp_path, **settings, resume=True))
        assert status == 0 and ("the best begins anew" in out) == begins_anew
        assert ((tmp_path / "best.pth").read_bytes() != before) == begins_anew


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_moments_follow_the_kernels_to_another_layout(optimizer, data_root, tmp_path):
    """Fused kernels go through both in the order of memory."""
    settings = {"optimizer": optimizer, "epochs": 1, "epoch_share": 0.3, "channels_last": True}
    Trainer(small_config(data_root, tmp_path, **settings)).fit()
    saved = read_weights(tmp_path / "last.pth")["training"]["optimizer"]["state"]
    trainer = Trainer(small_config(data_root, tmp_path, **settings | {"resume": True, "channels_last": False}))
    kernels = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert any(theirs.stride() != kernels[n].stride() for n, state in saved.items() for theirs in moments(state))
    for n, state in saved.items():
        own = moments(trainer.optimizer.state[kernels[n]])
        for mine, theirs in zip(own, moments(state), strict=True):
            assert mine.stride() == kernels[n].stride() and torch.equal(mine, theirs)


def moments(state: dict) -> list[torch.Tensor]:
    return [value for value in state.values() if isinstance(value, torch.Tensor) and value.dim()]


def test_the_log_has_what_was_said_before_it(data_root, tmp_path):
    Trainer(small_config(data_root, tmp_path, epochs=1, epoch_share=0.3, resume=True)).fit()
    assert "last.pth: not there yet; --resume starts from the beginning" in (tmp_path / "train.log").read_text()


# Damaged checkpoints


class Harm:
    """A pickle that would run code."""

    def __reduce__(self):
        return print, ("this must never run",)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4  # in the middle of some tensor: torch.load would take it
    path.write_bytes(content)


DAMAGE = {
    "truncated": lambda path: truncate(path, path.stat().st_size // 2),
    "empty": lambda path: truncate(path, 0),
    "bit-flipped": flip_a_bit,
    "foreign": lambda path: torch.save({"weight": torch.zeros(3)}, path),
    "code": lambda path: torch.save({"training": Harm()}, path),
}


@pytest.fixture(scope="module")
def short_run(data_root, tmp_path_factory) -> Path:
    """A run of two epochs with the smallest network, for copies to be damaged."""
    run_dir = tmp_path_factory.mktemp("short") / "run"
    Trainer(small_config(data_root, run_dir, width=0.0625, num_frames=2, epoch_share=0.3)).fit()
    return run_dir


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_gives_way_to_the_one_before_it(damage, short_run, data_root, tmp_path, capsys):
    run_dir = shutil.copytree(short_run, tmp_path / "run")
    DAMAGE[damage](run_dir / "last.pth")
    assert len(read_rows(run_dir)) == 2
    settings = {"width": 0.0625, "num_frames": 2, "epoch_share": 0.3, "resume": True}
    status, out, error = run(capsys, flags(data_root, run_dir, **settings))
    assert error.startswith(f"{run_dir / 'last.pth'}: ") and error.endswith("; going back to previous.pth\n")
    assert error.count("\n") == 1 and "previous.pth: going on after step 1 of epoch 2" in out
    assert "must never run" not in out
    assert status == 0 and same_run(short_run, run_dir)
    assert (run_dir / "last.pth.damaged").exists()


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (PermissionError(13, "Permission denied"), "cannot be read (Permission denied)"),
        (MemoryError(), "memory is too short to read it"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_not_damaged(failure, message, short_run, data_root, tmp_path, monkeypatch):
    run_dir = shutil.copytree(short_run, tmp_path / "run")
    before = {path: path.read_bytes() for path in run_dir.iterdir()}

    def fails(*_, **__):
        raise failure

    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(UserError, match=re.escape(f"{run_dir / 'last.pth'}: {message}")):
        Trainer(small_config(data_root, run_dir, width=0.0625, num_frames=2, resume=True))
    assert {path: path.read_bytes() for path in run_dir.iterdir()} == before


def test_two_damaged_checkpoints_are_an_error(short_run, data_root, tmp_path, capsys):
    run_dir = shutil.copytree(short_run, tmp_path / "run")
    for name in ("last.pth", "previous.pth"):
        truncate(run_dir / name, 1000)
    before = {path: path.read_bytes() for path in run_dir.iterdir()}
    status, _, error = run(capsys, flags(data_root, run_dir, width=0.0625, num_frames=2, resume=True))
    assert status == 2 and f"\nerror: {run_dir / 'previous.pth'}: not a weight file, or a damaged one" in error
    assert {path: path.read_bytes() for path in run_dir.iterdir()} == before


def test_checkpoint_of_another_version_is_an_error(short_run, data_root, tmp_path, capsys):
    run_dir = shutil.copytree(short_run, tmp_path / "run")
    content = read_weights(run_dir / "last.pth")
    del content["training"]["network"]["neck.pair_weights"]
    torch.save(content, run_dir / "last.pth")
    settings = {"width": 0.0625, "num_frames": 2, "epochs": 3, "resume": True}
    status, _, error = run(capsys, flags(data_root, run_dir, **settings))
    assert status == 2 and error.count("\n") == 1
    assert error.startswith(f"error: {run_dir / 'last.pth'}: of a run of another version (") and "pair_weights" in error


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


def test_clips_of_another_kind_than_the_start_had_are_told(data_root, tmp_path, finished, capsys):
    content = read_weights(finished / "best.pth")
    content["intensity"], content["architecture"]["frame_interval"] = [0, 16383], 3
    torch.save(content, tmp_path / "start.pth")
    settings = {"pretrained": tmp_path / "start.pth", "epochs": 1, "epoch_share": 0.3}
    status, out, _ = run(capsys, flags(data_root, tmp_path / "run", **settings))
    note = f"note: {tmp_path / 'start.pth'}: trained with"
    assert status == 0 and f"{note} --intensity 0 16383, this run has full" in out
    assert f"{note} --frame-interval 3, this run has 1" in out


def test_loss_that_is_no_number_stops_the_run(data_root, tmp_path, finished, capsys):
    content = read_weights(finished / "best.pth")
    content["model"]["head.obj_preds.0.bias"].fill_(3e38)  # whose sum over the cells is beyond float32
    torch.save(content, tmp_path / "poisoned.pth")
    arguments = flags(data_root, tmp_path / "run", pretrained=tmp_path / "poisoned.pth", workers=1)
    status, _, error = run(capsys, arguments)
    assert status == 2 and error.count("\n") == 1
    frames = r"images/train/data\d/\d\.bmp(, images/train/data\d/\d\.bmp){3}"
    start = "error: epoch 1, step 1: the loss is inf for the clips that end at "
    assert re.match(rf"{start}{frames}; look at these frames", error)
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


class TakesTooMuch(Trainer):
    def train_step(self, batch):
        return torch.empty(2**60, dtype=torch.uint8)  # more than any machine has


@pytest.mark.parametrize("kind", [OutOfMemory, TakesTooMuch])
def test_out_of_memory_names_the_remedy(kind, data_root, tmp_path):
    advice = "out of memory at --batch-size 4 and --input-size 64 64; lower one of them, or raise --accumulate"
    with pytest.raises(UserError, match=advice):
        kind(small_config(data_root, tmp_path)).fit()


class TakesTooMuchToResume(Trainer):
    def _resume(self, path, content):
        torch.empty(2**60, dtype=torch.uint8)


def test_out_of_memory_while_resuming_is_no_fault_of_the_file(data_root, finished):
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):  # which `train` says the remedy of
        TakesTooMuchToResume(small_config(data_root, finished, epochs=3, resume=True))


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
