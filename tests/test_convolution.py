"""Our convolutions are PyTorch's: the same outputs and gradients, whatever way the kernel's gradient takes."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d as pytorch_conv2d

from nets import SSTNet, convolution
from nets.convolution import conv2d, kernel_gradient
from nets.darknet import BaseConv


@pytest.fixture
def avx2(monkeypatch):
    """A processor for which the kernels' gradients are matrix products, whatever this one is."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def channels_last(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 5), channels=st.integers(1, 6), outputs=st.integers(1, 5), height=st.integers(1, 11),
    width=st.integers(1, 11), kernel_size=st.sampled_from([1, 2, 3, 5]), stride=st.integers(1, 4),
    padding=st.integers(0, 2), strip=st.sampled_from([1, 50, 400, 2**18]), last=st.booleans(),
)  # fmt: skip
def test_kernel_gradient_is_autograds(
    images, channels, outputs, height, width, kernel_size, stride, padding, strip, last
):
    """Strips of one cell, of some rows, of some images, of everything; either layout."""
    assume(min(height, width) + 2 * padding >= kernel_size)
    x = torch.randn(images, channels, height, width, dtype=torch.float64)
    weight = torch.randn(outputs, channels, kernel_size, kernel_size, dtype=torch.float64, requires_grad=True)
    output = pytorch_conv2d(x, weight, stride=stride, padding=padding)
    grad = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, weight, grad)
    layout = torch.channels_last if last else torch.contiguous_format
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(convolution, "STRIP", strip)
        found = kernel_gradient(
            x.contiguous(memory_format=layout), grad.contiguous(memory_format=layout), kernel_size, stride, padding
        )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("stride", "bias"), [(1, True), (2, False)])
def test_gradients_are_pytorchs(stride, bias, avx2):
    torch.manual_seed(0)
    x, weight = channels_last(3, 32, 12, 10).requires_grad_(), channels_last(33, 32, 3, 3).requires_grad_()
    inputs = [x, weight, torch.randn(33, requires_grad=True)] if bias else [x, weight]
    ours = conv2d(*inputs, stride=stride, padding=1)
    theirs = pytorch_conv2d(*inputs, stride=stride, padding=1)
    assert type(ours.grad_fn).__name__ == "_ConvolutionBackward" and torch.equal(ours, theirs)
    grad = torch.randn_like(ours)
    found, expected = (torch.autograd.grad(output, inputs, grad) for output in (ours, theirs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert found[1].is_contiguous(memory_format=torch.channels_last)


def test_only_the_gradients_that_are_asked_for(avx2):
    x, weight = channels_last(2, 32, 8, 8), channels_last(32, 32, 3, 3).requires_grad_()
    conv2d(x, weight, padding=1).sum().backward()
    assert weight.grad is not None and x.grad is None
    frozen = conv2d(x.requires_grad_(), weight.detach(), padding=1)
    assert type(frozen.grad_fn).__name__ == "ConvolutionBackward0"


def test_gradients_of_gradients():
    """Autograd differentiates the backward pass as well, in double precision here."""
    inputs = [t.requires_grad_() for t in (channels_last(2, 2, 4, 3, dtype=torch.float64),
                                           channels_last(2, 2, 3, 3, dtype=torch.float64),
                                           torch.randn(2, dtype=torch.float64))]  # fmt: skip

    def run(*given):
        return convolution._Convolution.apply(*given, 1, 1)

    assert torch.autograd.gradcheck(run, inputs) and torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_other_ways_to_run_a_network(avx2):
    """A block whose parameters ask for gradients is traced, saved, scripted, exported and compiled as PyTorch's own."""
    torch.manual_seed(0)
    block = BaseConv(32, 32, kernel_size=3).to(memory_format=torch.channels_last).eval()
    x = channels_last(2, 32, 8, 8)
    output = block(x)
    traced = torch.jit.trace(block, x, check_trace=False)
    torch.jit.save(traced, io.BytesIO())
    ways = [
        traced, torch.jit.script(block), torch.fx.symbolic_trace(block),
        torch.export.export(block, (x,), strict=True).module(),
        torch.compile(block, backend="eager", fullgraph=True),
    ]  # fmt: skip
    for way in ways:
        assert torch.equal(way(x), output), way


def test_function_transforms(avx2):
    torch.manual_seed(0)
    x, weight = channels_last(2, 32, 8, 8), channels_last(32, 32, 3, 3)

    def run(weight, convolve=conv2d, x=x):
        return convolve(x, weight, padding=1).square().sum()

    expected = torch.func.grad(lambda w: run(w, pytorch_conv2d))(weight)
    torch.testing.assert_close(torch.func.grad(run)(weight), expected)
    both = torch.stack([weight, 2 * weight])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(run))(both)[0], expected)
    _, along = torch.func.jvp(torch.func.grad(run), (weight,), (weight,))
    torch.testing.assert_close(along, expected)  # the square's gradient is linear
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(weight.clone().requires_grad_(), weight)
        tangent = torch.autograd.forward_ad.unpack_dual(conv2d(x, dual, padding=1)).tangent
    torch.testing.assert_close(tangent, pytorch_conv2d(x, weight, padding=1))


def test_a_batch_of_backward_passes(avx2):
    torch.manual_seed(0)
    x, weight = channels_last(2, 32, 8, 8), channels_last(32, 32, 3, 3).requires_grad_()
    ours, theirs = (convolve(x, weight, padding=1) for convolve in (conv2d, pytorch_conv2d))
    many = torch.randn(3, *ours.shape)
    found, expected = (torch.autograd.grad(y, weight, many, is_grads_batched=True)[0] for y in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_where_pytorchs_own_gradient_stays(monkeypatch):
    x, weight = channels_last(1, 32, 8, 8), channels_last(32, 32, 3, 3)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not convolution.takes_products(x, weight)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert convolution.takes_products(x, weight)
    assert not convolution.takes_products(x.double(), weight.double())
    assert not convolution.takes_products(x.contiguous(), weight)
    assert not convolution.takes_products(x, channels_last(32, 32, 1, 1))
    assert not convolution.takes_products(x, channels_last(32, 32, 1, 3))
    assert not convolution.takes_products(channels_last(1, 31, 8, 8), channels_last(32, 31, 3, 3))
    assert not convolution.takes_products(x, channels_last(31, 32, 3, 3))
    assert not convolution.takes_products(x.to("meta"), weight.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not convolution.takes_products(x, weight)


@pytest.mark.parametrize("stack", [(1, 1), (2, 2)])
def test_a_networks_gradients_are_the_same_both_ways(stack, monkeypatch):
    """Of every parameter; and what the strips read is channels-last, in the recurrence and around it too."""
    torch.manual_seed(0)
    model = SSTNet(width=0.25, num_slices=stack[0], num_layers=stack[1], attention_dropout=0.0)
    model = model.to(memory_format=torch.channels_last).train()
    clips = torch.randn(2, 3, 5, 64, 64)
    layouts = []

    def watched(x, grad, *geometry):
        layouts.append(grad.is_contiguous(memory_format=torch.channels_last))
        return kernel_gradient(x, grad, *geometry)

    monkeypatch.setattr(convolution, "kernel_gradient", watched)
    gradients = []
    for capability in ("AVX512", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda name=capability: name)
        model.zero_grad()
        output, motion = model(clips)
        (output.square().mean() + motion).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        assert bool(layouts) == (capability == "AVX2")
    assert all(layouts)
    for name, expected in gradients[0].items():
        error = (gradients[1][name] - expected).abs().max()
        assert error <= 1e-3 * expected.abs().max() + 1e-7, (name, error)
