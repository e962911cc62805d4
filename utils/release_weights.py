"""Make a weight file to give away: the detector alone, in half precision, with what it is and how it was made.

python -m utils.release_weights --weights runs/DAUB/last.pth --output model_data/mine.pth

The motion branch stays behind (it runs in training only). Convolution kernels become 16-bit floats; BatchNorm's
numbers, whose range is wider, and biases stay 32-bit. The same weights give the same bytes. The file takes its name
only when it was read back and gave the original's detections (`CONFIDENCE_TOLERANCE`, `BOX_TOLERANCE`) on synthetic
frames.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nets import SSTNet
from nets.yolox_head import decode_output
from utils.checkpoint import LoadedNetwork, checkpoint_of, load_network, load_weights
from utils.cli import Unset, UserError, run_command
from utils.clips import normalise_frames
from utils.config import TrainConfig
from utils.evaluation_report import make_folder
from utils.run_state import recorded_run
from utils.synthetic import make_sequence
from utils.synthetic_presets import PRESETS
from utils.tensor_files import read_checkpoint, refuse_folder, save_atomically

LARGEST = 25_000_000  # bytes
CONFIDENCE_TOLERANCE = 0.01  # by which a detection's confidence may change
BOX_TOLERANCE = 0.25  # input pixels by which a side of a box may move
SURE = 0.05  # boxes of at least this confidence are compared: the others are drawn by nobody
CHECK_FRAMES, CHECK_SIZE = 6, (96, 96)
WITHOUT_EFFECT = (  # settings that change no weight
    "data_root", "val_list", "run_dir", "resume", "device", "workers", "cache", "cache_mb", "cache_dir", "dry_run",
    "check_data", "rank_timeout", "val_interval", "save_interval", "checkpoint_every",
)  # fmt: skip


@dataclass
class Config:
    """Make a small weight file to give away from a run's checkpoint; it is read back and compared first."""

    weights: Path
    """Checkpoint to take the weights from: a run's last.pth (which knows its settings), best.pth, or a release."""
    output: Path
    """The file to write, at most 25 MB."""
    data: str = ""
    """What the weights were trained on and under which licence, in words; kept in the file."""
    confidence: Unset[float] = None
    """Confidence to show detections from, which vid_predict.py takes where it is given none."""
    frame_scales: Unset[tuple[float, float]] = None
    """Least and most that frames were enlarged by in training: frames of other sizes are then enlarged as much, into
    an input of their own. Default: every frame goes into the input size of the training."""


@dataclass(frozen=True)
class Difference:
    """How far the outputs of two networks are apart."""

    confidence: float
    box: float  # input pixels

    @property
    def accepted(self) -> bool:
        return self.confidence <= CONFIDENCE_TOLERANCE and self.box <= BOX_TOLERANCE


def main(config: Config) -> None:
    """Write beside the output, check, and only then rename."""
    refuse_folder(config.output)
    if config.weights.resolve() == config.output.resolve():
        raise UserError(f"{config.output}: is the checkpoint itself; pass another --output")
    if config.confidence is not None and not 0 <= config.confidence <= 1:
        raise UserError(f"--confidence {config.confidence}: must be between 0 and 1")
    if config.frame_scales and not 0 < config.frame_scales[0] <= config.frame_scales[1]:
        raise UserError("--frame-scales: two factors above 0, the smaller one first")
    content = read_checkpoint(config.weights)
    original = load_network(config.weights)
    content = release_of(content, original, config)
    if beyond := [name for name, tensor in content["model"].items() if not tensor.isfinite().all()]:
        raise UserError(
            f"{config.weights}: {beyond[0]} has values beyond the range of half precision; nothing written: train on "
            "at a lower rate, or share the file as it is"
        )
    make_folder(config.output.parent)
    draft = config.output.with_name(config.output.name + ".draft")
    try:
        save_atomically(content, draft)
        size = draft.stat().st_size
        if size > LARGEST:
            raise UserError(
                f"{config.weights}: makes a file of {size / 1e6:.1f} MB, and {LARGEST / 1e6:.0f} are allowed; "
                "train a narrower network (--width)"
            )
        difference = compare(original.model, load_network(draft).model)
        if not difference.accepted:
            raise UserError(
                f"{config.weights}: half precision changes confidences by up to {difference.confidence:.3f} and boxes "
                f"by up to {difference.box:.2f} pixels; nothing written: train on, or share the file as it is"
            )
        os.replace(draft, config.output)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    print(
        f"{config.output}: {size / 1e6:.1f} MB; read back, confidences differ by at most {difference.confidence:.4f} "
        f"and boxes by {difference.box:.3f} pixels"
    )


def release_of(content: Mapping[str, Any], original: LoadedNetwork, config: Config) -> dict[str, Any]:
    """The dictionary of the file."""
    detector = SSTNet(**{**original.model.architecture, "num_slices": 0, "num_layers": 0})
    load_weights(detector, original.model.state_dict())
    scales = config.frame_scales or original.frame_scales  # of a released file once more, unless others are given
    return {
        **checkpoint_of(detector, original.class_names, original.input_size, original.intensity),
        "frame_scales": None if scales is None else list(scales),
        "confidence": original.confidence if config.confidence is None else config.confidence,
        "provenance": provenance(content, config),
        "model": {name: halved(tensor) for name, tensor in detector.state_dict().items()},
    }


def halved(tensor: Tensor) -> Tensor:
    """A kernel as 16-bit floats, anything else as it is; memory of its own, in the order of its dimensions."""
    half = tensor.dtype == torch.float32 and tensor.dim() > 1
    return tensor.detach().to(torch.float16 if half else tensor.dtype).clone(memory_format=torch.contiguous_format)


def provenance(content: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """How the weights were made, as plain values: settings that are not the defaults, the revision, the data.

    A run's last.pth has its settings; for other files the config.json beside them counts. Paths lose their folders.
    """
    if isinstance(content.get("provenance"), dict) and content["provenance"]:  # a released file once more
        return {**content["provenance"], **({"data": config.data} if config.data else {})}
    recorded = recorded_run(config.weights)
    settings = content.get("training", {}).get("settings") or recorded.get("config", {})
    environment = recorded.get("environment", {})
    return {
        "settings": _own_settings(settings),
        "epochs_done": content.get("training", {}).get("progress", {}).get("epoch"),
        "revision": environment.get("git"),
        "torch": environment.get("packages", {}).get("torch"),
        "data": config.data,
        **({"statistics": content["statistics"]} if "statistics" in content else {}),  # of utils.recalibrate
    }


def _own_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that differ from the defaults, and the seed, as JSON types."""
    usual = {field.name: field.default for field in fields(TrainConfig) if field.default is not MISSING}
    found = {}
    for name, value in settings.items():
        value, default = _as_json(value), _as_json(usual.get(name))
        if name in WITHOUT_EFFECT or (name != "seed" and value == default):
            continue
        found[name] = Path(value).name if isinstance(value, str) and ("/" in value or "\\" in value) else value
    return found


def _as_json(value: Any) -> Any:
    """A setting as a JSON file has it."""
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


@torch.inference_mode()
def compare(first: SSTNet, second: SSTNet) -> Difference:
    """Largest difference of confidences and boxes on frames of a synthetic sequence."""
    frames = make_sequence(np.random.default_rng(0), PRESETS["hard"], CHECK_FRAMES, CHECK_SIZE).frames
    inputs = normalise_frames(torch.from_numpy(frames))
    found = [decode_output(model.forward_video(inputs), model.stride) for model in (first, second)]
    scores = [output[..., 4].sigmoid() * output[..., 5:].sigmoid().amax(-1) for output in found]
    corners = [torch.cat([o[..., :2] - o[..., 2:4] / 2, o[..., :2] + o[..., 2:4] / 2], -1) for o in found]
    sure = torch.maximum(*scores) >= SURE
    moved = (corners[0] - corners[1])[sure].abs()
    return Difference((scores[0] - scores[1]).abs().max().item(), moved.max().item() if len(moved) else 0.0)


if __name__ == "__main__":
    run_command(main, Config)
