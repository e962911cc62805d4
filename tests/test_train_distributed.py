"""Two processes on one machine (gloo): the gradients of one, one set of files, and ends in bounded time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training_cases import ROOT, flags, read_rows, read_weights, same_run, small_config
from tests.training_process import CONTEXT, Death, finish, start
from utils.augment import EpochSampler
from utils.batches import BatchShape, BatchShare
from utils.checkpoint import load_network
from utils.cli import UserError
from utils.config import TrainConfig
from utils.distributed import Processes, share_batch_statistics
from utils.signals import StopSignals
from utils.trainer import Trainer
from utils.training_step import TERMS
from utils.validation import validate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills by Linux's own means")

TINY = {"width": 0.0625, "num_frames": 2, "epochs": 2, "checkpoint_every": 1}


def places(count: int = 2) -> list[dict[str, str]]:
    """What torchrun tells each of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def start_two(arguments: list[str], folder: Path, deaths: tuple = (None, None)) -> list:
    """A command in two processes, which write to output0 and output1."""
    outputs = [folder / "output0", folder / "output1"]
    return [start(arguments, *rest) for rest in zip(outputs, deaths, places(), strict=True)]


def run_two(arguments: list[str], folder: Path, deaths: tuple = (None, None)) -> list[int]:
    return [finish(process, 120) for process in start_two(arguments, folder, deaths)]


# Arithmetic


def named(terms: torch.Tensor) -> dict[str, float]:
    """The loss terms of a step by name."""
    return dict(zip(TERMS, terms.tolist(), strict=True))


def save_gradients(config: TrainConfig, path: Path, place: dict[str, str]) -> None:
    """Gradients and loss terms of the first step, with BatchNorm in evaluation mode."""
    torch.set_num_threads(1)
    os.environ.update(place)
    processes = Processes.from_environment()
    with processes.joined(torch.device("cpu"), 60):
        trainer = Trainer(config, processes)
        trainer.model.train()
        for module in trainer.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        values = named(trainer.step.backward(next(iter(trainer.loader))))
        if processes.is_main:
            gradients = {name: parameter.grad for name, parameter in trainer.model.named_parameters()}
            torch.save({"values": values, "gradients": gradients}, path)


def test_gradients_of_two_processes_are_those_of_one(data_root, tmp_path):
    config = small_config(data_root, tmp_path / "run", width=0.0625, num_frames=2, num_layers=2, attention_dropout=0.0)
    results = []
    for count in (1, 2):
        path = tmp_path / f"{count}.pth"
        members = [CONTEXT.Process(target=save_gradients, args=(config, path, place)) for place in places(count)]
        for member in members:
            member.start()
        assert [finish(member, 120) for member in members] == [0] * count
        results.append(read_weights(path))
    one, two = results
    assert two["values"] == pytest.approx(one["values"], rel=1e-5)
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][name], gradient, rtol=0, atol=1e-5, msg=name)
    assert max(gradient.abs().max() for gradient in one["gradients"].values()) > 0.1


def skip_a_step(config: TrainConfig, folder: Path, place: dict[str, str]) -> None:
    """A run in which the second process's loss is no number in the second part of the first step."""
    torch.set_num_threads(1)
    os.environ.update(place)
    processes = Processes.from_environment()
    with processes.joined(torch.device("cpu"), 60):
        trainer = Trainer(config, processes)
        passes: list[int] = []

        def poison(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            passes.append(0)
            return output * float("nan") if len(passes) == 2 and not processes.is_main else output

        trainer.model.head.register_forward_hook(poison)
        trainer.fit()
        torch.save({"weights": trainer.model.state_dict()}, folder / f"{processes.rank}.pth")


def test_a_skipped_step_is_skipped_by_both(data_root, tmp_path):
    config = small_config(data_root, tmp_path / "run", **TINY | {"epochs": 1}, accumulate=2, skip_nonfinite=1)
    members = [CONTEXT.Process(target=skip_a_step, args=(config, tmp_path, place)) for place in places()]
    for member in members:
        member.start()
    assert [finish(member, 120) for member in members] == [0, 0]
    progress = read_weights(tmp_path / "run" / "last.pth")["training"]["progress"]
    assert (progress["epoch"], progress["skipped"]) == (1, 1)
    one, two = (read_weights(tmp_path / f"{rank}.pth")["weights"] for rank in (0, 1))
    assert all(torch.equal(two[name], value) for name, value in one.items() if "running" not in name)


def test_parts_are_averaged(data_root, tmp_path):
    trainer = Trainer(small_config(data_root, tmp_path, width=0.0625, num_frames=2, accumulate=2))
    parameter = trainer.model.head.obj_preds[0].weight
    trainer.model.train()
    parts = iter(trainer.loader)
    first, second = next(parts), next(parts)
    assert len(first.clips) == len(second.clips) == 2
    values, gradients = [], []
    for batches in ((first,), (second,), (first, second)):
        values.append(named(trainer.step.backward(*batches)))
        gradients.append(parameter.grad.clone())
    torch.testing.assert_close(gradients[2], (gradients[0] + gradients[1]) / 2)
    assert values[2]["total"] == pytest.approx((values[0]["total"] + values[1]["total"]) / 2, rel=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 2])
def test_a_step_has_the_same_clips_however_it_is_shared(parts, count):
    sampler = EpochSampler(50, 0.8, seed=1)
    wanted = list(sampler)[:40]
    steps: list[list] = [[] for _ in range(5)]
    for rank in range(count):
        share = BatchShare(sampler, BatchShape.split(8, parts, Processes(rank, count)), rank)
        batches = list(share)
        assert len(batches) == len(share) == 5 * parts and {len(batch) for batch in batches} == {8 // parts // count}
        for i, batch in enumerate(batches):
            steps[i // parts] += batch
        share.first = 3
        assert list(share) == batches[3 * parts :]
    assert [sorted(step) for step in steps] == [sorted(wanted[i : i + 8]) for i in range(0, 40, 8)]


@pytest.mark.parametrize(("size", "parts", "count"), [(4, 3, 1), (4, 2, 4), (6, 1, 4), (2, 4, 1)])
def test_batch_that_cannot_be_shared(size, parts, count):
    with pytest.raises(UserError, match=f"--batch-size {size}: .* of --accumulate {parts} x {count} processes"):
        BatchShape.split(size, parts, Processes(0, count))


def test_shares_are_whole_and_even():
    items = list(range(11))
    shares = [Processes(rank, 3).share(items) for rank in range(3)]
    assert sum(shares, []) == items and {len(share) for share in shares} == {3, 4}


def test_shared_statistics_need_gpus(data_root, tmp_path):
    config = small_config(data_root, tmp_path, sync_batchnorm=True)
    assert Trainer(config).steps == 4  # one process has the whole batch
    with pytest.raises(UserError, match="--sync-batchnorm: works on GPUs only"):
        share_batch_statistics(nn.BatchNorm2d(2), torch.device("cpu"))


# Runs


@pytest.fixture(scope="module")
def whole(data_root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    assert run_two(flags(data_root, folder / "run", **TINY), folder) == [0, 0]
    return folder / "run"


def own_lines(output: Path) -> list[str]:
    """What a process printed, less what gloo says of its peers in some versions of PyTorch (2.9)."""
    return [line for line in output.read_text().splitlines() if not line.startswith("[Gloo]")]


def test_one_set_of_files(whole, data_root, tmp_path):
    names = sorted(path.name.split(".0.")[0].split(".tfevents")[0] for path in whole.iterdir())
    expected = ["best.pth", "config.json", "curves.png", "events.out", "last.pth", "metrics.csv", "previous.pth"]
    assert names == [".lock", *expected, "train.log"]
    assert own_lines(whole.parent / "output1") == []
    assert len(own_lines(whole.parent / "output0")) == 4  # what is trained, two epochs, done
    rows = read_rows(whole)
    Trainer(small_config(data_root, tmp_path, **TINY)).fit()
    for mine, alone in zip(rows, read_rows(tmp_path), strict=True):
        assert mine["lr"] == alone["lr"]  # the batch is the same, however many processes share it
        assert float(mine["train_total"]) == pytest.approx(float(alone["train_total"]), rel=0.2)


def test_validation_in_two_processes_is_validation_in_one(whole, data_root, tmp_path):
    trainer = Trainer(small_config(data_root, tmp_path, **TINY))
    model = load_network(whole / "last.pth").model
    loss, score = validate(
        model, trainer.criterion, trainer.val_data, ("target",), (64, 64), trainer.device, Processes(), StopSignals()
    )
    last = read_rows(whole)[-1]
    assert (loss, score) == pytest.approx((float(last["val_loss"]), float(last["val_mAP50"])), rel=1e-4)


@pytest.mark.parametrize(
    "deaths",
    [
        (None, Death("open", "images/train", 7)),  # the other one reads headers, before the first step
        (None, Death("open", "images/train", 16 + 7)),  # it reads clips, after the headers of 16 frames
        (Death("os.rename", "last.pth.tmp", 3), None),  # the main one saves
        (None, Death("open", "images/test", 8 + 2)),  # the other one validates, after the headers of 8 frames
    ],
    ids=["beginning", "stepping", "saving", "validating"],
)
def test_a_killed_process_ends_the_other(deaths, whole, data_root, tmp_path):
    statuses = run_two(flags(data_root, tmp_path / "run", **TINY), tmp_path, deaths)
    dead = 0 if deaths[0] else 1
    assert statuses[dead] == -signal.SIGKILL and statuses[1 - dead] == 2
    error = (tmp_path / f"output{1 - dead}").read_text()
    assert "error: another process of this run has ended, or did not answer" in error
    assert run_two(flags(data_root, tmp_path / "run", **TINY, resume=True), tmp_path) == [0, 0]
    assert same_run(whole, tmp_path / "run")


def test_a_process_that_hangs_is_given_up(data_root, tmp_path):
    first, second = start_two(flags(data_root, tmp_path / "run", **TINY | {"epochs": 50}, rank_timeout=4), tmp_path)
    while first.is_alive() and not (tmp_path / "run" / "last.pth").exists():
        first.join(0.01)
    os.kill(second.pid, signal.SIGSTOP)
    assert finish(first, 120) == 2
    second.kill()
    error = (tmp_path / "output0").read_text()
    assert "did not answer for --rank-timeout 4 s" in error and "--resume goes on from there" in error


def test_a_signal_to_one_stops_both(whole, data_root, tmp_path):
    members = start_two(flags(data_root, tmp_path / "run", **TINY), tmp_path)
    while members[0].is_alive() and not (tmp_path / "run" / "last.pth").exists():
        members[0].join(0.01)
    os.kill(members[1].pid, signal.SIGTERM)
    assert [finish(member, 120) for member in members] == [0, 0]
    assert "stopped by SIGTERM; " in (tmp_path / "output0").read_text()
    assert run_two(flags(data_root, tmp_path / "run", **TINY, resume=True), tmp_path) == [0, 0]
    assert same_run(whole, tmp_path / "run")


def test_loss_that_is_no_number_is_said_once(whole, data_root, tmp_path):
    content = read_weights(whole / "best.pth")
    content["model"]["head.obj_preds.0.bias"].fill_(3e38)  # whose sum over the cells is beyond float32
    torch.save(content, tmp_path / "poisoned.pth")
    arguments = flags(data_root, tmp_path / "run", **TINY, pretrained=tmp_path / "poisoned.pth")
    assert run_two(arguments, tmp_path) == [2, 2]
    assert (tmp_path / "output0").read_text().count("error: epoch 1, step 1: the loss is inf for the clips") == 1
    assert "error" not in (tmp_path / "output1").read_text()


def test_a_signal_ends_the_wait_for_the_others(data_root, tmp_path):
    """The second process never comes."""
    place = places()[0]
    member = start(flags(data_root, tmp_path / "run", **TINY), tmp_path / "output0", None, place)
    while member.is_alive() and not _listens(place):
        member.join(0.01)
    os.kill(member.pid, signal.SIGTERM)
    assert finish(member, 30) == -signal.SIGTERM
    assert not (tmp_path / "run").exists()


def _listens(place: dict[str, str]) -> bool:
    """Whether the first process waits for others at its address."""
    try:
        socket.create_connection((place["MASTER_ADDR"], int(place["MASTER_PORT"])), timeout=1).close()
    except OSError:
        return False
    return True


def test_torchrun(data_root, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = flags(data_root, tmp_path / "run", **TINY | {"epochs": 1, "preset": "cross-slice"}, accumulate=2)
    command = [*torchrun, str(ROOT / "train_DAUB.py"), *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr, done.stderr
    assert "4 steps an epoch on 2 x cpu" in done.stdout and done.stdout.count("epoch 1/1") == 1
    assert len(read_rows(tmp_path / "run")) == 1
