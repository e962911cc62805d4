"""Weight files: a network out of anybody's (weight_names.py), and our own.

A file of ours is a dictionary: `format`, `architecture` (the arguments of `SSTNet`), `class_names`, `input_size`
(height, width), `intensity` (how 16-bit and float frames become grey), `model` (the weights to use: the EMA's) and, in
a run's last.pth, `training` (what --resume needs). Released files (`utils.release_weights`) hold `frame_scales`,
`confidence` and `provenance` too. Half-precision weights become float32 in the network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets import SSTNet
from nets.motion_branch import MotionBranch
from utils.cli import UserError
from utils.frames import Intensity
from utils.tensor_files import read_checkpoint, save_atomically
from utils.weight_names import infer_architecture, rename_weights

FORMAT = "sstnet-1"
DEFAULT_WEIGHTS = Path(__file__).resolve().parents[1] / "model_data" / "sstnet_infrared.pth"
MOTION_PART = re.compile(r"^motion_branch\.stack\.nodes\.(\d+)\.(motion_gates|\w+_mix|\w+_attention)\.")


@dataclass
class LoadReport:
    """Names of the network's tensors (loaded, missing, mismatched) and of the file's (unexpected, ignored)."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)  # "name: shape in the file, shape in the network"
    ignored: list[str] = field(default_factory=list)  # known, but read by nothing in the network

    @property
    def complete(self) -> bool:
        """Whether every tensor of the network came from the file."""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        lines = [
            f"{len(self.loaded)} tensors loaded, {len(self.missing)} missing, {len(self.unexpected)} unexpected, "
            f"{len(self.mismatched)} mismatched, {len(self.ignored)} ignored"
        ]
        for kind in ("missing", "unexpected", "mismatched"):
            names = getattr(self, kind)
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                lines.append(f"  {kind}: {', '.join(names[:3])}{more}")
        return "\n".join(lines)


@dataclass
class LoadedNetwork:
    """A network ready for use, in evaluation mode, and what its file says of it."""

    model: SSTNet
    class_names: tuple[str, ...]
    input_size: tuple[int, int]  # height, width
    intensity: Intensity = "full"  # how the frames that it was trained with became grey
    frame_scales: tuple[float, float] | None = None  # how far frames are scaled (see `input_between`); None: no matter
    confidence: float | None = None  # to show detections from, where the file recommends one
    provenance: dict[str, Any] = field(default_factory=dict)  # how the weights were made, as far as the file says


def weights_or_default(given: Path | None) -> Path:
    """The weight file asked for, or the one that comes with the project; `UserError` where that is missing."""
    if given is None and not DEFAULT_WEIGHTS.is_file():
        raise UserError(f"{DEFAULT_WEIGHTS}: the project's own weights are missing; restore it, or pass --weights FILE")
    return given or DEFAULT_WEIGHTS


def weights_of(content: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The name -> tensor dictionary inside a checkpoint: at the top, or under `model` or `state_dict`."""
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    weights = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not weights:
        raise UserError(f"{source}: holds no tensors; expected a state dict, or one under 'model' or 'state_dict'")
    return weights


def load_weights(model: SSTNet, source: str | Path | Mapping[str, Any], name: str = "the state dict") -> LoadReport:
    """Copy into `model` every tensor whose name and shape fit; say what fitted and what did not.

    source: a path, or what is in such a file (then `name` says which, in messages): released checkpoints, the early
    release, Megvii's YOLOX or our own.
    """
    if isinstance(source, (str, Path)):
        source, name = read_checkpoint(source), str(source)
    renamed, ignored = rename_weights(weights_of(source, name))
    report = LoadReport(ignored=ignored)
    own = model.state_dict()
    for name, tensor in renamed.items():
        if name not in own:
            (report.ignored if _is_unread(name, model) else report.unexpected).append(name)
        elif tensor.shape != own[name].shape:
            report.mismatched.append(f"{name}: {tuple(tensor.shape)}, {tuple(own[name].shape)}")
        else:
            own[name].copy_(tensor)
            report.loaded.append(name)
    known = {*report.loaded, *(line.split(":")[0] for line in report.mismatched)}
    report.missing = [name for name in own if name not in known]
    return report


def _is_unread(name: str, model: SSTNet) -> bool:
    """Whether a network leaves a weight out on purpose: the motion part of its last node feeds nothing."""
    if not isinstance(model.motion_branch, MotionBranch):  # none, or somebody's own
        return name.startswith("motion_branch.")
    part = MOTION_PART.match(name)
    return part is not None and int(part[1]) == len(model.motion_branch.stack.nodes) - 1


def load_network(path: str | Path, device: str | torch.device = "cpu") -> LoadedNetwork:
    """Build the network that a file describes and fill it; UserError where tensors are missing or do not fit.

    A released checkpoint does not say its architecture: it is read off the shapes.
    """
    content = read_checkpoint(path)
    try:
        described = _describe(content, str(path))
        model = SSTNet(**described["architecture"])
        class_names, (height, width) = tuple(described["class_names"]), described["input_size"]
        height, width = int(height), int(width)
        remembered = remembered_in(described)
        if min(height, width) <= 0 or height % 32 or width % 32:
            raise ValueError(f"input size {height} x {width}")
        if len(class_names) != model.num_classes:
            raise ValueError(f"{len(class_names)} class names for {model.num_classes} classes")
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{path}: weights of another network, or a damaged file ({error}); expected SSTNet's") from None
    report = load_weights(model, content, str(path))
    if not report.complete:
        raise UserError(f"{path}: weights of another network: {report}")
    refuse_not_finite(model, report, str(path))
    return LoadedNetwork(model.to(device).eval(), class_names, (height, width), **remembered)


def refuse_not_finite(model: SSTNet, report: LoadReport, name: str) -> None:
    """`UserError` where a value that was loaded is not finite, or a variance negative: nothing would be found with it,
    nor learned."""
    values = model.state_dict()
    if bad := [name for name in report.loaded if name.endswith("running_var") and (values[name] < 0).any()]:
        raise UserError(f"{name}: has negative variances, the first in {bad[0]}; pass another weight file")
    if bad := [tensor for tensor in report.loaded if not values[tensor].isfinite().all()]:
        raise UserError(f"{name}: has values that are not finite, the first in {bad[0]}; pass another weight file")


def _intensity(value: Any) -> Intensity:
    """What a file says of grey values; ValueError where it makes no sense."""
    if value == "full":
        return "full"
    low, high = map(float, value)
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"intensity {low} {high}")
    return low, high


def remembered_in(described: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `LoadedNetwork` that a file need not state; TypeError or ValueError where one cannot be.

    What a file does not state is as it was before files could.
    """
    found: dict[str, Any] = {
        "intensity": _intensity(described.get("intensity", "full")),
        "provenance": dict(described.get("provenance") or {}),
    }
    if described.get("frame_scales") is not None:
        least, most = map(float, described["frame_scales"])
        if not 0 < least <= most:
            raise ValueError(f"frame scales {least} to {most}")
        found["frame_scales"] = (least, most)
    if described.get("confidence") is not None:
        found["confidence"] = float(described["confidence"])
        if not 0 <= found["confidence"] <= 1:
            raise ValueError(f"confidence {found['confidence']}")
    return found


def _describe(content: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """Architecture, class names and input size: what our files say, and what the shapes of a release say."""
    if content.get("format") == FORMAT:
        return content
    weights = weights_of(content, source)
    architecture = infer_architecture(weights)
    count = architecture["num_classes"]
    names = ["target"] if count == 1 else [f"class {index}" for index in range(count)]
    return {"architecture": architecture, "class_names": names, "input_size": (512, 512)}


def checkpoint_of(
    model: SSTNet, class_names: tuple[str, ...], input_size: tuple[int, int], intensity: Intensity = "full"
) -> dict[str, Any]:
    """The dictionary of a weight file."""
    return {
        "format": FORMAT,
        "architecture": dict(model.architecture),
        "class_names": list(class_names),
        "input_size": list(input_size),
        "intensity": intensity if intensity == "full" else list(intensity),
        "model": model.state_dict(),
    }


def save_weights(
    path: str | Path,
    model: SSTNet,
    class_names: tuple[str, ...],
    input_size: tuple[int, int],
    intensity: Intensity = "full",
) -> None:
    """Write a file that `load_network` reads without another word."""
    save_atomically(checkpoint_of(model, class_names, input_size, intensity), path)
