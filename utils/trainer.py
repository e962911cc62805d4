"""Training: the recipe from data to checkpoints. Knows no data set; `TrainConfig` says everything."""

from __future__ import annotations

import random
import sys
import time
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from nets import SSTNet, YOLOXLoss
from utils import check_data
from utils.annotations import Annotations, load_annotations
from utils.augment import EpochSampler, TrainingClips
from utils.check_rows import training_warnings
from utils.checkpoint import checkpoint_of, load_weights, read_checkpoint, save_atomically
from utils.cli import UserError
from utils.clips import ClipBatch, ClipDataset, collate_clips, normalise_clips, to_targets
from utils.config import TrainConfig, choose_device, read_class_names
from utils.detector import Detector, coco_results
from utils.ema import EMA
from utils.evaluation import evaluate
from utils.optimizer import build_optimizer, initialise
from utils.runlog import RunLog, make_run_dir
from utils.schedule import Schedule, scaled_rates

TERMS = ("total", "iou", "obj", "cls", "motion")
NAMED_CLIPS = 4  # of a batch whose loss is not finite


def train(config: TrainConfig) -> int:
    """Run a whole training, or with `check_data` only look at its data: what train_DAUB.py and train_IRDST.py call."""
    if config.check_data:
        return check_data.main(config.data_check)
    Trainer(config).fit()
    return 0


class Trainer:
    """One training run. Reads as its own table of contents: set up, then epochs of steps, validation, saving."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.device = choose_device(config.device)
        self.class_names = read_class_names(config.classes)
        self.train_data = self._load("train")
        self.val_data = self._load("val")
        if len(self.train_data.records) * config.epoch_share < config.batch_size:
            raise UserError(
                f"{self.train_data.source}: {len(self.train_data.records)} clips x --epoch-share {config.epoch_share} "
                f"are less than one batch of {config.batch_size}; lower --batch-size or raise --epoch-share"
            )
        make_run_dir(config.run_dir, config.resume)
        checkpoint = self._last_checkpoint() if config.resume else None
        seed_everything(config.seed)
        self.model = self._build_model(fresh=checkpoint is None)
        self.criterion = YOLOXLoss(len(self.class_names), self.model.stride, config.iou_loss)
        peak, floor = scaled_rates(config.nominal_lr, config.batch_size, config.optimizer)
        self.schedule = Schedule(peak, floor, config.epochs, config.schedule)
        self.optimizer = build_optimizer(self.model, config.optimizer, peak)
        self.ema = EMA(self.model)
        self.sampler, self.loader = self._build_loader()
        self.epoch = 0
        self.saved = 0  # epochs behind last.pth
        self.best = float("inf")  # what best.pth has: validation loss, or minus mAP50
        if checkpoint is not None:
            self._resume(checkpoint)

    def _load(self, split: Literal["train", "val"]) -> Annotations:
        """Annotations of a split; they must have the classes of the network, or ranks would mean other classes."""
        config, num_classes = self.config, len(self.class_names)
        path = config.annotations(split)
        if config.data_root.is_dir() and not path.is_file():
            raise UserError(f"{path}: no such file; pass the {split} list or COCO JSON with --{split}-list")
        data = load_annotations(path, config.data_root, num_classes)
        if len(data.category_ids) != num_classes:
            raise UserError(
                f"{data.source}: {len(data.category_ids)} categories, but {config.classes} names {num_classes} "
                "classes; pass the data set's own class file with --classes"
            )
        if path.suffix.lower() == ".json" and num_classes > 1 and data.class_names != self.class_names:
            raise UserError(
                f"{path}: its categories are {', '.join(data.class_names)}, but {config.classes} says "
                f"{', '.join(self.class_names)}; write the same names in the same order"
            )
        return data

    def _build_model(self, fresh: bool) -> SSTNet:
        config = self.config
        slices, layers = config.slices_layers
        model = SSTNet(
            len(self.class_names), config.num_frames, slices, layers, config.depth, config.width,
            config.attention_dropout,
        )
        initialise(model, config.init)
        if config.pretrained and fresh:
            if not config.pretrained.is_file():
                raise UserError(f"{config.pretrained}: no such file; --pretrained takes a weight file (.pth)")
            report = load_weights(model, config.pretrained)
            if not report.loaded:
                raise UserError(f"{config.pretrained}: weights of another network, no name and shape fits ({report})")
            print(f"{config.pretrained}: {report}", flush=True)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        return model.to(self.device, memory_format=layout)

    def _build_loader(self) -> tuple[EpochSampler, DataLoader]:
        config = self.config
        clips = ClipDataset(self.train_data, config.input_size, config.num_frames, config.cache_mb * 2**20)
        sampler = EpochSampler(len(clips), config.epoch_share, config.seed)
        loader = DataLoader(
            TrainingClips(clips, config.augmentation),
            batch_size=config.batch_size,
            sampler=sampler,
            num_workers=config.workers,
            collate_fn=collate_clips,
            drop_last=True,
            pin_memory=self.device.type == "cuda",
            persistent_workers=config.workers > 0,
            # Its own: from the global one it would draw at each start of the workers, so also after --resume.
            generator=torch.Generator().manual_seed(config.seed),
        )
        return sampler, loader

    def fit(self) -> None:
        """Train to the last epoch. However it ends, the log is closed and the loader's processes are let go."""
        config = self.config
        if self.epoch >= config.epochs:
            print(f"{config.run_dir}: finished already, {self.epoch} epochs; raise --epochs to train on", flush=True)
            return
        log = RunLog(config.run_dir, config.to_json(), self.epoch)
        print(self._summary(), flush=True)
        for line in training_warnings(self.train_data.records, self.val_data.records):
            print("warning:", line, file=sys.stderr, flush=True)
        try:
            while self.epoch < config.epochs:
                self._fit_epoch(log)
        except KeyboardInterrupt:
            print(f"epoch {self.saved + 1} is not finished; {self._saved()}", file=sys.stderr)
            raise
        except RuntimeError as error:
            if remedy := self._remedy(error):
                raise UserError(f"{remedy}; {self._saved()}") from error
            raise
        finally:
            log.close()
            del self.loader  # its processes end with it
        files = ", ".join(str(config.run_dir / name) for name in ("best.pth", "metrics.csv", "curves.png"))
        print(f"done: {files}", flush=True)

    def _summary(self) -> str:
        """What is about to be trained, in a line."""
        parameters = sum(p.numel() for p in self.model.parameters()) / 1e6
        (slices, layers), steps = self.config.slices_layers, len(self.loader)
        return (
            f"{len(self.train_data.records)} training and {len(self.val_data.records)} validation frames; "
            f"{parameters:.2f} M parameters, motion branch {slices} x {layers}; {steps} steps an epoch on {self.device}"
        )

    def _fit_epoch(self, log: RunLog) -> None:
        """Train, validate where it is due, log and save."""
        config = self.config
        started = time.perf_counter()
        row: dict[str, Any] = {"epoch": self.epoch + 1, "lr": self._set_learning_rate()}
        row |= {f"train_{name}": value for name, value in self.train_epoch().items()}
        if not all(value.isfinite().all() for value in self.ema.model.state_dict().values()):
            raise UserError(f"epoch {self.epoch + 1}: its last step made weights infinite; lower --lr; {self._saved()}")
        self.epoch += 1
        improved = False
        if self.epoch % config.val_interval == 0 or self.epoch == config.epochs:
            row["val_loss"], row["val_mAP50"] = self.validate()
            improved = self._improves(row["val_loss"] if config.best_by == "loss" else -row["val_mAP50"])
        row["seconds"] = round(time.perf_counter() - started, 1)
        log.add(row)
        self._save(improved)
        print(describe(row, config.epochs), flush=True)

    def _improves(self, score: float) -> bool:
        """Whether a score is the best so far; the first one is, even if it is not a number."""
        if score < self.best:
            self.best = score
            return True
        return not (self.config.run_dir / "best.pth").exists()

    def _remedy(self, error: RuntimeError) -> str | None:
        """What to say of a failure that is the machine's; None of any other."""
        height, width = self.config.input_size
        if isinstance(error, torch.OutOfMemoryError):
            sizes = f"--batch-size {self.config.batch_size} and --input-size {height} {width}"
            return f"--device {self.config.device}: out of memory at {sizes}; lower one of them"
        if "DataLoader worker" in str(error):  # raised wherever the main process is at that moment
            return (
                f"a process that reads clips was killed ({error}); most often memory is short: lower --workers or "
                "--cache-mb, or give the container more shared memory"
            )
        return None

    def _saved(self) -> str:
        """What there is to go on from."""
        if not self.saved:
            return "no checkpoint has been written yet"
        return f"{self.config.run_dir / 'last.pth'} is of epoch {self.saved}, --resume goes on from there"

    def _set_learning_rate(self) -> float:
        rate = self.schedule.rate(self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def train_epoch(self) -> dict[str, float]:
        """One pass over the epoch's share of the clips; returns the mean of each loss term."""
        self.model.train()
        self.sampler.epoch = self.epoch
        sums = dict.fromkeys(TERMS, 0.0)
        title = f"epoch {self.epoch + 1}/{self.config.epochs}"
        with tqdm(self.loader, desc=title, unit="step", disable=None, leave=False) as bar:
            for step, batch in enumerate(bar, start=1):
                for name, value in self.train_step(batch).items():
                    sums[name] += value
                means = {name: value / step for name, value in sums.items()}
                bar.set_postfix({name: f"{value:.3f}" for name, value in means.items() if name != "total"})
        return means

    def train_step(self, batch: ClipBatch) -> dict[str, float]:
        """Forward, backward, optimiser and EMA for one batch; returns the loss terms."""
        output, motion = self._forward(batch)
        detection = self.criterion(output, batch.targets)
        total = detection.total + motion.float()
        if not total.isfinite():
            raise UserError(self._not_finite(batch, total))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        self.ema.update(self.model)
        values = torch.stack([total, detection.iou, detection.obj, detection.cls, motion.float()]).tolist()
        return dict(zip(TERMS, values, strict=True))

    def _forward(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        clips = normalise_clips(batch.clips.to(self.device, non_blocking=True))  # (B, 3, T, H, W)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp == "bf16"):
            return self.model(clips)

    def _not_finite(self, batch: ClipBatch, total: Tensor) -> str:
        names = [self.train_data.records[i].name for i in batch.indices.tolist()]
        more = f" and {len(names) - NAMED_CLIPS} more" if len(names) > NAMED_CLIPS else ""
        return (
            f"epoch {self.epoch + 1}: the loss is {total.item()} for the clips that end at "
            f"{', '.join(names[:NAMED_CLIPS])}{more}; look at these frames and at --pretrained, or lower --lr; "
            f"{self._saved()}"
        )

    def validate(self) -> tuple[float, float]:
        """Mean detection loss an image and mAP50 of the EMA's network on the validation frames."""
        detector = Detector(self.ema.model, self.class_names, self.config.input_size, self.device)
        losses: list[Tensor] = []
        results: list[dict] = []
        total = len(self.val_data.records)
        with tqdm(total=total, desc="validate", unit="frame", disable=None, leave=False) as bar:
            for index, output, letterbox in detector.raw_outputs(self.val_data):
                record = self.val_data.records[index]
                targets = to_targets(letterbox.boxes_to_input(record.boxes))
                losses.append(self.criterion(output[None], [targets]).total)
                found = detector.to_detections(output[None], letterbox)[0]
                results += coco_results(found, record.image_id, self.val_data.category_ids)
                bar.update()
        return torch.stack(losses).mean().item(), evaluate(self.val_data.coco, results).published.mAP50

    def _save(self, improved: bool) -> None:
        """Write last.pth (all that --resume needs), best.pth and, now and then, the epoch's weights."""
        run_dir, config = self.config.run_dir, self.config
        content = checkpoint_of(self.ema.model, self.class_names, config.input_size)
        if improved:
            save_atomically(content, run_dir / "best.pth")
        if config.save_interval and self.epoch % config.save_interval == 0:
            save_atomically(content, run_dir / f"epoch_{self.epoch:03d}.pth")
        training = {
            "network": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema_updates": self.ema.updates,
            "epoch": self.epoch,
            "best": self.best,
            "settings": config.to_json(),
            "torch_random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        save_atomically(content | {"training": training}, run_dir / "last.pth")
        self.saved = self.epoch

    def _last_checkpoint(self) -> dict[str, Any] | None:
        """Content of the run folder's last.pth, if there is one."""
        path = self.config.run_dir / "last.pth"
        if not path.exists():
            print(f"{path}: not there yet; --resume starts from the beginning", flush=True)
            return None
        content = read_checkpoint(path)
        if "training" not in content:
            raise UserError(f"{path}: weights without a run's state; pass another --run-dir, and this as --pretrained")
        return content

    def _resume(self, content: dict[str, Any]) -> None:
        """Go on where a checkpoint's run stopped."""
        path, state = self.config.run_dir / "last.pth", content["training"]
        settings, before = self.config.to_json(), state.get("settings", {})
        theirs, ours = content.get("architecture", {}), self.model.architecture
        if theirs != ours:
            other = [f"{name} {theirs.get(name)}, not {ours[name]}" for name in ours if theirs.get(name) != ours[name]]
            raise UserError(f"{path}: of a run with {', '.join(other)}; pass the same flags, or another --run-dir")
        if before.get("optimizer", settings["optimizer"]) != settings["optimizer"]:
            raise UserError(f"{path}: made with --optimizer {before['optimizer']}; pass that or another --run-dir")
        self.model.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.model.load_state_dict(content["model"])
        self.ema.updates = state["ema_updates"]
        self.epoch = self.saved = state["epoch"]
        if before.get("best_by") == settings["best_by"]:  # else the scores cannot be compared
            self.best = state["best"]
        torch.set_rng_state(state["torch_random"])
        if state["cuda_random"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"], self.device)
        changed = [
            f"{name} {before[name]} -> {value}"
            for name, value in settings.items()
            if name not in ("resume", "run_dir") and before.get(name, value) != value
        ]
        print(f"{path}: going on after epoch {self.epoch}" + "".join(f"; {change}" for change in changed), flush=True)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def describe(row: dict[str, Any], epochs: int) -> str:
    """An epoch in a line."""
    text = f"epoch {row['epoch']}/{epochs}  lr {row['lr']:.2e}  loss {row['train_total']:.3f}"
    text += " (" + ", ".join(f"{name} {row[f'train_{name}']:.3f}" for name in TERMS[1:]) + ")"
    if "val_loss" in row:
        text += f"  val loss {row['val_loss']:.3f}  mAP50 {100 * row['val_mAP50']:.2f} %"
    return text + f"  {row['seconds']:.0f} s"
