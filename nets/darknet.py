"""CSPDarknet as in YOLOX: the convolution blocks and the five-stage backbone (docs/code_map.md, section 1).

Shapes: B images, C channels, H x W pixels. Names of submodules are YOLOX's own, so its checkpoints load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from .convolution import Conv2d


class BaseConv(nn.Module):
    """Conv2d without bias + BatchNorm2d + activation, SiLU unless another is given: eq. 1.1."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        activation: type[nn.Module] = nn.SiLU,
    ):
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv = Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.03)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self._activate(self.bn(self.conv(x)))  # of the convolution or BatchNorm: nobody else's tensor

    def normalise(self, x: Tensor) -> Tensor:
        """BatchNorm and activation alone, for callers that compute the convolution in parts; x stays as it is."""
        if isinstance(self.bn, nn.Identity):  # an inference form's, which gives x itself
            return self.act(x)
        return self._activate(self.bn(x))

    def _activate(self, x: Tensor) -> Tensor:
        if isinstance(self.act, nn.SiLU) and not torch.is_grad_enabled():
            return silu(x, inplace=True)  # with autograd it would cost a copy of x, not save one
        return self.act(x)


class Focus(nn.Module):
    """Eq. 1.2, space to depth by 2, then a 3x3 BaseConv: (B, 3, H, W) -> (B, out_channels, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = BaseConv(4 * in_channels, out_channels, kernel_size=3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))  # (B, C, H/2, row, W/2, column)
        # Top left, bottom left, top right, bottom right: one gather, which is faster than four slices side by side.
        return self.conv(x.permute(0, 5, 3, 1, 2, 4).flatten(1, 3))  # (B, 4 C, H/2, W/2)


class Bottleneck(nn.Module):
    """1x1 then 3x3 BaseConv, with an identity shortcut if asked for: (B, C, H, W) -> the same."""

    def __init__(self, channels: int, shortcut: bool):
        super().__init__()
        self.conv1 = BaseConv(channels, channels, kernel_size=1)
        self.conv2 = BaseConv(channels, channels, kernel_size=3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class CSPLayer(nn.Module):
    """Cross-stage partial layer: half of the channels go through n bottlenecks, half pass by."""

    def __init__(self, in_channels: int, out_channels: int, num_bottlenecks: int = 1, shortcut: bool = True):
        super().__init__()
        hidden = out_channels // 2
        self.conv1 = BaseConv(in_channels, hidden, kernel_size=1)
        self.conv2 = BaseConv(in_channels, hidden, kernel_size=1)
        self.conv3 = BaseConv(2 * hidden, out_channels, kernel_size=1)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut) for _ in range(num_bottlenecks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], dim=1))


class SPPBottleneck(nn.Module):
    """Spatial pyramid pooling with windows 5, 9 and 13.

    A stride-1 maximum over 9 is the maximum over 5 of the maximum over 5, and so on: three small pools do it.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        hidden = in_channels // 2
        self.conv1 = BaseConv(in_channels, hidden, kernel_size=1)
        self.pool = nn.MaxPool2d(kernel_size=5, stride=1, padding=2)
        self.conv2 = BaseConv(4 * hidden, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        pool5 = self.pool(x)
        pool9 = self.pool(pool5)
        pool13 = self.pool(pool9)
        return self.conv2(torch.cat([x, pool5, pool9, pool13], dim=1))


class CSPDarknet(nn.Module):
    """YOLOX's backbone: images (B, 3, H, W) -> maps at strides 8, 16 and 32, H and W multiples of 32.

    With width 0.50 the maps have 128, 256 and 512 channels.
    """

    def __init__(self, depth: float = 0.33, width: float = 0.50):
        super().__init__()
        base = int(64 * width)
        n = max(round(3 * depth), 1)
        self.stem = Focus(3, base)
        self.dark2 = nn.Sequential(BaseConv(base, 2 * base, 3, stride=2), CSPLayer(2 * base, 2 * base, n))
        self.dark3 = nn.Sequential(
            BaseConv(2 * base, 4 * base, 3, stride=2), CSPLayer(4 * base, 4 * base, 3 * n)
        )
        self.dark4 = nn.Sequential(
            BaseConv(4 * base, 8 * base, 3, stride=2), CSPLayer(8 * base, 8 * base, 3 * n)
        )
        self.dark5 = nn.Sequential(
            BaseConv(8 * base, 16 * base, 3, stride=2),
            SPPBottleneck(16 * base, 16 * base),
            CSPLayer(16 * base, 16 * base, n, shortcut=False),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stride8 = self.dark3(self.dark2(self.stem(x)))  # (B, 4 base, H/8, W/8)
        stride16 = self.dark4(stride8)  # (B, 8 base, H/16, W/16)
        return stride8, stride16, self.dark5(stride16)  # (B, 16 base, H/32, W/32)
