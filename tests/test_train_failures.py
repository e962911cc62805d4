"""Steps that are not finite, clipped gradients, fp16, full disks, the log of a run, and dry runs."""

from __future__ import annotations

import math
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.training_cases import flags, read_rows, read_weights, run, small_config
from utils.cli import UserError
from utils.dry_run import activation_bytes
from utils.failures import NotFinite
from utils.progress import EpochProgress
from utils.runlog import RunLog
from utils.trainer import Trainer
from utils.training_step import TERMS

TINY = {"width": 0.0625, "num_frames": 2, "epochs": 1}


def tiny(data_root: Path, run_dir: Path, **settings: object) -> Trainer:
    return Trainer(small_config(data_root, run_dir, **{**TINY, **settings}))


def poison_gradient(trainer: Trainer, *steps: int, value: float = float("inf")) -> None:
    """Make the gradient of the n-th steps (from 1) infinite; the losses stay as they are."""
    passes = []

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        passes.append(0)
        return gradient + value if len(passes) in steps else gradient

    trainer.model.neck.pair_weights.register_hook(hook)


# Not finite


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_gradient_that_is_not_finite_stops_the_run(value, data_root, tmp_path):
    trainer = tiny(data_root, tmp_path, checkpoint_every=1)
    poison_gradient(trainer, 3, value=value)
    with pytest.raises(UserError, match=rf"epoch 1, step 3: the gradient is {value} for the clips that end at images/"):
        trainer.fit()
    assert read_weights(tmp_path / "last.pth")["training"]["progress"]["step"] == 2
    text = (tmp_path / "train.log").read_text()
    assert f"error: epoch 1, step 3: the gradient is {value}" in text and "is of step 2 of epoch 1, --resume" in text


def test_skipped_steps_change_nothing(data_root, tmp_path, capsys):
    trainer = tiny(data_root, tmp_path, skip_nonfinite=2)
    trainer.model.train()
    batches = list(trainer.loader)
    poison_gradient(trainer, 2)
    assert trainer.train_step(batches[0]) is not None
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    updates = trainer.ema.updates
    assert trainer.train_step(batches[1]) is None
    after = trainer.model.state_dict()  # BatchNorm's statistics too
    assert all(torch.equal(after[name], value) for name, value in before.items()) and trainer.ema.updates == updates
    assert "epoch 1, step 1: the gradient is inf for the clips that end at images/" in capsys.readouterr().out
    assert trainer.train_step(batches[2]) is not None
    assert not torch.equal(trainer.model.state_dict()["neck.pair_weights"], before["neck.pair_weights"])


def test_only_so_many_steps_are_skipped(data_root, tmp_path, capsys):
    trainer = tiny(data_root, tmp_path, skip_nonfinite=2, epochs=2)
    poison_gradient(trainer, 1, 4, 6)
    with pytest.raises(UserError, match="epoch 2, step 2: the gradient .* 2 such steps were skipped already"):
        trainer.fit()
    out = capsys.readouterr().out
    assert "skipped, 1 of 2" in out and "skipped, 2 of 2" in out
    assert read_weights(tmp_path / "last.pth")["training"]["progress"]["skipped"] == 2
    assert math.isfinite(float(read_rows(tmp_path)[0]["train_total"]))  # the mean of the other two steps


def test_epoch_without_a_good_step(data_root, tmp_path, capsys):
    trainer = tiny(data_root, tmp_path, skip_nonfinite=4)
    poison_gradient(trainer, 1, 2, 3, 4)
    trainer.fit()
    assert read_rows(tmp_path)[0]["train_total"] == "" and "epoch 1/1  lr 6.25e-05  no loss" in capsys.readouterr().out


def test_clipped_gradient_has_the_norm_asked_for(data_root, tmp_path):
    norms = {}
    for limit in (0.0, 0.5):
        trainer = tiny(data_root, tmp_path, clip_grad=limit)
        trainer.model.train()
        trainer.train_step(next(iter(trainer.loader)))
        norms[limit] = torch.nn.utils.get_total_norm([p.grad for p in trainer.model.parameters()]).item()
    assert norms[0.0] > 1 and norms[0.5] == pytest.approx(0.5, rel=1e-3)


# fp16


def test_fp16_overflow_lowers_the_scale_and_changes_no_weight(data_root, tmp_path):
    trainer = tiny(data_root, tmp_path, amp="fp16", crop=32)
    trainer.model.train()
    batch = next(iter(trainer.loader))
    assert trainer.step.forward(batch)[0].dtype == torch.float16
    trainer.step.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    poison_gradient(trainer, 1)
    before = trainer.model.head.obj_preds[0].weight.clone()
    assert math.isfinite(trainer.train_step(batch)["total"])
    assert trainer.step.scaler.get_scale() == 32 and trainer.ema.updates == 0
    assert torch.equal(trainer.model.head.obj_preds[0].weight, before)
    trainer.train_step(batch)
    assert trainer.step.scaler.get_scale() == 32 and trainer.ema.updates == 1
    assert not torch.equal(trainer.model.head.obj_preds[0].weight, before)


def test_fp16_gradient_that_no_scale_mends(data_root, tmp_path):
    trainer = tiny(data_root, tmp_path, amp="fp16", crop=32)
    trainer.model.train()
    trainer.step.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    poison_gradient(trainer, 1)
    with pytest.raises(NotFinite, match="the gradient is"):
        trainer.step(next(iter(trainer.loader)))


def test_fp16_scale_is_in_the_checkpoint(data_root, tmp_path):
    trainer = tiny(data_root, tmp_path, amp="fp16", epoch_share=0.3, crop=32)
    trainer.step.scaler.load_state_dict({**trainer.step.scaler.state_dict(), "scale": 64.0})
    trainer.fit()
    saved = read_weights(tmp_path / "last.pth")["training"]["scaler"]
    again = tiny(data_root, tmp_path, amp="fp16", crop=32, epochs=2, resume=True)
    assert again.step.scaler.state_dict() == saved and saved["_growth_tracker"] > 0


# Files


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Writing a file beyond so many bytes fails, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_the_old_checkpoint(data_root, tmp_path, capsys):
    tiny(data_root, tmp_path, epoch_share=0.3).fit()
    before = {name: (tmp_path / name).read_bytes() for name in ("last.pth", "previous.pth", "best.pth")}
    with files_limited_to(len(before["last.pth"]) // 2):
        status, _, error = run(capsys, flags(data_root, tmp_path, **TINY | {"epochs": 2}, epoch_share=0.3, resume=True))
    said = "cannot be written (File too large); the older file, if any, is untouched"
    assert status == 2 and error == f"error: {tmp_path / 'last.pth'}: {said}\n"
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread
def test_full_disk_under_the_board_is_said_once(tmp_path):
    log = RunLog(tmp_path, {}, {})
    events = next(tmp_path.glob("events.*"))
    with files_limited_to(events.stat().st_size + 200):  # the table's row fits, the board's points do not
        with pytest.raises(UserError, match="cannot be written .*; check the disk, then --resume"):
            log.add({"epoch": 1, "lr": 0.1, "seconds": 1.0} | {f"train_{name}": 1.0 for name in TERMS})
        log.close()  # does not fail anew
    assert len(read_rows(tmp_path)) == 1


def test_log_file_says_when_and_what(data_root, tmp_path, capsys):
    tiny(data_root, tmp_path).fit()
    tiny(data_root, tmp_path, epochs=2, resume=True).fit()
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert all(re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d  \S", line) for line in lines)
    texts = [line.split("  ", 1)[1] for line in lines]
    printed = capsys.readouterr().out.splitlines()
    assert [text for text in texts if "(revision " not in text] == printed
    assert sum("(revision " in text for text in texts) == 2  # the command line of each start
    assert sum(text.startswith("epoch ") for text in texts) == 2


def test_lines_of_a_long_epoch_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr("utils.progress.LINE_SECONDS", 0.0)
    said: list[str] = []
    with EpochProgress("epoch 3/9", steps=10, first=4, later=60, clips=8, say=said.append) as progress:
        for _ in range(2):
            progress.update(1e-3, {"total": 3.0, "iou": 2.0, "obj": 1.0})
    assert len(said) == 2 and re.fullmatch(
        r"epoch 3/9 step 6/10  lr 1\.00e-03  loss 3\.000 \(iou 2\.000, obj 1\.000\)  "
        r"\d+\.\d clips/s  left: \d+:\d\d:\d\d of the epoch, \d+:\d\d:\d\d of the run",
        said[1],
    )


def test_time_left_of_a_run_counts_the_later_epochs(monkeypatch):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock, 10.0))
    said: list[str] = []
    monkeypatch.setattr("utils.progress.LINE_SECONDS", 0.0)
    with EpochProgress("epoch 1/3", steps=10, first=4, later=20, clips=8, say=said.append) as progress:
        progress.update(1e-3, {})  # a step in 10 seconds
    assert said[0].endswith("left: 0:00:50 of the epoch, 0:04:10 of the run")


# Dry runs


def test_dry_run_prints_and_writes_nothing(data_root, tmp_path, capsys):
    settings = {"epochs": 10, "accumulate": 2, "dry_run": True, "width": 0.0625}
    status, out, error = run(capsys, flags(data_root, tmp_path / "run", **settings))
    assert status == 0 and error == "" and not (tmp_path / "run").exists()
    trainer = Trainer(small_config(data_root, tmp_path / "run", **settings))
    count = sum(parameter.numel() for parameter in trainer.model.parameters())
    assert f"parameters: {count:,}, all of them trained" in out
    groups = [int(found.replace(",", "")) for found in re.findall(r"weight decay [\d.]+: ([\d,]+) in", out)]
    assert len(groups) == 2 and sum(groups) == count
    parts = [int(found.replace(",", "")) for found in re.findall(r"^  [a-z_]+: ([\d,]+)$", out, re.MULTILINE)]
    assert sum(parts) == count
    assert "steps: 10 epochs x 4 = 40, of 4 clips each: 2 x 2 parts x 1 processes" in out
    rates = [float(rate) for _, rate in re.findall(r"(\d+): ([\d.]+e-\d+)", out)]
    assert rates[0] == pytest.approx(6.25e-5, rel=1e-2) and max(rates) == pytest.approx(6.25e-4, rel=1e-2)
    assert re.search(r"memory of a process: about \d+ MiB", out)


def test_dry_run_names_what_no_gradient_reaches(data_root, tmp_path, capsys):
    status, out, _ = run(capsys, flags(data_root, tmp_path, width=0.0625, preset="cross-slice", dry_run=True))
    names = [f"motion_branch.stack.nodes.{layer}.past_attention.in_proj_weight" for layer in range(2)]
    assert status == 0 and f"all of them trained but for {', '.join(names)}, which no gradient reaches\n" in out


@pytest.mark.parametrize(("slices", "layers"), [(1, 1), (2, 1)])
def test_activation_memory_is_what_a_forward_pass_keeps(slices, layers, data_root, tmp_path):
    model = tiny(data_root, tmp_path, num_slices=slices, num_layers=layers).model.train()
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.randn(2, 3, 2, 64, 96))
    own = {parameter.data_ptr() for parameter in model.parameters()}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept.values()}
    measured = sum(size for pointer, size in storages.items() if pointer not in own)
    assert activation_bytes(model, (2, 3, 2, 64, 96)) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("recompute", ["extractor", "motion"])
def test_activation_memory_has_the_largest_piece_that_is_computed_again(recompute, data_root, tmp_path):
    """By a real forward pass, and another of each piece alone on the sizes that it sees."""
    model = tiny(data_root, tmp_path, num_slices=2, num_layers=1, recompute=recompute).model.train()
    clips = torch.randn(2, 3, 2, 64, 96)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def kept_by(work) -> int:
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
            work()
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
        return sum(size for pointer, size in storages.items() if pointer not in own)

    calls = []
    pieces = [model.extractor] if recompute == "extractor" else list(model.motion_branch.stack.nodes)
    hooks = [piece.register_forward_pre_hook(lambda piece, inputs: calls.append((piece, inputs))) for piece in pieces]
    outside = kept_by(lambda: model(clips))
    for hook in hooks:
        hook.remove()
    largest = max(kept_by(lambda piece=piece, inputs=inputs: piece(*inputs)) for piece, inputs in calls)
    assert activation_bytes(model, tuple(clips.shape)) == pytest.approx(outside + largest, rel=0.1)
    model.recompute = frozenset()
    assert activation_bytes(model, tuple(clips.shape)) > outside + largest


def test_settings_of_reliability_that_cannot_be(data_root, tmp_path):
    lowest = {"accumulate": 1, "rank_timeout": 1, "checkpoint_every": 0, "skip_nonfinite": 0, "clip_grad": 0}
    for name, value in ((name, number - 1) for name, number in lowest.items()):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} {value}: must"):
            small_config(data_root, tmp_path, **{name: value})
    with pytest.raises(UserError, match="--batch-size 2: leaves one clip of 32 x 32 pixels at a time"):
        tiny(data_root, tmp_path, crop=32, batch_size=2, accumulate=2)
