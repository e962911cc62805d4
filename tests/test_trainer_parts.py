"""Schedules, EMA, optimiser groups, initialisation, sampler, augmentation and run log, each on its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_weights import record
from torch import nn

from nets import SSTNet
from tests.training_cases import make_data, read_rows, small_config
from utils import augment
from utils.augment import Augmentation, EpochSampler, TrainingClips, random_crop
from utils.cli import UserError
from utils.clips import ClipSample
from utils.ema import EMA
from utils.optimizer import build_optimizer, initialise, parameter_groups
from utils.runlog import COLUMNS, RunLog, make_run_dir
from utils.schedule import Schedule, scaled_rates
from utils.trainer import Trainer

PRESETS = {"cross-slice": (2, 2), "released": (1, 1)}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A network this small only loses time to threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("trainer") / "data")


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


def test_ema_goes_on_from_its_state():
    model, other = counting_linear(), counting_linear()
    first, second = EMA(model), EMA(other)
    first.update(model)
    second.load_state_dict(first.state_dict())
    for ema in (first, second):
        with torch.no_grad():
            model.weight.fill_(7.0)
        ema.update(model)
    assert second.updates == 2 and torch.equal(first.model.weight, second.model.weight)


# Optimiser and start


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("kind", "cls"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_every_parameter_is_in_one_group(preset, kind, cls):
    model = SSTNet(1, 3, *PRESETS[preset], width=0.125)
    optimizer = build_optimizer(model, kind, 1e-3)
    assert type(optimizer) is cls
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


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


# Sampler


@given(clips=st.integers(1, 300), share=st.floats(0.01, 1), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_sampler_draws_a_share_without_repeats(clips, share, seed):
    sampler = EpochSampler(clips, share, seed)
    drawn = [index for index, _ in sampler]
    assert len(drawn) == len(sampler) == max(int(clips * share), 1)
    assert len(set(drawn)) == len(drawn) and set(drawn) <= set(range(clips))


def test_sampler_depends_on_seed_and_epoch_alone():
    def draw(seed: int, epoch: int) -> list:
        sampler = EpochSampler(100, 0.2, seed)
        sampler.epoch = epoch
        return list(sampler)

    assert draw(1, 0) == draw(1, 0)
    assert len({tuple(draw(seed, epoch)) for seed in (1, 2) for epoch in range(20)}) == 40
    seen = {index for epoch in range(60) for index, _ in draw(1, epoch)}
    assert seen == set(range(100))  # in the end every clip has its turn


# Augmentation


def marked_sample(height: int, width: int, column: int, row: int) -> ClipSample:
    """A dark clip with one bright pixel, which a box of 3 x 3 pixels is centred on."""
    clip = torch.full((3, height, width), 40, dtype=torch.uint8)
    clip[:, row, column] = 200
    return ClipSample(clip, torch.tensor([[column + 0.5, row + 0.5, 3.0, 3.0, 0.0]]), 7)


@settings(deadline=None, max_examples=300)
@given(
    height=st.sampled_from([32, 64, 96]),
    width=st.sampled_from([32, 64, 96]),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    crop=st.sampled_from([0, 32, 64, 128]),
    flip=st.booleans(),
    seed=st.integers(0, 2**62),
)
def test_target_stays_on_its_pixel(height, width, place, crop, flip, seed):
    column, row = 2 + int(place[0] * (width - 5)), 2 + int(place[1] * (height - 5))
    sample = marked_sample(height, width, column, row)
    original = (sample.clip.clone(), sample.targets.clone())
    result = Augmentation(crop=crop, flip=flip)(sample, torch.Generator().manual_seed(seed))
    assert torch.equal(sample.clip, original[0]) and torch.equal(sample.targets, original[1])
    sides = {min(crop, height), min(crop, width)} if crop else {height, width}
    assert set(result.clip.shape[1:]) == sides and result.index == 7 and result.clip.dtype == torch.uint8
    bright = (result.clip[-1] == 200).nonzero()
    assert len(bright) == len(result.targets)  # both are there, or both are cut off
    for centre_x, centre_y, box_width, box_height, _ in result.targets.tolist():
        at_edge = box_width < 3 or box_height < 3  # clipped, so its middle moved off the pixel
        if not at_edge:
            assert (centre_y - 0.5, centre_x - 0.5) == tuple(bright[0].tolist())


@settings(deadline=None, max_examples=50)
@given(column=st.floats(4, 124), row=st.floats(4, 92), seed=st.integers(0, 2**62))
def test_crop_around_a_target_holds_its_centre(column, row, seed):
    clip = torch.zeros(2, 96, 128, dtype=torch.uint8)
    target = torch.tensor([[column, row, 8.0, 8.0, 0.0]])
    generator = torch.Generator().manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "TARGET_SHARE", 1.0)  # else one crop of five is placed anywhere
        draws = [random_crop(clip, target, 32, generator) for _ in range(50)]
    for cut, targets in draws:
        assert cut.shape == (2, 32, 32) and len(targets) == 1
        low, high = targets[0, :2] - targets[0, 2:4] / 2, targets[0, :2] + targets[0, 2:4] / 2
        assert (low >= 0).all() and (high <= 32).all() and (targets[0, 2:4] >= 4).all()


def test_crop_of_a_clip_without_targets():
    clip, targets = random_crop(torch.zeros(2, 64, 64, dtype=torch.uint8), torch.zeros(0, 5), 32, torch.Generator())
    assert clip.shape == (2, 32, 32) and targets.shape == (0, 5)


def test_photometric_change_is_the_same_in_all_frames():
    sample = marked_sample(32, 32, 5, 6)
    clip = Augmentation(photometric=0.2)(sample, torch.Generator().manual_seed(1)).clip
    assert torch.equal(clip[0], clip[1]) and torch.equal(clip[0], clip[2])
    assert not torch.equal(clip, sample.clip)
    assert abs(int(clip[0, 0, 0]) - 40) <= 0.2 * 88 + 0.2 * 255 + 1


def test_default_augmentation_changes_nothing(data_root, tmp_path):
    trainer = Trainer(small_config(data_root, tmp_path))
    clips: TrainingClips = trainer.loader.dataset
    for index in range(3):
        plain, augmented = clips.clips[index], clips[(index, 99)]
        assert torch.equal(plain.clip, augmented.clip) and torch.equal(plain.targets, augmented.targets)


def test_augmentation_leaves_the_cached_frames_alone(data_root, tmp_path):
    trainer = Trainer(small_config(data_root, tmp_path, crop=32, flip=True, photometric=0.5))
    clips: TrainingClips = trainer.loader.dataset
    before = [clips.clips[index].clip.clone() for index in range(len(clips))]
    for seed in range(3):
        for index in range(len(clips)):
            clips[(index, seed)]
    assert all(torch.equal(clips.clips[index].clip, clip) for index, clip in enumerate(before))
    same, other = (clips[(2, seed)].clip for seed in (5, 6))
    assert torch.equal(same, clips[(2, 5)].clip) and not torch.equal(same, other)


# Run folder


def log_row(epoch: int, **cells: float) -> dict:
    return {name: 0.5 for name in COLUMNS} | {"epoch": epoch, "seconds": 1.5} | cells


def test_run_log_keeps_the_rows_before_the_start(tmp_path):
    log = RunLog(tmp_path, {"epochs": 4})
    for epoch in range(3):
        log.add(log_row(epoch))
    log.close()
    again = RunLog(tmp_path, {"epochs": 4}, start_epoch=2)  # the row of epoch 2 has no checkpoint: it goes
    again.add(log_row(2, train_total=9.25))
    again.close()
    rows = read_rows(tmp_path)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"] and rows[2]["train_total"] == "9.25"
    assert list(rows[0]) == list(COLUMNS) and not list(tmp_path.glob("*.tmp"))


def test_run_log_drops_a_row_that_was_cut_off(tmp_path):
    log = RunLog(tmp_path, {})
    log.add(log_row(10))
    log.close()
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("1,0.5,0.")  # the beginning of row 11, which reads as a row of epoch 1
    RunLog(tmp_path, {}, start_epoch=11).close()
    assert [row["epoch"] for row in read_rows(tmp_path)] == ["10"]


def test_run_log_takes_losses_that_are_no_numbers(tmp_path):
    log = RunLog(tmp_path, {})
    for epoch in range(2):
        log.add(log_row(epoch, val_loss=float("nan"), train_total=float("inf")))
    log.close()
    assert [row["val_loss"] for row in read_rows(tmp_path)] == ["nan", "nan"]
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_run_log_says_what_cannot_be_written(tmp_path):
    log = RunLog(tmp_path, {})
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(UserError, match="curves.png: cannot be written"):
        log.add(log_row(0))
    log.close()


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
