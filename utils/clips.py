"""Clips: the T frames that end at a key frame, as samples of a data set.

A clip holds frames k-T+1..k of the key frame's folder, or every n-th frame before k with a frame interval of n. It
never reaches across a jump in frame numbers: the first frame after a jump counts as a first frame, which is repeated
in front of itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from utils.annotations import Annotations
from utils.cli import UserError
from utils.frame_cache import FrameCache, NoCache
from utils.frames import Intensity, read_frame, sequence_frames, split_runs
from utils.letterbox import Letterbox, input_between

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def clip_places(num_frames: int, frame_interval: int = 1) -> range:
    """Places of a clip's frames, oldest first, counted from its key frame."""
    return range((1 - num_frames) * frame_interval, 1, frame_interval)


class ClipIndex:
    """Which frames make the clip of a key frame; a folder is listed once, when its first clip is wanted."""

    def __init__(self) -> None:
        self._runs: dict[Path, list[list[Path]]] = {}
        self._places: dict[Path, dict[str, tuple[int, int]]] = {}  # folder -> file name -> (run, place in it)

    def runs(self, folder: Path) -> list[list[Path]]:
        """The folder's frames in natural order, split where frame numbers jump."""
        folder = Path(folder)
        if folder not in self._runs:
            runs = split_runs(sequence_frames(folder))
            self._places[folder] = {
                path.name: (r, p) for r, run in enumerate(runs) for p, path in enumerate(run)
            }
            self._runs[folder] = runs
        return self._runs[folder]

    def frames_at(self, key_frame: Path, offsets: Iterable[int]) -> list[Path]:
        """The frames so many places from the key frame in its run; the run's first and last stand for those beyond."""
        key_frame = Path(key_frame)
        runs = self.runs(key_frame.parent)
        if key_frame.name not in self._places[key_frame.parent]:
            raise UserError(f"{key_frame}: no such frame in this folder; check the path and --data-root")
        number, place = self._places[key_frame.parent][key_frame.name]
        last = len(runs[number]) - 1
        return [runs[number][min(max(0, place + offset), last)] for offset in offsets]


@dataclass
class ClipSample:
    """`clip` uint8 (T, H, W); `targets` float32 (n, 5) cx, cy, w, h, class in input pixels; its index."""

    clip: Tensor
    targets: Tensor
    index: int


@dataclass
class ClipBatch:
    """`clips` uint8 (B, T, H, W); `targets` B tensors (n_i, 5) cx, cy, w, h, class; `indices` int64 (B,)."""

    clips: Tensor
    targets: list[Tensor]
    indices: Tensor

    def pin_memory(self) -> ClipBatch:
        """The same batch with its clips in page-locked memory (the data loader calls it).

        Targets stay: the loss pads them into a tensor of its own on the CPU.
        """
        return ClipBatch(self.clips.pin_memory(), self.targets, self.indices)

    def __getstate__(self) -> tuple:
        # From a worker every tensor travels as an open file: one for all targets, not one for each image.
        counts = [len(targets) for targets in self.targets]
        return self.clips, torch.cat(self.targets) if counts else None, counts, self.indices

    def __setstate__(self, state: tuple) -> None:
        self.clips, targets, counts, self.indices = state
        self.targets = list(targets.split(counts)) if counts else []


class LoadingError(UserError):
    """A `UserError` of a loader's worker process.

    PyTorch hands it to the main process as the text of its traceback; only the message, its end, is kept.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text.strip().rpartition(f"{type(self).__name__}: ")[2])


class ClipDataset(Dataset[ClipSample]):
    """The clips of all annotated key frames, letterboxed to `input_size` (H, W).

    With `frame_scales` frames of other sizes get inputs of their own (`letterbox.input_between`), as in detection.
    Neighbouring clips share frames, and epochs do: what a `cache` keeps is not decoded again. Labels are never
    changed. An unreadable frame raises `UserError`, in workers too.
    """

    def __init__(
        self,
        annotations: Annotations,
        input_size: tuple[int, int],
        num_frames: int,
        cache: FrameCache | None = None,
        intensity: Intensity = "full",
        frame_interval: int = 1,
        frame_scales: tuple[float, float] | None = None,
    ) -> None:
        self.annotations = annotations
        self.input_size = (int(input_size[0]), int(input_size[1]))
        self.num_frames = num_frames
        self.frame_interval = frame_interval
        self.index = ClipIndex()
        self.cache = cache or NoCache()
        self.intensity = intensity
        self.frame_scales = frame_scales

    def __len__(self) -> int:
        return len(self.annotations.records)

    def __getitem__(self, index: int) -> ClipSample:
        return self.sample(index, clip_places(self.num_frames, self.frame_interval))

    def sample(self, index: int, offsets: Sequence[int]) -> ClipSample:
        """The clip of other frames before a key frame than the usual ones; the last of its `offsets` must be 0."""
        try:
            return self._sample(index, offsets)
        except UserError as error:
            if get_worker_info() is None:
                raise
            raise LoadingError(str(error)) from None

    def _load(self, path: Path) -> tuple[np.ndarray, Letterbox]:
        grey = read_frame(path, self.intensity)  # (h, w)
        size = self.input_size
        if self.frame_scales:
            size = input_between(grey.shape, size, self.frame_scales)
        letterbox = Letterbox(grey.shape, size)
        return letterbox.image(grey), letterbox

    def _sample(self, index: int, offsets: Sequence[int]) -> ClipSample:
        record = self.annotations.records[index]
        paths = self.index.frames_at(record.path, offsets)
        frames = {path: self.cache.get(path, self._load) for path in paths}  # a repeated frame is read once
        letterbox = frames[paths[-1]][1]
        for path, (_, other) in frames.items():
            if other.image_size != letterbox.image_size:
                raise UserError(
                    f"{path}: {other.image_size} pixels (height, width), but {paths[-1].name} beside it has "
                    f"{letterbox.image_size}; bring the frames of a sequence to one size"
                )
        clip = torch.from_numpy(np.stack([frames[path][0] for path in paths]))  # (T, H, W)
        return ClipSample(clip, to_targets(letterbox.boxes_to_input(record.boxes)), index)


def to_targets(boxes: np.ndarray) -> Tensor:
    """Boxes (n, 5) x1, y1, x2, y2, class -> float32 (n, 5) cx, cy, w, h, class."""
    corners = torch.tensor(boxes, dtype=torch.float32)
    top_left, bottom_right = corners[:, 0:2], corners[:, 2:4]
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left, corners[:, 4:]], dim=1)


def collate_clips(samples: Sequence[ClipSample]) -> ClipBatch:
    """Clips of one size -> a batch."""
    return ClipBatch(
        clips=torch.stack([sample.clip for sample in samples]),
        targets=[sample.targets for sample in samples],
        indices=torch.tensor([sample.index for sample in samples]),
    )


def _normalise(grey: Tensor) -> Tensor:
    """uint8 (B, *rest) -> float32 (B, 3, *rest). Constants as numbers: tensors of them would make a GPU wait."""
    unit = grey.float() / 255
    return torch.stack([(unit - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)], dim=1)


def normalise_clips(clips: Tensor) -> Tensor:
    """Grey clips uint8 (B, T, H, W) -> float32 (B, 3, T, H, W): three equal channels, ImageNet-normalised."""
    return _normalise(clips)


def normalise_frames(frames: Tensor) -> Tensor:
    """Grey frames uint8 (N, H, W) -> float32 (N, 3, H, W): three equal channels, ImageNet-normalised."""
    return _normalise(frames)
