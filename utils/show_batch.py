"""A picture of training clips before and after augmentation: `python -m utils.show_batch --flip --crop 256 ...`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utils.annotations import load_annotations
from utils.augment import EpochSampler, TrainingClips
from utils.class_file import read_class_names
from utils.cli import UserError, run_command
from utils.clips import ClipDataset, ClipSample
from utils.config import TrainConfig
from utils.figures import as_written

COLOUR = "#D55E00"


@dataclass
class Config(TrainConfig):
    """Draw the first clips of an epoch, each before and after augmentation; takes the flags of training."""

    output: Path = Path("batch.png")
    """The picture to write."""


def first_pairs(config: TrainConfig) -> dict[str, tuple[ClipSample, ClipSample]]:
    """The clips of the first training batch, by their key frame's name: as read and as the network gets them."""
    data = load_annotations(config.annotations("train"), config.data_root, len(read_class_names(config.classes)))
    clips = ClipDataset(
        data, config.input_size, config.num_frames, intensity=config.intensity, frame_interval=config.frame_interval
    )
    training = TrainingClips(clips, config.augmentation)
    items = list(EpochSampler(len(clips), config.epoch_share, config.seed))[: config.batch_size]
    return {data.records[item[0]].name: (clips[item[0]], training[item]) for item in items}


def save_picture(pairs: Mapping[str, tuple[ClipSample, ClipSample]], path: Path) -> None:
    """One PNG: for each clip a row before and a row after; boxes stand in the key frame, the last of a row."""
    frames = len(next(iter(pairs.values()))[0].clip)
    figure = Figure(figsize=(1.9 * frames, 4.1 * len(pairs)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 * len(pairs), frames, squeeze=False)
    for number, (name, pair) in enumerate(pairs.items()):
        for row, (sample, label) in enumerate(zip(pair, ("as read", "augmented"), strict=True)):
            for axis, frame in zip(axes[2 * number + row], sample.clip.numpy(), strict=True):
                axis.imshow(frame, cmap="gray", vmin=0, vmax=255)
                axis.set_xticks([])
                axis.set_yticks([])
            axes[2 * number + row, 0].set_ylabel(label)
            _draw_boxes(axes[2 * number + row, -1], sample)
        axes[2 * number, 0].set_title(as_written(name), loc="left", fontsize=8)
    try:
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be written ({error}); give another --output, such as batch.png") from None


def _draw_boxes(axis: Axes, sample: ClipSample) -> None:
    for x, y, width, height, _ in sample.targets.tolist():
        axis.add_patch(Rectangle((x - width / 2 - 0.5, y - height / 2 - 0.5), width, height, fill=False, color=COLOUR))


def main(config: Config) -> None:
    """Write the picture."""
    if not config.output.suffix:
        raise UserError(f"{config.output}: give --output with the picture's type, such as {config.output}.png")
    pairs = first_pairs(config)
    save_picture(pairs, config.output)
    print(f"wrote {config.output}: {len(pairs)} clips, each as read and augmented")


if __name__ == "__main__":
    run_command(main, Config)
