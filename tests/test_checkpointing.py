"""Gradient checkpointing: the same losses, gradients and running statistics, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from nets import SSTNet
from nets.checkpointing import checkpointed

Wrap = Callable[[SSTNet], Callable]


def step(
    recompute: tuple[str, ...], preset: tuple[int, int], wrap: Wrap = lambda model: model, **settings: float
) -> dict[str, torch.Tensor]:
    """Everything that one training step of a wrapped network leaves behind."""
    torch.manual_seed(0)
    model = SSTNet(1, 3, *preset, **{"width": 0.125, **settings}, recompute=recompute).train()
    clips = torch.randn(2, 3, 3, 64, 32)
    output, motion = wrap(model)(clips)
    (output.square().mean() + motion).backward()
    left = {f"gradient of {name}": value.grad for name, value in model.named_parameters()}
    return left | dict(model.named_buffers()) | {"output": output, "motion": motion}


@pytest.mark.parametrize("preset", [(1, 1), (2, 2)])
@pytest.mark.parametrize("recompute", [("extractor",), ("motion",), ("extractor", "motion")])
def test_nothing_changes(recompute, preset):
    expected, found = step((), preset), step(recompute, preset)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_nothing_changes_in_synchronised_statistics():
    """SyncBatchNorm, which in one process is plain BatchNorm."""
    expected = step((), (1, 1))
    found = step(("extractor", "motion"), (1, 1), nn.SyncBatchNorm.convert_sync_batchnorm)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_several_backward_passes():
    """As who weighs the terms of a loss by their gradients does: one graph, gone through for each term."""

    def gradients(recompute: tuple[str, ...]) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = SSTNet(1, 3, 1, 1, width=0.125, recompute=recompute).train()
        output, motion = model(torch.randn(2, 3, 3, 64, 32))
        output.square().mean().backward(retain_graph=True)
        motion.backward()
        return {name: value.grad for name, value in model.named_parameters()} | dict(model.named_buffers())

    expected, found = gradients(()), gradients(("extractor", "motion"))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_norms_of_other_dimensions_and_without_statistics():
    """In a motion branch of a user's own."""

    def trained(wrap: Callable) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        part = nn.Sequential(nn.Conv3d(2, 4, 1), nn.BatchNorm3d(4), nn.BatchNorm3d(4, track_running_stats=False))
        clips = torch.randn(2, 2, 3, 8, 8, requires_grad=True)
        wrap(part)(clips).square().sum().backward()
        return part.state_dict() | {"gradient": clips.grad}

    expected, found = trained(lambda part: part), trained(lambda part: partial(checkpointed, part))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_nothing_changes_under_compilation():
    """Traced as torch.compile does; this backend runs what was traced and needs no C++ compiler."""
    small = {"width": 0.0625, "depth": 0.1, "attention_dropout": 0.0}
    expected = step((), (1, 2), **small)
    found = step(("extractor", "motion"), (1, 2), partial(torch.compile, backend="aot_eager"), **small)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(("part", "preset", "width"), [("extractor", (1, 1), 0.5), ("motion", (2, 2), 0.125)])
def test_inner_results_are_not_kept(part, preset, width):
    """What autograd saves in the forward pass, weights apart, shrinks."""

    def saved_bytes(recompute: tuple[str, ...]) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if not isinstance(tensor, torch.nn.Parameter):
                sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        model = SSTNet(1, 3, *preset, width=width, recompute=recompute).train()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = model(torch.randn(1, 3, 3, 64, 64))
        assert outputs[0].requires_grad
        return sum(sizes.values())

    assert saved_bytes((part,)) < 0.7 * saved_bytes(())


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="neck"):
        SSTNet(recompute=("neck",))
