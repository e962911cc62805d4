"""SSTNet: a clip of infrared frames in, the head's output for its last frame out (docs/code_map.md).

Shapes: B clips, T frames, N frames of a video, K classes, C feature channels, H x W pixels, h x w = H/8 x W/8 cells.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .checkpointing import checkpointed
from .feature_extractor import FeatureExtractor
from .motion_branch import MotionBranch
from .motion_coupling_neck import MotionCouplingNeck
from .yolox_head import YOLOXHead


class SSTNet(nn.Module):
    """Sliced spatio-temporal network for moving infrared dim-small target detection (IEEE TGRS 62, 2024).

    In evaluation mode `model(clips)` is the head's output (B, 5 + K, H/8, W/8), raw logits
    [reg (4), obj (1), cls (K)]; in training mode `(output, motion_loss)`. Clips are (B, 3, T, H, W), oldest frame
    first, key frame last, normalised; H and W are multiples of 32.

    The frames of a clip are `frame_interval` frames of the video apart; 1, consecutive frames, in the paper.
    `model(clips)` takes clips as they are, streams follow it.

    With `num_slices` 0 there is no motion branch, and the motion loss is 0: the detector alone.

    `gate` False leaves out the neck's gate, for ablation.

    `recompute` names parts, of "extractor" and "motion", whose inner results training computes twice rather than
    keeps: less memory, more time, the same gradients.
    """

    def __init__(
        self,
        num_classes: int = 1,
        num_frames: int = 5,
        num_slices: int = 2,
        num_layers: int = 2,
        depth: float = 0.33,
        width: float = 0.50,
        attention_dropout: float = 0.1,
        recompute: Sequence[str] = (),
        gate: bool = True,
        frame_interval: int = 1,
    ):
        super().__init__()
        self.architecture = {
            "num_classes": num_classes,
            "num_frames": num_frames,
            "num_slices": num_slices,
            "num_layers": num_layers,
            "depth": depth,
            "width": width,
            "attention_dropout": attention_dropout,
            "gate": gate,
            "frame_interval": frame_interval,
        }
        for name in ("frame_interval", "num_classes"):
            if self.architecture[name] < 1:
                raise ValueError(f"{name} {self.architecture[name]}: must be 1 or more")
        if not 0 <= attention_dropout < 1:
            raise ValueError(f"attention_dropout {attention_dropout:g}: must be at least 0 and less than 1")
        if depth <= 0 or width < 1 / 64:  # of 64 channels after the stem
            raise ValueError(f"depth {depth:g}, width {width:g}: must be above 0 and at least 1/64")
        unknown = set(recompute) - {"extractor", "motion"}
        if unknown:
            raise ValueError(f"recompute: no such part {sorted(unknown)}, only extractor and motion")
        self.recompute = frozenset(recompute)
        self.num_frames = num_frames
        self.frame_interval = frame_interval
        self.num_classes = num_classes
        self.stride = 8
        self.extractor = FeatureExtractor(depth, width)
        channels = self.extractor.out_channels
        self.neck = MotionCouplingNeck(channels, num_frames, gate)
        self.head = YOLOXHead(num_classes, channels, hidden=2 * channels)
        self.motion_branch: MotionBranch | None = None
        if num_slices:
            self.motion_branch = MotionBranch(channels, num_frames, num_slices, num_layers, attention_dropout)
        self.infers_only = False  # True of an inference form

    def forward(self, clips: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Clips (B, 3, T, H, W) -> (B, 5 + K, H/8, W/8); in training mode the motion loss (a scalar) too."""
        self._check(clips, dims=5)
        if clips.shape[2] != self.num_frames:
            raise ValueError(f"the network was built for clips of {self.num_frames} frames, not {clips.shape[2]}")
        if not self.training:
            frames = clips.transpose(1, 2)  # (B, T, 3, H, W)
            features = self.extract(frames.flatten(0, 1)).unflatten(0, (-1, self.num_frames))
            return self.detect(features.unbind(1))
        # Each frame position is a BatchNorm batch of its own, in clip order.
        extract = partial(checkpointed, self.extractor) if "extractor" in self.recompute else self.extractor
        features = [extract(frame) for frame in clips.unbind(2)]  # T x (B, C, h, w)
        output = self.detect(features)
        if self.motion_branch is None:
            return output, output.new_zeros(())
        return output, self.motion_branch(clips, features, recompute="motion" in self.recompute)

    def extract(self, frames: Tensor) -> Tensor:
        """Features of single frames: (N, 3, H, W) -> (N, C, H/8, W/8)."""
        self._check(frames, dims=4)
        return self.extractor(frames)

    def detect(self, features: Sequence[Tensor], reference_halves: Sequence[Tensor] | None = None) -> Tensor:
        """Head output of clips given as features: T x (B, C, h, w) -> (B, 5 + K, h, w)."""
        return self.head(self.neck(features, reference_halves))

    def forward_video(self, frames: Tensor, chunk: int | None = None) -> Tensor:
        """Output for the clip that ends at each of N consecutive frames, the first one being a sequence's first.

        (N, 3, H, W) -> (N, 5 + K, H/8, W/8), equal to `model(clip_k)` for every k; each frame is extracted once.
        `chunk` frames go through the network together (default: `frames_together`). For inference: evaluation mode,
        no gradient.
        """
        stream = VideoStream(self)
        chunk = chunk or frames_together(frames.shape[-2:], frames.device)
        return torch.cat([stream.push(part) for part in frames.split(chunk)])

    def train(self, mode: bool = True) -> SSTNet:
        """Training or evaluation mode; an inference form has no training mode."""
        if mode and self.infers_only:
            raise ValueError("an inference form cannot be trained: train the network that it was made of")
        return super().train(mode)

    @staticmethod
    def _check(frames: Tensor, dims: int) -> None:
        if frames.dim() != dims or frames.shape[1] != 3:
            raise ValueError(f"expected {dims} dimensions with 3 channels second, got {tuple(frames.shape)}")
        if not frames.is_floating_point():
            raise ValueError(f"expected normalised frames of a float type, not {frames.dtype}")
        height, width = frames.shape[-2:]
        if height % 32 or width % 32 or not height * width:
            raise ValueError(f"height and width must be multiples of 32, not {height} x {width}")


def frames_together(size: tuple[int, int], device: torch.device) -> int:
    """How many consecutive frames (H, W) to push through the network at once.

    A CPU is fastest when the maps of a pass stay in its caches, a GPU when a pass fills it.
    """
    pixels = 512 * 512 if device.type == "cpu" else 8 * 512 * 512
    return min(max(pixels // (size[0] * size[1]), 1), 64)


class VideoStream:
    """Frames of a sequence in, the output of the clip that ends at each of them out; O(T) memory.

    The features of the frames that later clips reach back to stay in the cache, (T - 1) times `frame_interval` of
    them, so that a frame is extracted once, whatever clips it is in. Frames before the first are the first one
    repeated. `reset` between sequences. No gradient is kept. `frame_interval`: another one than the model's.
    """

    def __init__(self, model: SSTNet, frame_interval: int | None = None):
        self.model = model
        self._interval = model.frame_interval if frame_interval is None else frame_interval
        if self._interval < 1:
            raise ValueError(f"frame_interval {self._interval}: must be 1 or more")
        self._reach = (model.num_frames - 1) * self._interval  # frames before a key frame that its clip spans
        self._cache: deque[tuple[Tensor, Tensor]] = deque(maxlen=self._reach)

    def reset(self) -> None:
        """Forget the frames seen: the next one is the first of a sequence."""
        self._cache.clear()

    @torch.no_grad()
    def push(self, frames: Tensor) -> Tensor:
        """Consecutive frames (N, 3, H, W), N >= 1, all of one size -> outputs (N, 5 + K, H/8, W/8)."""
        if self.model.training:
            raise ValueError("a stream needs the model in evaluation mode: call model.eval() first")
        if len(frames) == 0:
            raise ValueError("a stream takes one frame or more at a time")
        features = self.model.extract(frames)
        halves = self.model.neck.reference_half(features)
        before = self._cache or [(features[:1], halves[:1])] * self._reach
        if before[0][0].shape[1:] != features.shape[1:]:
            raise ValueError("the frames' size has changed: call reset() between sequences")
        all_features = torch.cat([*(f for f, _ in before), features])  # (reach + N, C, h, w)
        all_halves = torch.cat([*(half for _, half in before), halves])
        count = len(frames)
        # Clip k is T of the rows k .. k + reach: position t of all N clips is one slice.
        starts = range(0, self._reach + 1, self._interval)
        output = self.model.detect(
            [all_features[start : start + count] for start in starts],
            [all_halves[start : start + count] for start in starts[:-1]],
        )
        # Only now: a push that fails leaves the stream as it was. Copies, not views, which would keep the chunk alive.
        if not self._cache:
            self._cache.extend([(features[:1].clone(), halves[:1].clone())] * self._reach)
        last = range(max(count - self._reach, 0), count)
        self._cache.extend((features[t : t + 1].clone(), halves[t : t + 1].clone()) for t in last)
        return output
