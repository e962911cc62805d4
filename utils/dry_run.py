"""What a run would do, without doing it: parameters, steps, learning rates and memory."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nets import SSTNet

if TYPE_CHECKING:
    from utils.trainer import Trainer

RATES_SHOWN = 9  # points of the learning-rate curve


def describe_run(trainer: Trainer) -> str:
    """A page of text: what `trainer` would train, for how long, and the memory that it would need."""
    return "\n".join([*_parameters(trainer), *_steps(trainer), *_memory(trainer), "dry run: nothing was written"])


def _parameters(trainer: Trainer) -> list[str]:
    model, groups = trainer.model, trainer.optimizer.param_groups
    unreached = unreached_parameters(model)
    but = f" but for {', '.join(unreached)}, which no gradient reaches" if unreached else ""
    lines = [f"parameters: {_count(model.parameters()):,}, all of them trained{but}"]
    lines += [f"  {name}: {_count(part.parameters()):,}" for name, part in model.named_children()]
    for group in groups:
        tensors = group["params"]
        lines.append(f"  weight decay {group['weight_decay']:g}: {_count(tensors):,} in {len(tensors)} tensors")
    return lines


def unreached_parameters(model: SSTNet) -> list[str]:
    """Names of the parameters without a gradient: what the first slice's attention multiplies a past of zeros by."""
    layers = range(model.architecture["num_layers"])
    names = [f"motion_branch.stack.nodes.{layer}.past_attention.in_proj_weight" for layer in layers]
    return [name for name in names if name in dict(model.named_parameters())]


def _steps(trainer: Trainer) -> list[str]:
    config, shape = trainer.config, trainer.loader.batch_sampler.shape
    frames = f"{len(trainer.train_data.records)} training and {len(trainer.val_data.records)} validation frames"
    epochs = sorted({round(i * (config.epochs - 1) / (RATES_SHOWN - 1)) for i in range(RATES_SHOWN)})
    return [
        f"data: {frames}",
        f"steps: {config.epochs} epochs x {trainer.steps} = {config.epochs * trainer.steps:,}, of {shape.size} clips "
        f"each: {shape.clips} x {shape.parts} parts x {trainer.processes.count} processes",
        f"learning rate ({config.optimizer}, {config.schedule}), by epoch:",
        "  " + ", ".join(f"{epoch + 1}: {trainer.schedule.rate(epoch):.2e}" for epoch in epochs),
    ]


def _memory(trainer: Trainer) -> list[str]:
    config, shape = trainer.config, trainer.loader.batch_sampler.shape
    weights = sum(value.nbytes for value in trainer.model.state_dict().values())
    states = 1 if config.optimizer == "sgd" else 2  # moments
    fixed = {"weights": weights, "gradients": weights, "optimiser": states * weights, "EMA": weights}
    size = (shape.clips, 3, config.num_frames, *config.training_size)
    held = activation_bytes(trainer.model, size)
    total = sum(fixed.values()) + held
    parts = ", ".join(f"{name} {value / 2**20:,.0f}" for name, value in {**fixed, "activations": held}.items())
    return [
        f"memory of a process: about {total / 2**20:,.0f} MiB in float32 ({parts}); --amp halves most activations, "
        "and the work space of the kernels comes on top",
        f"last.pth: {(2 + states) * weights / 2**20:,.0f} MiB, twice with the one before it",
    ]


def activation_bytes(model: SSTNet, size: tuple[int, ...]) -> int:
    """Bytes that training on clips of `size` (B, 3, T, H, W) holds for the backward pass at most, in float32: what the
    forward pass keeps, and of what is computed again (`SSTNet.recompute`) the largest piece.

    Runs on PyTorch's meta device: shapes alone, no numbers. Parameters are not counted.
    """
    ghost = copy.deepcopy(model).to("meta").train()
    kept = _bytes_kept(ghost, size)[0]
    branch = ghost.motion_branch if "motion" in ghost.recompute else None
    nodes = getattr(getattr(branch, "stack", None), "nodes", filter(None, [branch]))  # one of one's own: in one piece
    pieces = [*([ghost.extractor] if "extractor" in ghost.recompute else ()), *nodes]
    if not pieces:
        return kept
    ghost.recompute = frozenset()
    return kept + max(_bytes_kept(ghost, size, pieces)[1])


def _bytes_kept(ghost: SSTNet, size: tuple[int, ...], pieces: Sequence[nn.Module] = ()) -> tuple[int, list[int]]:
    """What a forward pass keeps, and what it keeps of each of its calls of `pieces`."""
    kept: dict[int, Tensor] = {}  # by the number of their storage, which is used again once a storage is freed
    own = {parameter.untyped_storage()._cdata for parameter in ghost.parameters()}
    before, calls = [], []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def total() -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    hooks = [piece.register_forward_pre_hook(lambda *_: before.append(total())) for piece in pieces]
    hooks += [piece.register_forward_hook(lambda *_: calls.append(total() - before.pop())) for piece in pieces]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ghost(torch.empty(size, device="meta"))
    for hook in hooks:
        hook.remove()
    return total(), calls


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
