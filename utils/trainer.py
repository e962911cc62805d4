"""Training: the recipe from data to checkpoints. Knows no data set; `TrainConfig` says everything."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from nets import SSTNet, YOLOXLoss
from utils.annotations import load_annotations
from utils.augment import EpochSampler, TrainingClips
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


def train(config: TrainConfig) -> None:
    """Run a whole training: what train_DAUB.py and train_IRDST.py call."""
    Trainer(config).fit()


class Trainer:
    """One training run. Reads as its own table of contents: set up, then epochs of steps, validation, saving."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.device = choose_device(config.device)
        self.class_names = read_class_names(config.classes)
        self.train_data = load_annotations(config.annotations("train"), config.data_root, len(self.class_names))
        self.val_data = load_annotations(config.annotations("val"), config.data_root, len(self.class_names))
        if len(self.train_data.records) * config.epoch_share < config.batch_size:
            raise UserError(
                f"{self.train_data.source}: {len(self.train_data.records)} clips x --epoch-share {config.epoch_share} "
                f"are less than one batch of {config.batch_size}; lower --batch-size or raise --epoch-share"
            )
        make_run_dir(config.run_dir, config.resume)
        seed_everything(config.seed)
        self.model = self._build_model()
        self.criterion = YOLOXLoss(len(self.class_names), self.model.stride, config.iou_loss)
        peak, floor = scaled_rates(config.nominal_lr, config.batch_size, config.optimizer)
        self.schedule = Schedule(peak, floor, config.epochs, config.schedule)
        self.optimizer = build_optimizer(self.model, config.optimizer, peak)
        self.ema = EMA(self.model)
        self.sampler, self.loader = self._build_loader()
        self.epoch = 0
        self.best = float("inf")  # what best.pth has: validation loss, or minus mAP50
        if config.resume:
            self._resume()
        self.log = RunLog(config.run_dir, config.to_json(), self.epoch)

    def _build_model(self) -> SSTNet:
        config = self.config
        slices, layers = config.slices_layers
        model = SSTNet(
            len(self.class_names), config.num_frames, slices, layers, config.depth, config.width,
            config.attention_dropout,
        )
        initialise(model, config.init)
        if config.pretrained:
            print(f"{config.pretrained}: {load_weights(model, config.pretrained)}")
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
        )
        return sampler, loader

    def fit(self) -> None:
        """Train to the last epoch."""
        config = self.config
        while self.epoch < config.epochs:
            started = time.perf_counter()
            row: dict[str, Any] = {"epoch": self.epoch, "lr": self._set_learning_rate()}
            row |= {f"train_{name}": value for name, value in self.train_epoch().items()}
            self.epoch += 1
            improved = False
            if self.epoch % config.val_interval == 0 or self.epoch == config.epochs:
                row["val_loss"], row["val_mAP50"] = self.validate()
                score = row["val_loss"] if config.best_by == "loss" else -row["val_mAP50"]
                improved = score < self.best
                self.best = min(score, self.best)
            row["seconds"] = round(time.perf_counter() - started, 1)
            self.log.add(row)
            self._save(improved)
            tqdm.write(describe(row, config.epochs))
        self.log.close()
        print(f"done: {config.run_dir / 'best.pth'}, {config.run_dir / 'metrics.csv'}, {config.run_dir / 'curves.png'}")

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
        names = ", ".join(self.train_data.records[i].name for i in batch.indices.tolist())
        return (
            f"epoch {self.epoch + 1}: the loss is {total.item()} for the clips that end at {names}; last.pth and "
            "best.pth are those of the epochs before; look at these frames, or lower --lr"
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
            "torch_random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        save_atomically(content | {"training": training}, run_dir / "last.pth")

    def _resume(self) -> None:
        path = self.config.run_dir / "last.pth"
        if not path.exists():
            print(f"{path}: not there yet; --resume starts from the beginning")
            return
        content = read_checkpoint(path)
        if "training" not in content or content.get("architecture") != self.model.architecture:
            raise UserError(f"{path}: not a checkpoint of a run with this architecture; pass another --run-dir")
        state = content["training"]
        self.model.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict({"model": content["model"], "updates": state["ema_updates"]})
        self.epoch, self.best = state["epoch"], state["best"]
        torch.set_rng_state(state["torch_random"])
        if state["cuda_random"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["cuda_random"])


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def describe(row: dict[str, Any], epochs: int) -> str:
    """An epoch in a line."""
    text = f"epoch {row['epoch'] + 1}/{epochs}  lr {row['lr']:.2e}  loss {row['train_total']:.3f}"
    text += " (" + ", ".join(f"{name} {row[f'train_{name}']:.3f}" for name in TERMS[1:]) + ")"
    if "val_loss" in row:
        text += f"  val loss {row['val_loss']:.3f}  mAP50 {100 * row['val_mAP50']:.2f} %"
    return text + f"  {row['seconds']:.0f} s"
