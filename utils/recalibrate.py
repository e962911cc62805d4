"""BatchNorm's running statistics taken anew on whole frames, for a network that was trained on crops.

python -m utils.recalibrate --weights runs/DAUB/best.pth --data-root datasets/DAUB --output runs/DAUB/recalibrated.pth

The deep maps of a crop have few cells, most of them beside the border; their statistics are not those of whole frames.
Weights stay, no box is looked at, so unannotated frames of the camera in use will do. Means and variances are those of
the batches, averaged over all of them, in the place of the running average: as "precise BatchNorm" (Wu and Johnson,
Rethinking "Batch" in BatchNorm, 2021, section 3), which adds to the variance that of the batches' means.
"""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from nets import SSTNet
from utils.annotations import load_annotations
from utils.checkpoint import LoadedNetwork, checkpoint_of, load_network
from utils.cli import Unset, UserError, run_command
from utils.clips import ClipDataset, ClipSample, collate_clips, normalise_clips
from utils.config import choose_device
from utils.evaluation_report import make_folder
from utils.run_state import recorded_run
from utils.tensor_files import read_checkpoint, refuse_folder, save_atomically


@dataclass
class Config:
    """Take a network's BatchNorm statistics anew on whole frames, and write it as another weight file."""

    weights: Path
    """Weight file of this project: a run's best.pth or last.pth, or a released file."""
    output: Path
    """The file to write."""
    data_root: Unset[Path] = None
    """Folder of the data set; paths in the list are resolved against it (default: that of the weights' run, where its
    config.json is beside them, else datasets/DAUB)."""
    train_list: Unset[Path] = None
    """Annotation list or COCO JSON of the frames, whose boxes are not looked at (default: that of the run;
    annotations/instances_train2017.json of a --data-root that is given)."""
    clips: int = 256
    """Clips to take the statistics from, drawn by chance."""
    batch_size: int = 8
    """Clips of a batch, of one size; the statistics are means over the batches."""
    seed: int = 0
    """Of the choice of clips."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1."""


def main(config: Config) -> None:
    """Read, take the statistics, write."""
    if config.clips < config.batch_size or config.batch_size < 2:
        raise UserError(f"--clips {config.clips}, --batch-size {config.batch_size}: at least one batch of 2 clips")
    refuse_folder(config.output)
    if config.output.resolve() == config.weights.resolve():
        raise UserError(f"{config.output}: is the weight file itself; pass another --output")
    network = load_network(config.weights, choose_device(config.device))
    root, path = frames_of(config)
    data = load_annotations(path, root)
    clips = ClipDataset(
        data, network.input_size, network.model.num_frames, intensity=network.intensity,
        frame_interval=network.model.frame_interval, frame_scales=network.frame_scales,
    )  # fmt: skip
    if len(clips) < config.batch_size:
        raise UserError(f"{path}: {len(clips)} frames are fewer than --batch-size {config.batch_size}")
    make_folder(config.output.parent)
    count = recalibrate(network.model, batches_of(clips, config, next(network.model.parameters()).device))
    if not count:
        raise UserError(f"{path}: of the clips drawn no {config.batch_size} (--batch-size) are of one size")
    used = f"{count * config.batch_size} clips of whole frames, {root.resolve().name} {path.name}"
    save_atomically(weight_file(network, read_checkpoint(config.weights), used), config.output)
    print(f"{config.output}: BatchNorm's statistics of {used}; its weights are those of {config.weights}")


def frames_of(config: Config) -> tuple[Path, Path]:
    """The data root and the list of the frames: as given, or those that the network was trained on."""
    run = {} if config.data_root else recorded_run(config.weights)
    root = config.data_root or _recorded_path(run, "data_root") or Path("datasets/DAUB")
    listed = config.train_list or _recorded_path(run, "train_list")
    return root, listed or root / "annotations" / "instances_train2017.json"


def _recorded_path(run: Mapping[str, Any], name: str) -> Path | None:
    """A path of a run's settings: the whole one, or, where that is not there (a moved folder), as it was given."""
    whole, given = (str(run.get(part, {}).get(name) or "") for part in ("files", "config"))
    return Path(whole) if whole and Path(whole).exists() else Path(given) if given else None


def batches_of(clips: ClipDataset, config: Config, device: torch.device) -> Iterator[Tensor]:
    """Whole batches of clips (B, 3, T, H, W), drawn by chance; frames of other sizes make batches of their own."""
    chosen = random.Random(config.seed).sample(range(len(clips)), min(config.clips, len(clips)))
    waiting: dict[torch.Size, list[ClipSample]] = defaultdict(list)
    for number in tqdm(chosen, unit="clip", disable=None, leave=False):
        sample = clips[number]
        samples = waiting[sample.clip.shape]
        samples.append(sample)
        if len(samples) == config.batch_size:
            yield normalise_clips(collate_clips(samples).clips.to(device))
            samples.clear()


@torch.no_grad()
def recalibrate(model: SSTNet, batches: Iterable[Tensor]) -> int:
    """Replace running means and variances by their means over batches of clips (B, 3, T, H, W), as training sees them.

    Each frame position is a batch of the extractor's. The motion branch, which only training has, and the weights stay
    as they are; the network ends in evaluation mode. Returns the number of batches; without one, or where one fails,
    the statistics stay as they were. ValueError for an inference form, which has none.
    """
    if model.infers_only:
        raise ValueError("an inference form has no statistics: recalibrate the network that it was made of")
    model.eval()
    parts = (model.extractor, model.neck, model.head)
    norms = [m for part in parts for m in part.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    before = [copy.deepcopy(norm.state_dict()) for norm in norms]
    for part in parts:
        part.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    count, done = 0, False
    try:
        for clips in batches:
            model.detect([model.extract(frames) for frames in clips.unbind(2)])
            count += 1
        done = count > 0
    finally:
        for norm, momentum, old in zip(norms, momenta, before, strict=True):
            norm.momentum = momentum
            if not done:
                norm.load_state_dict(old)
        model.eval()
    return count


def weight_file(network: LoadedNetwork, content: dict[str, Any], used: str) -> dict[str, Any]:
    """The dictionary of the file: what the old one says, less the states that only --resume needs."""
    file = checkpoint_of(network.model, network.class_names, network.input_size, network.intensity)
    if network.provenance:  # a released file
        file["provenance"] = {**network.provenance, "statistics": used}
    else:
        file["statistics"] = used
    if network.frame_scales is not None:
        file["frame_scales"] = list(network.frame_scales)
    if network.confidence is not None:
        file["confidence"] = network.confidence
    training = content.get("training", {})
    if "settings" in training:  # which utils.release_weights reads
        file["training"] = {name: training[name] for name in ("settings", "progress")}
    return file


if __name__ == "__main__":
    run_command(main, Config)
