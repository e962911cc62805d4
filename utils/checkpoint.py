"""Weight files: reading anybody's, writing our own.

A file of ours is a dictionary: `format`, `architecture` (the arguments of `SSTNet`), `class_names`, `input_size`
(height, width), `intensity` (how 16-bit and float frames become grey), `model` (the weights to use: the EMA's) and, in
a run's last.pth, `training` (what --resume needs). Released files (`utils.release_weights`) hold `frame_scales`,
`confidence` and `provenance` too. Half-precision weights become float32 in the network.
Files are read with `weights_only=True`: they cannot run code.
"""

from __future__ import annotations

import copy
import io
import math
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets import SSTNet
from nets.motion_branch import MotionBranch
from utils.cli import UserError
from utils.frames import Intensity

FORMAT = "sstnet-1"
DEFAULT_WEIGHTS = Path(__file__).resolve().parents[1] / "model_data" / "sstnet_infrared.pth"

# Names of the two releases and of Megvii's YOLOX files -> ours.
PREFIXES = (
    (r"^(feature|backbone)\.", "extractor."),
    (r"^(mapping[12])\.", r"motion_branch.\1."),
)
NODE_PARTS = {
    "conv": "gates_xh",
    "conv2": "gates_xhqm",
    "motion.0": "motion_gates",
    "mm1": "past_mix",
    "mm2": "future_mix",
    "past_attention": "past_attention",
    "future_attention": "future_attention",
}
NODE_NAME = re.compile(r"^SSTNet\.cell_list\.(\d)(\d)\.(.+)$")
PAIR_WEIGHT = re.compile(r"^neck\.weight\.(\d+)$")
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


class DamagedFile(UserError):
    """A file that can be read and is no weight file, or not a whole one."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file with `weights_only=True`; UserError where it is missing, damaged or more than data."""
    try:
        with warnings.catch_warnings():  # of another pickle protocol: the file loads or it does not
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
        _verify(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a weight file (see model_data/README.md)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # the unpickler takes any bytes and fails on them in any way
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            raise UserError(f"{path}: memory is too short to read it; end other programs") from None
        raise DamagedFile(
            f"{path}: not a weight file, or a damaged one, or one that holds more than tensors and plain values; "
            "give a .pth file of this project or a release (see model_data/README.md)"
        ) from error
    if not isinstance(content, dict):
        raise DamagedFile(f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors")
    return content


def _verify(path: str | Path) -> None:
    """Compare the checksums inside a file, which torch.load does not; ValueError where one is wrong."""
    if zipfile.is_zipfile(path):  # older files are plain pickles, without checksums
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"wrong checksum of {damaged}")


def weights_of(content: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The name -> tensor dictionary inside a checkpoint: at the top, or under `model` or `state_dict`."""
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    weights = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise UserError(f"{source}: holds no tensors; expected a state dict, or one under 'model' or 'state_dict'")
    return weights


def rename_weights(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Our names for a file's tensors, and the names of those to ignore."""
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}  # DataParallel's
    nodes = [match for match in map(NODE_NAME.match, weights) if match]
    num_layers = max((int(match[2]) for match in nodes), default=0) + 1
    renamed: dict[str, Tensor] = {}
    ignored: list[str] = []
    pair_weights: dict[int, Tensor] = {}
    for name, tensor in weights.items():
        if pair := PAIR_WEIGHT.match(name):
            pair_weights[int(pair[1])] = tensor
        elif name.startswith("mapping0."):
            ignored.append(name)
        else:
            renamed[_our_name(name, num_layers)] = tensor
    if pair_weights:
        last = max(pair_weights)  # the release keeps one weight more than there are pairs
        ignored.append(f"neck.weight.{last}")
        renamed["neck.pair_weights"] = torch.cat([pair_weights[i].reshape(1) for i in sorted(pair_weights)[:-1]])
    return renamed, ignored


def _our_name(name: str, num_layers: int) -> str:
    if node := NODE_NAME.match(name):
        index = int(node[1]) * num_layers + int(node[2])
        for theirs, ours in NODE_PARTS.items():
            if node[3].startswith(theirs + "."):
                return f"motion_branch.stack.nodes.{index}.{ours}{node[3][len(theirs):]}"
    for pattern, ours in PREFIXES:
        name = re.sub(pattern, ours, name)
    return name


def load_weights(model: SSTNet, source: str | Path | Mapping[str, Any]) -> LoadReport:
    """Copy into `model` every tensor whose name and shape fit; say what fitted and what did not.

    source: a path or a state dict of the released checkpoints, the early release, Megvii's YOLOX or our own.
    """
    where = str(source) if isinstance(source, (str, Path)) else "the state dict"
    content = read_checkpoint(source) if isinstance(source, (str, Path)) else source
    renamed, ignored = rename_weights(weights_of(content, where))
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


def infer_architecture(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `SSTNet` from the shapes of a released checkpoint (our names); KeyError if it is none."""
    stem = weights["extractor.backbone.stem.conv.conv.weight"].shape[0]
    channels, references = weights["neck.conv_cur.0.conv.weight"].shape[1], weights["neck.pair_weights"].shape[0]
    if weights["neck.conv_ref.0.conv.weight"].shape[1] != channels * references:
        raise KeyError("neck.conv_ref")
    bottlenecks = len({n.split(".")[5] for n in weights if n.startswith("extractor.backbone.dark3.1.m.")})
    nodes = {int(part[1]) for part in (re.match(r"motion_branch\.stack\.nodes\.(\d+)\.", n) for n in weights) if part}
    return {
        "num_classes": weights["head.cls_preds.0.weight"].shape[0],
        "num_frames": references + 1,
        "num_slices": 1,
        "num_layers": len(nodes),
        "depth": round(bottlenecks / 9, 2),
        "width": stem / 64,
    }


def load_network(path: str | Path, device: str | torch.device = "cpu") -> LoadedNetwork:
    """Build the network that a file describes and fill it; UserError where tensors are missing or do not fit.

    A released checkpoint does not say its architecture: it is read off the shapes.
    """
    content = read_checkpoint(path)
    try:
        described = _describe(content, str(path))
        model = SSTNet(**described["architecture"])
        class_names, (height, width) = tuple(described["class_names"]), described["input_size"]
        remembered = remembered_in(described)
        if len(class_names) != model.num_classes:
            raise ValueError(f"{len(class_names)} class names for {model.num_classes} classes")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: weights of another network, or a damaged file ({error}); expected SSTNet's") from None
    report = load_weights(model, content)
    if not report.complete:
        raise UserError(f"{path}: weights of another network: {report}")
    return LoadedNetwork(model.to(device).eval(), class_names, (int(height), int(width)), **remembered)


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
    architecture = infer_architecture(rename_weights(weights)[0])
    nodes = [match for match in (NODE_NAME.match(name.removeprefix("module.")) for name in weights) if match]
    architecture["num_slices"] = max(len({match[1] for match in nodes}), 1)
    architecture["num_layers"] //= architecture["num_slices"]
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


def refuse_folder(path: Path) -> None:
    """`UserError` where the weight file that is to be written is a folder."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it, such as {path / 'weights.pth'}")


def save_atomically(content: dict[str, Any], path: str | Path, keep_as: Path | None = None) -> None:
    """Write to a temporary file, flush it to disk, rename: whoever reads sees the old file or the new one, whole.

    keep_as: what the older file is renamed to, when the new one is down and before it takes the name.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    memory = io.BytesIO()  # what fails while writing is then the disk, with its own words for it
    torch.save(_on_cpu(content), memory)
    try:
        with open(temporary, "wb") as file:
            file.write(memory.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        if keep_as is not None and path.exists():
            os.replace(path, keep_as)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # the folder itself may be what cannot be written
            temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written ({reason}); the older file, if any, is untouched") from error


def _on_cpu(content: Any) -> Any:
    """The same with all tensors on the CPU, so that a machine without this GPU can load the file by itself."""
    if isinstance(content, Tensor):
        return content.cpu()
    if isinstance(content, dict):
        moved = copy.copy(content)  # of a state_dict with what it says of its modules' versions
        moved.update((key, _on_cpu(value)) for key, value in content.items())
        return moved
    if isinstance(content, (list, tuple)):
        return type(content)(map(_on_cpu, content))
    return content


def _sync_folder(folder: Path) -> None:
    """Put a folder's renames on the disk, where the system knows how."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
