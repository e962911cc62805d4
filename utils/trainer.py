"""Training: the recipe from data to checkpoints. Knows no data set; `TrainConfig` says everything.

Its parts: training_setup.py (what it is made of), run_state.py (where a run is), tensor_files.py (files),
failures.py (messages), distributed.py (several processes), progress.py and runlog.py (what a person sees).
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nets import YOLOXLoss
from utils import check_data
from utils.check_rows import training_warnings
from utils.checkpoint import checkpoint_of
from utils.class_file import read_class_names
from utils.cli import UserError
from utils.clips import ClipBatch
from utils.config import TrainConfig
from utils.distributed import Processes, share_batch_statistics
from utils.dry_run import describe_run
from utils.ema import EMA
from utils.failures import NotFinite, name_clips, remedy
from utils.optimizer import build_optimizer, restore_optimizer
from utils.progress import EpochProgress, describe_epoch
from utils.run_lock import RunLock
from utils.run_state import (
    BEST,
    Progress,
    check_same_network,
    newest_run,
    random_states,
    restore_progress,
    restore_random_states,
    save_run,
    seed_everything,
    state_of_run,
)
from utils.runlog import Messages, RunLog, held, make_run_dir
from utils.schedule import Schedule, clamping, scaled_rates
from utils.signals import Stopped, StopSignals, WorkerSignals
from utils.tensor_files import save_atomically
from utils.training_setup import batch_shape, build_loader, build_model, load_split
from utils.training_step import TrainingStep
from utils.validation import validate


def train(config: TrainConfig) -> int:
    """Run a whole training, or with `check_data` only look at its data: what train_DAUB.py and train_IRDST.py call."""
    processes = Processes.from_environment()
    if config.check_data:
        return check_data.main(config.data_check, "--run-dir") if processes.is_main else 0
    device = processes.device(config.device)
    stop = StopSignals(patient=processes.several)
    with processes.joined(device, config.rank_timeout):
        try:
            trainer = Trainer(config, processes, stop)
        except (RuntimeError, MemoryError) as error:  # another process may have met a fault of its own
            if text := remedy(error, config, processes.count):
                raise UserError(text) from error
            raise
        if config.dry_run:
            if processes.is_main:
                print(describe_run(trainer), flush=True)
        else:
            with stop:  # until now there was nothing to save
                trainer.fit()
    return 0


class Trainer:
    """One training run. Reads as its own table of contents: set up, then epochs of steps, validation, saving."""

    def __init__(self, config: TrainConfig, processes: Processes | None = None, stop: StopSignals | None = None):
        self.config = config
        self.processes = processes or Processes()
        self.stop = stop or StopSignals()
        self.device = self.processes.device(config.device)
        self.messages = Messages(self.processes.is_main)
        self.log: RunLog | None = None
        self.lock: RunLock | None = None
        self.class_names = read_class_names(config.classes)
        self.train_data = load_split(config, "train", self.class_names)
        self.val_data = load_split(config, "val", self.class_names)
        num_clips = len(self.train_data.records)
        shape = batch_shape(config, num_clips, self.train_data.source, self.processes)
        checkpoint = self.processes.from_main(self._open_run_dir() if self.processes.is_main else None)
        seed_everything(config.seed)
        self.model = build_model(config, len(self.class_names), self.device, checkpoint is None, self.messages.say)
        self.criterion = YOLOXLoss(len(self.class_names), self.model.stride, config.iou_loss)
        self.ema = EMA(self.model)  # before batch statistics are shared: it never needs other processes
        rates = config.nominal_lr, config.batch_size, config.optimizer, config.lr_bounds
        peak, floor = scaled_rates(*rates)
        if config.lr is not None and (note := clamping(*rates)):
            self.messages.say(note)
        self.schedule = Schedule(peak, floor, config.epochs, config.schedule)
        self.optimizer = build_optimizer(self.model, config.optimizer, peak)
        if config.sync_batchnorm and self.processes.several:
            share_batch_statistics(self.model, self.device, only_check=config.dry_run)
        self.step = TrainingStep(
            config, self.model, self.criterion, self.optimizer, self.ema, self.processes, self.device
        )
        pin = self.device.type == "cuda"
        self.worker_signals = WorkerSignals()
        self.loader = build_loader(config, self.train_data, shape, self.processes.rank, pin, self.worker_signals)
        self.progress = Progress()
        self.saved: str | None = None  # the position behind last.pth
        self.unsaved = False  # whether anything was done since
        self.resumed: str | None = None  # what there is to say of it
        self._started = 0.0
        if self.processes.rank:  # dropout of each process's own; the weights are the main one's
            torch.manual_seed(config.seed + self.processes.rank)
        if checkpoint is not None:
            path, content = checkpoint
            try:
                self._resume(path, content)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and remedy(error, config, self.processes.count):
                    raise  # the machine's failure, such as memory that is short, and not the file's
                raise UserError(f"{path}: of a run of another version ({error}); pass another --run-dir") from error

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.loader.batch_sampler.steps

    # The whole run

    def fit(self) -> None:
        """Train to the last epoch. However it ends, the log is closed, the loader's processes and the run folder are
        let go."""
        try:
            self._fit()
        finally:
            if self.lock:
                self.lock.release()

    def _fit(self) -> None:
        config = self.config
        if self.progress.epoch >= config.epochs:
            done = f"finished already, {self.progress.epoch} epochs; raise --epochs to train on"
            self.messages.say(f"{config.run_dir}: {done}")
            return
        if self.processes.is_main:
            self.log = RunLog(config.run_dir, config.to_json(), config.files(), self.progress.rows, self.device)
            self.messages.write_to(self.log)
        self.messages.say("\n".join(filter(None, [self.resumed, self._summary()])))
        for line in self._warnings() if self.log else ():
            self.messages.warn(f"warning: {line}")
        self.worker_signals.begin()
        try:
            with self._failures_said():
                while self.progress.epoch < config.epochs:
                    self._fit_epoch()
        except Stopped as stopped:
            if stopped.args[0] == signal.SIGINT:
                raise KeyboardInterrupt from None
            return
        finally:
            self.worker_signals.end()
            if self.log:
                self.log.close()
            del self.loader  # its processes end with it
        files = ", ".join(str(config.run_dir / name) for name in (BEST, "metrics.csv", "curves.png"))
        self.messages.say(f"done: {files}")

    def _warnings(self) -> list[str]:
        return training_warnings(self.train_data, self.val_data, self.config.input_size, self.config.intensity)

    def _summary(self) -> str:
        """What is about to be trained, in a line."""
        parameters = sum(p.numel() for p in self.model.parameters()) / 1e6
        slices, layers = self.config.slices_layers
        branch = f"motion branch {slices} x {layers}" if slices else "no motion branch"
        where = f"{self.processes.count} x {self.device.type}" if self.processes.several else str(self.device)
        return (
            f"{len(self.train_data.records)} training and {len(self.val_data.records)} validation frames; "
            f"{parameters:.2f} M parameters, {branch}; {self.steps} steps an epoch on {where}"
        )

    @contextlib.contextmanager
    def _failures_said(self) -> Iterator[None]:
        """What ends a run is said with what there is to go on from, in train.log too."""
        try:
            yield
        except Stopped as stopped:
            self.messages.say(f"stopped by {stopped.args[0].name}; {self._saved()}")
            raise
        except KeyboardInterrupt:
            print(f"{self._position()} is not saved; {self._saved()}", file=sys.stderr)
            raise
        except (UserError, RuntimeError, MemoryError) as error:
            if isinstance(error, UserError):
                message = str(error)
            elif text := remedy(error, self.config, self.processes.count):
                message = f"{text}; {self._saved()}"
            else:
                raise
            if self.log:
                with contextlib.suppress(UserError):  # the disk may be what fails
                    self.log.note(f"error: {message}")
            raise UserError(message) from error

    def _position(self) -> str:
        return f"epoch {self.progress.epoch + 1}, step {self.progress.step + 1}"

    def _saved(self) -> str:
        """What there is to go on from."""
        if not self.saved:
            return "no checkpoint has been written yet"
        return f"{self.config.run_dir / 'last.pth'} is of {self.saved}, --resume goes on from there"

    # An epoch

    def _fit_epoch(self) -> None:
        """Train, validate where it is due, log and save."""
        config, progress = self.config, self.progress
        self._started = time.perf_counter() - progress.seconds
        row: dict[str, Any] = {"epoch": progress.epoch + 1, "lr": self._set_learning_rate()}
        row |= {f"train_{name}": value for name, value in self.train_epoch().items()}
        self._check_weights()
        improved = False
        if row["epoch"] % config.val_interval == 0 or row["epoch"] == config.epochs:
            self._save()  # a run that ends while it validates has lost nothing
            row["val_loss"], row["val_mAP50"] = self.validate()
            improved = self._improves(row["val_loss"] if config.best_by == "loss" else -row["val_mAP50"])
        row["seconds"] = round(time.perf_counter() - self._started, 1)
        progress.finish_epoch(row)
        self.unsaved = True
        if self.log:
            self.log.add(row)
            self._save_weights(improved)
        self._save()
        self.messages.say(describe_epoch(row, config.epochs))

    def _set_learning_rate(self) -> float:
        rate = self.schedule.rate(self.progress.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def train_epoch(self) -> dict[str, float]:
        """The steps that are left of an epoch; returns the mean of each loss term over all of it."""
        config, progress, order = self.config, self.progress, self.loader.batch_sampler
        self.model.train()
        order.sampler.epoch, order.first = progress.epoch, progress.step
        title = f"epoch {progress.epoch + 1}/{config.epochs}"
        rate, shown = self.optimizer.param_groups[0]["lr"], self.processes.is_main
        later = (config.epochs - progress.epoch - 1) * self.steps
        with EpochProgress(title, self.steps, progress.step, later, config.batch_size, self.messages.say, shown) as bar:
            parts = iter(self.loader) if progress.step < self.steps else iter(())
            for batches in zip(*[parts] * config.accumulate, strict=True):
                self.processes.meet()  # one may have failed while it read its batch
                progress.add(self.train_step(*batches))
                self.unsaved = True
                bar.update(rate, progress.means())
                self._save_between_steps()
        return progress.means()

    def _save_between_steps(self) -> None:
        """Save where it is time to, or where the run is to stop."""
        every, stop = self.config.checkpoint_every, self.processes.any(self.stop.received is not None)
        if stop or (every and self.progress.step % every == 0 and self.progress.step < self.steps):
            self._save()
        if stop:
            raise Stopped(*[received for received in self.processes.all_of(self.stop.received) if received][:1])

    def train_step(self, *batches: ClipBatch) -> dict[str, float] | None:
        """One step on the parts of a batch; returns the loss terms. None: it was not finite and is skipped."""
        try:
            return self.step(*batches)
        except NotFinite as fault:
            self._skip(fault)
            return None

    def _skip(self, fault: NotFinite) -> None:
        """Pass over a step that was not finite, or end the run where these are too many."""
        skipped, allowed = self.progress.skipped, self.config.skip_nonfinite
        clips = sum(self.processes.all_of(fault.clips), [])
        text = f"{self._position()}: {fault} {name_clips([self.train_data.records[i].name for i in clips])}"
        if skipped < allowed:
            self.messages.say(f"{text}; skipped, {skipped + 1} of {allowed}")
            return
        more = f"{allowed} such steps were skipped already" if allowed else "--skip-nonfinite N skips N such steps"
        advice = f"look at these frames and at --pretrained, or lower --lr; {more}"
        self.processes.fail(f"{text}; {advice}; {self._saved()}")

    # Validation and files

    def validate(self) -> tuple[float, float]:
        """Mean detection loss an image and mAP50 of the EMA's network on the validation frames."""
        self.processes.copy_from_main(list(self.ema.model.buffers()))  # statistics of its own clips in each process
        return validate(
            self.ema.model, self.criterion, self.val_data, self.class_names, self.config.input_size, self.device,
            self.processes, self.stop, self.config.intensity,
        )

    def _improves(self, score: float) -> bool:
        """Whether a score is the best so far; the first one is, even if it is not a number."""
        if score < self.progress.best:
            self.progress.best = score
            return True
        return not (self.config.run_dir / BEST).exists()

    def _check_weights(self) -> None:
        """Weights that are not finite are never saved."""
        if not all(value.isfinite().all() for value in self.ema.model.state_dict().values()):
            where = f"epoch {self.progress.epoch + 1}"
            raise UserError(f"{where}: its last step made weights infinite; lower --lr; {self._saved()}")

    def _weights(self) -> dict[str, Any]:
        return checkpoint_of(self.ema.model, self.class_names, self.config.input_size, self.config.intensity)

    def _save_weights(self, improved: bool) -> None:
        """Write best.pth and, now and then, the epoch's weights."""
        run_dir, interval, epoch = self.config.run_dir, self.config.save_interval, self.progress.epoch
        if improved:
            save_atomically(self._weights(), run_dir / BEST)
        if interval and epoch % interval == 0:
            save_atomically(self._weights(), run_dir / f"epoch_{epoch:03d}.pth")

    def _save(self) -> None:
        """Write last.pth: all that --resume needs. Nothing, where nothing was done since it was written."""
        if not self.unsaved:
            return
        chance = self.processes.all_of(random_states(self.device))
        self.progress.seconds = time.perf_counter() - self._started if self.progress.step else 0.0
        if self.processes.is_main:
            self._check_weights()
            states = {
                "network": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.step.scaler.state_dict(),
                "ema_updates": self.ema.updates,
                "random": chance,
            }
            config, num_clips = self.config, len(self.train_data.records)
            training = state_of_run(self.progress, config.to_json(), config.files(), num_clips, **states)
            save_run(self._weights() | {"training": training}, self.config.run_dir)
        self.saved, self.unsaved = str(self.progress), False

    def _open_run_dir(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint to go on from, under --resume."""
        config = self.config
        if config.dry_run:
            if text := None if config.resume else held(config.run_dir):
                self.messages.warn(f"warning: {text}")
            return None
        make_run_dir(config.run_dir, config.resume)
        self.lock = RunLock(config.run_dir)
        if not config.resume:
            return None
        found = newest_run(config.run_dir, self.messages.warn)
        if found is None:
            if text := held(config.run_dir):  # best.pth, which a run from the beginning would replace
                raise UserError(text)
            self.messages.say(f"{config.run_dir / 'last.pth'}: not there yet; --resume starts from the beginning")
        return found

    def _resume(self, path: Path, content: dict[str, Any]) -> None:
        """Go on where a checkpoint's run stopped."""
        state, settings = content["training"], self.config.to_json()
        check_same_network(path, content, self.model.architecture, settings["optimizer"])
        self.model.load_state_dict(state["network"])
        restore_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"]:  # empty but for fp16
            self.step.scaler.load_state_dict(state["scaler"])
        self.ema.model.load_state_dict(content["model"])
        self.ema.updates = state["ema_updates"]
        if self.processes.rank < len(state["random"]):
            restore_random_states(state["random"][self.processes.rank], self.device)
        self.saved = str(Progress(**state["progress"]))
        num_clips = len(self.train_data.records)
        self.progress, notes = restore_progress(state, settings, self.config.files(), num_clips)
        if self.progress.best < math.inf and not (self.config.run_dir / BEST).exists():
            self.progress.best = math.inf
            notes.append(f"{BEST} is not there: the best begins anew")
        self.resumed = "; ".join([f"{path}: going on after {self.saved}", *notes])
