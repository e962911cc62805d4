"""Augmentation of clips: the same change for all frames of a clip. All of it is off in the published recipe.

Flips are torchvision's. Its noise is not used, for it cannot be drawn from a clip's own generator, nor its contrast,
which looks at each frame's mean: the frames of a clip would not change alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms.v2 import functional

from utils.clips import ClipDataset, ClipSample


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a clip; the defaults do nothing."""

    crop: int = 0  # side of a random crop in input pixels, a multiple of 32; 0: whole frames
    target_share: float = 0.8  # of the crops are placed around a target, the others anywhere
    flip: bool = False  # mirrored and transposed at random
    photometric: float = 0.0  # gain by up to this share, offset by up to this share of the grey range
    noise: float = 0.0  # deviation of added noise is drawn from 0 to this, grey levels
    time_reversal: bool = False  # half of the clips run backwards
    frame_drop: float = 0.0  # chance of a frame before the key frame to be missing

    def plan(self, num_frames: int, frame_interval: int, generator: torch.Generator) -> list[int]:
        """Places of a clip's frames, counted from its key frame, which stays last, so that its boxes stay true.

        A clip that runs backwards is the mirror image: the frames after the key frame, the latest first. Where a frame
        is dropped, the next one takes its place: the target seems faster there, as when a camera loses a frame.
        """
        back, places = 0, [0]
        while len(places) < num_frames:
            back += 1
            if not self.frame_drop or torch.rand((), generator=generator) >= self.frame_drop:
                places.append(-back)
        backwards = self.time_reversal and torch.rand((), generator=generator) < 0.5
        direction = -frame_interval if backwards else frame_interval
        return [direction * place for place in reversed(places)]

    def __call__(self, sample: ClipSample, generator: torch.Generator) -> ClipSample:
        """Change one sample; all chance comes from `generator`."""
        clip, targets = sample.clip, sample.targets
        if self.crop:
            clip, targets = random_crop(clip, targets, self.crop, self.target_share, generator)
        if self.flip:
            clip, targets = random_flip(clip, targets, generator)
        if self.photometric:
            gain, offset = self.photometric * (2 * torch.rand(2, generator=generator) - 1)
            changed = (clip.float() - 128) * (1 + gain) + 128 + 255 * offset
            clip = changed.round().clamp(0, 255).to(torch.uint8)
        if self.noise:
            deviation = self.noise * torch.rand((), generator=generator)  # one for the clip, as of one sensor
            noisy = clip.float() + deviation * torch.randn(clip.shape, generator=generator)
            clip = noisy.round().clamp(0, 255).to(torch.uint8)
        return replace(sample, clip=clip, targets=targets)


def random_crop(
    clip: Tensor, targets: Tensor, side: int, target_share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cut a square out of (T, H, W); targets (n, 5) whose centre is outside are dropped, the others clipped."""
    height, width = clip.shape[-2:]
    side_y, side_x = min(side, height), min(side, width)
    limits = torch.tensor([width - side_x, height - side_y])
    corner = (torch.rand(2, generator=generator) * (limits + 1)).long()
    if len(targets) and torch.rand((), generator=generator) < target_share:
        centre = targets[torch.randint(len(targets), (), generator=generator), :2]
        inside = torch.rand(2, generator=generator) * (torch.tensor([side_x, side_y]) - 1)
        corner = torch.minimum((centre - inside).floor().long().clamp(min=0), limits)  # the centre stays inside
    x, y = corner.tolist()
    size = torch.tensor([side_x, side_y])
    low = (targets[:, :2] - targets[:, 2:4] / 2 - corner).clamp(min=0)
    high = torch.minimum(targets[:, :2] + targets[:, 2:4] / 2 - corner, size)
    centres = targets[:, :2] - corner
    keep = ((centres >= 0) & (centres < size) & (high - low > 1)).all(dim=1)
    cut = torch.cat([(low + high) / 2, high - low, targets[:, 4:]], dim=1)[keep]
    return clip[:, y : y + side_y, x : x + side_x], cut


def random_flip(clip: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One of the eight symmetries of the square (four, where the clip is not square): (T, H, W) and (n, 5)."""
    height, width = clip.shape[-2:]
    mirror_x, mirror_y, transpose = (torch.rand(3, generator=generator) < 0.5).tolist()
    targets = targets.clone()
    if mirror_x:
        clip = functional.horizontal_flip(clip)
        targets[:, 0] = width - targets[:, 0]
    if mirror_y:
        clip = functional.vertical_flip(clip)
        targets[:, 1] = height - targets[:, 1]
    if transpose and height == width:
        clip = clip.transpose(-1, -2)
        targets = targets[:, [1, 0, 3, 2, 4]]
    return clip.contiguous(), targets


class TrainingClips(Dataset[ClipSample]):
    """A `ClipDataset` with augmentation. Items are asked for as (clip index, seed), as `EpochSampler` does, so
    that what happens to a clip does not depend on which worker makes it, or on how many there are."""

    def __init__(self, clips: ClipDataset, augmentation: Augmentation):
        self.clips = clips
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: tuple[int, int]) -> ClipSample:
        index, seed = item
        generator = torch.Generator().manual_seed(seed)
        places = self.augmentation.plan(self.clips.num_frames, self.clips.frame_interval, generator)
        return self.augmentation(self.clips.sample(index, places), generator)


def clips_of_epoch(num_clips: int, share: float) -> int:
    """How many of the clips an epoch sees; 100 * 0.29, a little less than 29 in floating point, is 29."""
    return int(round(num_clips * share, 6))


class EpochSampler(Sampler[tuple[int, int]]):
    """A random share of all clips, another one each epoch, in random order: (clip index, seed of its augmentation).

    Which clips and seeds follows from `seed` and `epoch` alone: set `epoch` before iterating.
    """

    def __init__(self, num_clips: int, share: float, seed: int):
        self.num_clips = num_clips
        self.count = max(clips_of_epoch(num_clips, share), 1)
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        chosen = torch.randperm(self.num_clips, generator=generator)[: self.count]
        seeds = torch.randint(2**62, (self.count,), generator=generator)
        yield from zip(chosen.tolist(), seeds.tolist(), strict=True)
