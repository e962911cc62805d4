"""What a training run is made of, built from its settings: annotations, network, loader."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from nets import SSTNet
from utils.annotations import Annotations, load_annotations
from utils.augment import EpochSampler, TrainingClips, clips_of_epoch
from utils.batches import BatchShape, BatchShare
from utils.check_rows import lost_boxes, sized_boxes
from utils.checkpoint import FORMAT, LoadReport, load_weights, refuse_not_finite
from utils.class_file import class_fault
from utils.cli import UserError
from utils.clips import ClipDataset, collate_clips
from utils.config import TrainConfig
from utils.distributed import Processes
from utils.evaluation_input import parse_ground_truth
from utils.frame_cache import open_cache
from utils.optimizer import initialise
from utils.signals import WorkerSignals
from utils.tensor_files import read_checkpoint

RECOMPUTE = {"off": (), "extractor": ("extractor",), "motion": ("motion",), "both": ("extractor", "motion")}


def load_split(config: TrainConfig, split: Literal["train", "val"], class_names: tuple[str, ...]) -> Annotations:
    """Annotations of a split; they must have the classes of the network, or ranks would mean other classes."""
    num_classes, path = len(class_names), config.annotations(split)
    if config.data_root.is_dir() and not path.is_file():
        raise UserError(f"{path}: no such file; pass the {split} list or COCO JSON with --{split}-list")
    data = load_annotations(path, config.data_root, num_classes, check_beside=True)
    if fault := class_fault(path, data.class_names, class_names, config.classes):
        raise UserError(fault)
    if split == "val":
        parse_ground_truth(data.coco, str(path))  # what the scoring refuses is said now, not after an epoch
        return data
    lost, total = lost_boxes(sized_boxes(data), config.input_size)
    if total and lost == total:
        height, width = config.input_size
        raise UserError(
            f"{path}: no box to learn from, all {total} are 1 pixel or less across at --input-size {height} {width}; "
            "give a larger one"
        )
    return data


def batch_shape(config: TrainConfig, num_clips: int, source: object, processes: Processes) -> BatchShape:
    """How steps divide their clips; UserError where an epoch has none, or BatchNorm nothing to work on."""
    if clips_of_epoch(num_clips, config.epoch_share) < config.batch_size:
        raise UserError(
            f"{source}: {num_clips} clips x --epoch-share {config.epoch_share} "
            f"are less than one batch of {config.batch_size}; lower --batch-size or raise --epoch-share"
        )
    shape = BatchShape.split(config.batch_size, config.accumulate, processes)
    if shape.clips == 1 and max(config.training_size) <= 32:
        raise UserError(
            f"--batch-size {config.batch_size}: leaves one clip of 32 x 32 pixels at a time, of which BatchNorm has no "
            "statistics; use 2 clips or more"
        )
    return shape


def build_model(
    config: TrainConfig, num_classes: int, device: torch.device, fresh: bool, say: Callable[[str], None]
) -> SSTNet:
    """The network to train; with the weights to start from where the run is a fresh one."""
    slices, layers = config.slices_layers
    model = SSTNet(
        num_classes, config.num_frames, slices, layers, config.depth, config.width, config.attention_dropout,
        RECOMPUTE[config.recompute], config.gate, config.frame_interval,
    )
    initialise(model, config.init)
    if config.pretrained and fresh:
        if not config.pretrained.is_file():
            raise UserError(f"{config.pretrained}: no such file; --pretrained takes a weight file (.pth)")
        content = read_checkpoint(config.pretrained)
        say(f"{config.pretrained}: {load_start(model, content, config.pretrained)}")
        for note in other_clips(content, config):
            say(f"note: {config.pretrained}: {note}")
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return model.to(device, memory_format=layout)


def other_clips(content: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """In what one of our files was trained on clips made in another way than this run's."""
    if content.get("format") != FORMAT:
        return []
    intensity, architecture = content.get("intensity", "full"), content.get("architecture")
    theirs = {
        "intensity": tuple(intensity) if isinstance(intensity, list) else intensity,
        "frame_interval": architecture.get("frame_interval", 1) if isinstance(architecture, Mapping) else 1,
    }
    return [
        f"trained with --{name.replace('_', '-')} {_as_typed(before)}, this run has {_as_typed(getattr(config, name))}"
        for name, before in theirs.items()
        if before != getattr(config, name)
    ]


def _as_typed(value: object) -> str:
    return " ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def load_start(model: SSTNet, content: Mapping[str, Any], path: Path) -> LoadReport:
    """Load what fits of a weight file's content to start from; UserError where no kernel of the detector does, or a
    value is not finite."""
    report = load_weights(model, content, str(path))
    values = model.state_dict()
    # BatchNorm's counters and the motion branch's nodes fit a network of any width.
    if not any(values[name].dim() == 4 and not name.startswith("motion_branch.") for name in report.loaded):
        raise UserError(f"{path}: weights of another network, no kernel of the detector fits ({report})")
    refuse_not_finite(model, report, str(path))
    return report


def build_loader(
    config: TrainConfig, data: Annotations, shape: BatchShape, rank: int, pin: bool, signals: WorkerSignals
) -> DataLoader:
    """Batches of one process; `loader.batch_sampler` says which epoch and from which step on."""
    folders = [record.path.parent for record in data.records]
    kind = "off" if config.dry_run else config.cache  # which writes nothing
    cache = open_cache(
        kind, folders, config.input_size, config.intensity, config.cache_mb * 2**20, config.cache_dir,
        config.workers,
    )
    clips = ClipDataset(data, config.input_size, config.num_frames, cache, config.intensity, config.frame_interval)
    sampler = EpochSampler(len(clips), config.epoch_share, config.seed)
    return DataLoader(
        TrainingClips(clips, config.augmentation),
        batch_sampler=BatchShare(sampler, shape, rank),
        num_workers=config.workers,
        collate_fn=collate_clips,
        pin_memory=pin,
        persistent_workers=config.workers > 0,
        worker_init_fn=signals,
        # Those of a fork server, Python 3.14's default, outlive a killed run: server and worker wait for each other.
        multiprocessing_context="fork" if config.workers and sys.platform == "linux" else None,
        # Its own: from the global one it would draw at each start of the workers, so also after --resume.
        generator=torch.Generator().manual_seed(config.seed),
    )
