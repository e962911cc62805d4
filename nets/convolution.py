"""Convolutions whose kernels get their gradients faster where oneDNN is slow.

On processors with AVX2 and no AVX-512, oneDNN takes the gradient of a channels-last 3 x 3 kernel at a fraction of the
forward pass's rate. Matrix products of strips, which stay in the caches, take it one to three times as fast
(`python -m benchmarks.kernel_gradient`). Elsewhere these are PyTorch's own convolutions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn.functional import pad

STRIP = 2**18  # numbers in a strip of windows for each thread: 1 MiB
FEWEST_CHANNELS = 32  # of input and output; with fewer the copies take longer than the products


@torch.fx.wrap  # torch.fx keeps the call as it is
def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """`torch.nn.functional.conv2d`, the same numbers: (B, C, H, W), (O, C, k, k), (O,) -> (B, O, h, w)."""
    if not torch.jit.is_scripting():  # noqa: SIM102, TorchScript leaves out what stands inside
        if torch.is_grad_enabled() and weight.requires_grad and takes_products(x, weight):
            return _Convolution.apply(x, weight, bias, stride, padding)
    return torch.nn.functional.conv2d(x, weight, bias, stride, padding)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` through `conv2d`: square, zeros around it, without dilation and groups."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0, bias=True
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, self.stride[0], self.padding[0])


def takes_products(x: Tensor, weight: Tensor) -> bool:
    """Whether this kernel's gradient is taken by matrix products, not by the library."""
    outputs, channels, height, width = weight.shape
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not _transformed(x, weight)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and height == width > 1
        and min(outputs, channels) >= FEWEST_CHANNELS
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _transformed(*tensors: Tensor) -> bool:
    """Inside vmap, jvp and the like, which `_Convolution` does not know."""
    inside = torch._C._functorch.peek_interpreter_stack() is not None  # PyTorch has no public name for it
    return inside or any(unpack_dual(tensor).tangent is not None for tensor in tensors)


class _Convolution(torch.autograd.Function):
    """A convolution whose kernel's gradient is `kernel_gradient`; everything else is the library's."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        return torch.nn.functional.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias, *_ = ctx.needs_input_grad
        grad_x = grad_weight = None
        if need_x:
            geometry = [ctx.stride] * 2, [ctx.padding] * 2, [1, 1], False, [0, 0], 1  # no dilation, no groups
            grad_x, *_ = torch.ops.aten.convolution_backward(grad, x, weight, None, *geometry, [True, False, False])
        if need_weight:
            grad_weight = kernel_gradient(x, grad, weight.shape[-1], ctx.stride, ctx.padding)
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if need_bias else None, None, None


def kernel_gradient(x: Tensor, grad: Tensor, kernel_size: int, stride: int = 1, padding: int = 0) -> Tensor:
    """Gradient of a convolution's kernel: input (B, C, H, W), gradient of the output (B, O, h, w) -> (O, C, k, k).

    Each output cell's window of the input is a row of k k C numbers; the gradient is the product of the cells'
    gradients with these rows, summed strip by strip. The result is channels-last; so is what it is made for, but any
    layout gives the same.
    """
    channels, (outputs, height, width) = x.shape[1], grad.shape[1:]
    window = kernel_size**2 * channels
    in_strip = max(STRIP * torch.get_num_threads() // window, 1)  # cells
    rows = min(max(in_strip // width, 1), height)
    images = max(in_strip // (height * width), 1)
    borders = (0, 0, padding, padding, padding, padding)
    total = grad.new_zeros(outputs, window)  # of the gradient: under vmap of a backward pass it is a batch too
    for some, cells in zip(x.split(images), grad.permute(0, 2, 3, 1).split(images), strict=True):  # cells (n, h, w, O)
        padded = pad(some.permute(0, 2, 3, 1), borders).contiguous()  # (n, H', W', C)
        of_image, of_row, of_column, _ = padded.stride()
        windows = padded.as_strided(  # (n, h, w, k, k C): the k C numbers of a window's row are contiguous; no copy yet
            (len(some), height, width, kernel_size, kernel_size * channels),
            (of_image, stride * of_row, stride * of_column, of_row, 1),
        )
        for strip, strip_windows in zip(cells.split(rows, 1), windows.split(rows, 1), strict=True):
            total.addmm_(strip.reshape(-1, outputs).t(), strip_windows.reshape(-1, window))
    return total.view(outputs, kernel_size, kernel_size, channels).permute(0, 3, 1, 2)
