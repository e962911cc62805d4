"""Schedules, EMA, optimiser groups, initialisation, sampler, augmentation and run log, each on its own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, AdamW

from nets import SSTNet
from tests.reference_weights import record
from tests.training_cases import make_data, read_rows, small_config
from utils.class_file import read_class_names
from utils.cli import UserError
from utils.config import TrainConfig
from utils.dry_run import unreached_parameters
from utils.ema import EMA
from utils.optimizer import build_optimizer, initialise, parameter_groups
from utils.runlog import COLUMNS, RunLog, make_run_dir
from utils.schedule import Schedule, clamping, scaled_rates
from utils.trainer import Trainer

PRESETS = {"cross-slice": (2, 2), "released": (1, 1)}


# Learning rates


@pytest.mark.parametrize(
    ("name", "peak", "floor", "epochs", "kind"),
    [
        ("lr_cos100", 6.25e-4, 6.25e-6, 100, "cosine"),
        ("lr_cos20", 1e-2, 1e-4, 20, "cosine"),
        ("lr_step100", 6.25e-4, 6.25e-6, 100, "step"),
    ],
)
def test_learning_rates_equal_the_release(name, peak, floor, epochs, kind):
    schedule = Schedule(peak, floor, epochs, kind)
    rates = [schedule.rate(epoch) for epoch in range(epochs)]
    assert rates == pytest.approx(record("parts")[name], rel=1e-9)


@pytest.mark.parametrize(
    ("nominal", "batch", "optimizer", "expected"),
    [
        (1e-2, 4, "sgd", (6.25e-4, 6.25e-6)),  # the recipe's default, which lr_cos100 was recorded with
        (1e-2, 1, "sgd", (5e-4, 5e-6)),  # clamped from below
        (1.0, 64, "sgd", (5e-2, 5e-4)),  # clamped from above
        (1e-3, 4, "adam", (3e-4, 3e-6)),
        (1e-3, 32, "adam", (5e-4, 5e-6)),
        (1e-3, 640, "adam", (1e-3, 1e-5)),
    ],
)
def test_rates_are_scaled_by_the_batch_and_clamped(nominal, batch, optimizer, expected):
    assert scaled_rates(nominal, batch, optimizer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [((1e-5, 1e-3), (1.25e-4, 1.25e-6)), ((2e-4, 1e-3), (2e-4, 2e-6)), ((1e-6, 1e-4), (1e-4, 1e-6))],
)
def test_given_bounds_take_the_place_of_the_published_ones(bounds, expected):
    assert scaled_rates(1e-3, 8, "adam", bounds) == pytest.approx(expected)


def test_a_rate_that_the_bounds_decide_is_said(data_root, tmp_path, capsys):
    assert clamping(1e-2, 64, "sgd") is None and clamping(8e-3, 8, "adam") is None
    assert clamping(1.0, 64, "sgd") == "--lr 1 is 1 at batch 64, lowered to 0.05 by the bounds (--lr-bounds)"
    Trainer(small_config(data_root, tmp_path, optimizer="sgd", lr=1e-3, batch_size=4))
    said = "--lr 0.001 is 6.25e-05 at batch 4, raised to 0.0005 by the bounds (--lr-bounds)\n"
    assert capsys.readouterr().out == said
    Trainer(small_config(data_root, tmp_path / "default", optimizer="sgd", lr=None, batch_size=1))
    assert capsys.readouterr().out == ""


def test_a_run_keeps_the_bounds_given(data_root, tmp_path):
    config = small_config(data_root, tmp_path, optimizer="adam", lr=1e-3, lr_bounds=(1e-6, 1e-3))
    trainer = Trainer(config)
    assert trainer.schedule.peak == pytest.approx(1e-3 * config.batch_size / 64) and trainer.schedule.peak < 3e-4


@settings(deadline=None)
@given(epochs=st.integers(1, 500), kind=st.sampled_from(["cosine", "step"]))
def test_rates_stay_between_the_floor_and_the_peak(epochs, kind):
    schedule = Schedule(6.25e-4, 6.25e-6, epochs, kind)
    rates = [schedule.rate(epoch) for epoch in range(epochs)]
    assert all(6.25e-6 * 0.999 <= rate <= 6.25e-4 * 1.001 for rate in rates)
    if epochs >= 10:
        assert rates[-1] == pytest.approx(6.25e-6)  # ends on the floor, however long the run


# EMA


def counting_linear() -> nn.Linear:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.arange(6.0).reshape(2, 3))
    return model


def test_ema_equals_the_release():
    model = counting_linear()
    ema = EMA(model)
    with torch.no_grad():
        for _ in range(5):
            model.weight += 1
    ema.update(model)
    np.testing.assert_allclose(ema.model.weight.numpy(), record("parts")["ema_weight_after5"], rtol=1e-6)


def test_ema_averages_running_statistics_and_copies_counters():
    model = nn.BatchNorm1d(2)
    ema = EMA(model)
    model(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))  # running mean 0.2, 0.4
    ema.update(model)
    kept = 0.9999 * (1 - math.exp(-1 / 2000))
    torch.testing.assert_close(ema.model.running_mean, (1 - kept) * torch.tensor([0.2, 0.4]))
    assert ema.model.num_batches_tracked == 1 and not ema.model.training


# Optimiser and start


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("kind", "cls"), [("sgd", SGD), ("adam", Adam), ("adamw", AdamW)])
def test_every_parameter_is_in_one_group(preset, kind, cls):
    model = SSTNet(1, 3, *PRESETS[preset], width=0.125)
    optimizer = build_optimizer(model, kind, 1e-3)
    assert type(optimizer) is cls
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize(("kind", "shrinks_by"), [("adam", 1e-2), ("adamw", 1e-2 * 5e-4 * 2.0)])
def test_decay_of_kernels_that_get_no_gradient(kind, shrinks_by):
    """Adam makes a whole step of the smallest decay, so deep layers vanish; AdamW takes the rate's share of it."""
    layer = nn.Linear(3, 3, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    layer.weight.grad = torch.zeros_like(layer.weight)
    build_optimizer(layer, kind, 1e-2).step()
    torch.testing.assert_close(layer.weight.detach(), torch.full((3, 3), 2.0 - shrinks_by), rtol=0, atol=1e-6)


def test_matrices_are_decayed_and_vectors_not():
    model = SSTNet(1, 3, 1, 2, width=0.125)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = ({names[id(p)] for p in group["params"]} for group in parameter_groups(model))
    assert [group["weight_decay"] for group in parameter_groups(model)] == [5e-4, 0.0]
    norms = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert plain == norms | {name for name in names.values() if name.endswith("bias")} | {"neck.pair_weights"}
    node = "motion_branch.stack.nodes.0."
    assert {node + "past_attention.in_proj_weight", node + "past_attention.out_proj.weight"} <= decayed
    assert {"extractor.backbone.stem.conv.conv.weight", node + "gates_xh.weight"} <= decayed


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_trains(preset, data_root, tmp_path):
    """The release left neck.weight.* and the attention's in_proj out; here a gradient alone moves everything.

    One tensor cannot learn in any implementation: in the first slice the memory of the past attention is zero, so
    its keys and values are the biases, whatever in_proj_weight holds, and equal keys make the query irrelevant.
    """
    trainer = Trainer(small_config(data_root, tmp_path, preset=preset, batch_size=2))
    first_slice = {f"motion_branch.stack.nodes.{layer}.past_attention.in_proj_weight" for layer in range(2)}
    unreached = first_slice if preset == "cross-slice" else set()
    assert set(unreached_parameters(trainer.model)) == unreached  # which --dry-run names
    for group in trainer.optimizer.param_groups:
        group["weight_decay"], group["lr"] = 0.0, 0.05
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.model.train()
    batches = iter(trainer.loader)
    for _ in range(2):  # in the first step the attention's output projection sees values of zero
        trainer.train_step(next(batches))
    after = dict(trainer.model.named_parameters())
    assert all(parameter.grad is not None for parameter in after.values())
    still = {name for name, parameter in after.items() if torch.equal(parameter, before[name])}
    assert still == unreached


def test_decay_shrinks_kernels_and_leaves_vectors(data_root, tmp_path):
    """The same step with and without decay differs by lr x decay x weight in the kernels and by nothing elsewhere."""
    decay, states = 0.1, []
    for value in (0.0, decay):
        trainer = Trainer(small_config(data_root, tmp_path, batch_size=2))
        trainer.optimizer.param_groups[0]["weight_decay"] = value
        start = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
        trainer.model.train()
        trainer.train_step(next(iter(trainer.loader)))
        states.append(dict(trainer.model.named_parameters()))
    rate = trainer.optimizer.param_groups[0]["lr"] * (1 + 0.937)  # Nesterov's first step
    for name, parameter in states[1].items():
        expected = states[0][name].detach() - (rate * decay * start[name] if start[name].dim() > 1 else 0)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)


def test_release_initialisation():
    torch.manual_seed(0)
    model = SSTNet(1, 5, 1, 2)
    attention = model.motion_branch.stack.nodes[0].past_attention.in_proj_weight.clone()
    initialise(model, "release")
    kernels = [m.weight.detach() for m in model.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for kernel in kernels:
        if kernel.numel() > 10_000:
            assert kernel.std().item() == pytest.approx(0.02, rel=0.05)
            assert abs(kernel.mean().item()) < 1e-3
    scales = torch.cat([m.weight.detach() for m in norms])
    assert scales.mean().item() == pytest.approx(1, abs=0.002) and scales.std().item() == pytest.approx(0.02, rel=0.1)
    assert all((m.bias == 0).all() for m in norms)
    assert torch.equal(model.motion_branch.stack.nodes[0].past_attention.in_proj_weight, attention)


def test_kaiming_initialisation():
    torch.manual_seed(0)
    model = SSTNet(2, 5, 1, 1)
    initialise(model, "kaiming")
    kernel = model.neck.conv_gl[0].conv.weight.detach()
    assert kernel.std().item() == pytest.approx(math.sqrt(2 / kernel[0].numel()), rel=0.02)
    for predictors in (model.head.obj_preds, model.head.cls_preds):
        assert predictors[0].bias.sigmoid().detach().numpy() == pytest.approx(0.01, rel=1e-5)
    assert (model.head.reg_preds[0].bias == 0).all()
    model.eval()
    with torch.inference_mode():
        confidence = model(torch.randn(1, 3, 5, 64, 64))[:, 4].sigmoid()
    assert confidence.max() < 0.1  # "no object" everywhere


# Run folder


def log_row(epoch: int, **cells: float) -> dict:
    return {name: 0.5 for name in COLUMNS} | {"epoch": epoch, "seconds": 1.5} | cells


def test_run_log_keeps_the_rows_of_the_checkpoint(tmp_path):
    log = RunLog(tmp_path, {"epochs": 4}, {})
    rows = [log_row(epoch) for epoch in (1, 2, 3)]
    for row in rows:
        log.add(row)
    log.close()
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("4,0.5,0.")  # the beginning of a row, cut off with the run
    again = RunLog(tmp_path, {"epochs": 4}, {}, rows[:2])  # the row of epoch 3 has no checkpoint: it goes
    again.add(log_row(3, train_total=9.25))
    again.close()
    written = read_rows(tmp_path)
    assert [row["epoch"] for row in written] == ["1", "2", "3"] and written[2]["train_total"] == "9.25"
    assert list(written[0]) == list(COLUMNS) and not list(tmp_path.glob("*.tmp"))


def test_run_log_takes_losses_that_are_no_numbers(tmp_path):
    log = RunLog(tmp_path, {}, {})
    for epoch in range(2):
        log.add(log_row(epoch, val_loss=float("nan"), train_total=float("inf")))
    log.close()
    assert [row["val_loss"] for row in read_rows(tmp_path)] == ["nan", "nan"]
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_run_log_says_what_cannot_be_written(tmp_path):
    log = RunLog(tmp_path, {}, {})
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(UserError, match="curves.png: cannot be written"):
        log.add(log_row(0))
    log.close()


def test_class_names_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_class_names(TrainConfig().classes) == ("target",)
    own = tmp_path / "names.txt"
    own.write_bytes("\ufeffdrone\nbird\n".encode())  # as Notepad writes it
    assert read_class_names(Path("names.txt")) == ("drone", "bird")
    with pytest.raises(UserError, match="absent.txt: cannot be read"):
        read_class_names(Path("absent.txt"))


def test_run_dir_may_exist_but_not_hold_a_run(tmp_path):
    make_run_dir(tmp_path / "a" / "b", resume=False)
    make_run_dir(tmp_path / "a" / "b", resume=False)
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "last.pth").touch()
    make_run_dir(tmp_path, resume=True)
    with pytest.raises(UserError, match="holds a run already; go on with --resume, or pass another --run-dir"):
        make_run_dir(tmp_path, resume=False)
    with pytest.raises(UserError, match="cannot be written"):
        make_run_dir(tmp_path / "last.pth" / "run", resume=False)


# The run folder


@pytest.mark.parametrize("resume", [False, True])
def test_weights_whose_run_cannot_go_on_are_not_replaced(tmp_path, resume):
    data, run = make_data(tmp_path / "data"), tmp_path / "run"
    run.mkdir()
    (run / "best.pth").write_bytes(b"weights")
    with pytest.raises(UserError, match="holds best.pth of a run that cannot go on"):
        Trainer(small_config(data, run, resume=resume))
    assert (run / "best.pth").read_bytes() == b"weights"


def test_the_best_begins_anew_where_its_weights_are_not_there(tmp_path):
    data, run = make_data(tmp_path / "data"), tmp_path / "run"
    Trainer(small_config(data, run, epochs=1)).fit()
    there = Trainer(small_config(data, run, resume=True))
    assert there.progress.best < math.inf and "best.pth" not in there.resumed
    there.lock.release()
    (run / "best.pth").unlink()
    trainer = Trainer(small_config(data, run, resume=True))
    assert trainer.progress.best == math.inf and "best.pth is not there: the best begins anew" in trainer.resumed


def test_a_dry_run_says_that_the_folder_is_taken(tmp_path, capsys):
    data, run = make_data(tmp_path / "data"), tmp_path / "run"
    run.mkdir()
    (run / "last.pth").touch()
    Trainer(small_config(data, run, dry_run=True))
    assert "warning: " in (text := capsys.readouterr().err) and "holds a run already" in text


def test_what_only_a_first_step_sees_is_said_not_to_be_used(tmp_path):
    data, run = make_data(tmp_path / "data"), tmp_path / "run"
    Trainer(small_config(data, run, epochs=1)).fit()
    trainer = Trainer(small_config(data, run, resume=True, epochs=2, init="release", pretrained=run / "best.pth"))
    assert "--init is not used" in trainer.resumed and "--pretrained is not used" in trainer.resumed
    assert "epochs 1 -> 2" in trainer.resumed
