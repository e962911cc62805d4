"""Cross-slice ConvLSTM: the sliced spatio-temporal network of the motion branch (docs/code_map.md, section 4).

Shapes: T frames, B clips, C = 64 hidden channels, H x W cells. Sequences are (T * B, C, H, W), all clips' first frames
first: convolutions take them whole, and channels-last memory stays so.

Inside a slice h and c run along time; m_h and m_c run across slices. Only the convolution of h waits for the
recurrence, so a node computes everything else for all T frames at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    adaptive_max_pool2d,
    interpolate,
    linear,
    scaled_dot_product_attention,
)

from .checkpointing import checkpointed
from .convolution import Conv2d, conv2d

TOKEN_SIDE = 32  # a channel is pooled to 32 x 32 and is one token of 1024 numbers


class NodeOutput(NamedTuple):
    """Sequences (T * B, C, H, W) that a node hands on; the motion states are None where nobody reads them."""

    hidden: Tensor
    cell_last: Tensor  # c of the last frame: (B, C, H, W)
    motion_hidden: Tensor | None  # m_h
    motion_cell: Tensor | None  # m_c


class ChannelAttention(nn.Module):
    """Multi-head attention among channels: one token a channel, batch first.

    Parameters have the names and shapes of `nn.MultiheadAttention`. It is written out because the query is the
    same for all T frames (projected once) and because the memory of the first slice is zero (no projection).
    """

    def __init__(self, embed: int = TOKEN_SIDE**2, num_heads: int = 8, dropout: float = 0.1):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed, embed))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed))
        self.out_proj = nn.Linear(embed, embed)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def _split_heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)  # (..., heads, tokens, embed / heads)

    def forward(self, query: Tensor, memory: Tensor | None, num_frames: int) -> Tensor:
        """Attend to the memory of every frame.

        query: (B, tokens, embed), shared by the frames. memory: keys and values (T, B, tokens, embed); None stands
        for zeros, whose projection is the bias alone. Returns (T, B, tokens, embed).
        """
        weight_q, weight_k, weight_v = self.in_proj_weight.chunk(3)
        bias_q, bias_k, bias_v = self.in_proj_bias.chunk(3)
        shape = (num_frames, *query.shape)
        q = linear(query, weight_q, bias_q).expand(shape)
        if memory is None:
            k, v = bias_k.to(q.dtype).expand(shape), bias_v.to(q.dtype).expand(shape)
        else:
            k, v = linear(memory, weight_k, bias_k), linear(memory, weight_v, bias_v)
        attended = scaled_dot_product_attention(
            self._split_heads(q),
            self._split_heads(k),
            self._split_heads(v),
            dropout_p=self.dropout if self.training else 0.0,
        )  # (T, B, heads, tokens, embed / heads)
        return self.out_proj(attended.transpose(-3, -2).flatten(-2))


def channel_tokens(maps: Tensor) -> Tensor:
    """P: adaptive max pool, one token a channel: (N, C, H, W) -> (N, C, 1024)."""
    return adaptive_max_pool2d(maps, TOKEN_SIDE).flatten(2)


def token_maps(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens back to maps: (N, C, 1024) -> (N, C, H, W), bilinear."""
    maps = tokens.unflatten(2, (TOKEN_SIDE, TOKEN_SIDE))
    return interpolate(maps, size=size, mode="bilinear", align_corners=True)


class CrossSliceNode(nn.Module):
    """One layer of one slice: eq. 4.2 to 4.11 of docs/code_map.md.

    `gates_xh` (x, h) and `gates_xhqm` (x, h, q, m_h) are the release's two summed convolutions. They stay two
    parameters, which train as in the release, and run as one convolution with summed weights.
    `motion` is False for the last node, whose m_h and m_c nobody reads: it has no attention and no motion gates.
    """

    def __init__(self, channels: int = 64, attention_dropout: float = 0.1, motion: bool = True):
        super().__init__()
        self.channels = channels
        self.gates_xh = Conv2d(2 * channels, 4 * channels, kernel_size=3, padding=1)
        self.gates_xhqm = Conv2d(4 * channels, 4 * channels, kernel_size=3, padding=1)
        self.motion = motion
        if motion:
            self.motion_gates = Conv2d(3 * channels, 4 * channels, kernel_size=3, padding=1)
            self.past_mix = nn.Conv2d(2 * channels, channels, kernel_size=1, bias=False)
            self.future_mix = nn.Conv2d(2 * channels, channels, kernel_size=1, bias=False)
            self.past_attention = ChannelAttention(dropout=attention_dropout)
            self.future_attention = ChannelAttention(dropout=attention_dropout)

    def forward(
        self, num_frames: int, x: Tensor, q: Tensor | None, m_h: Tensor | None, m_c: Tensor | None
    ) -> NodeOutput:
        """Run the node over clips of T frames; every sequence is (T * B, C, H, W), all clips' first frames first.

        q None: q is x (the first node). m_h, m_c None: zeros (the first slice).
        """
        gates, weight_h = self._gate_inputs(x, q, m_h)
        hidden, cells = self._recurrence(gates.chunk(num_frames), weight_h)
        hidden_sequence = torch.cat(hidden)
        if not self.motion:
            return NodeOutput(hidden_sequence, cells[-1], None, None)
        i, f, g, o = self._motion_gates(num_frames, x if q is None else q, m_h, forget=m_c is not None)
        motion_cell = i.sigmoid() * g.tanh() + torch.cat(cells)  # m_c': eq. 4.10
        if m_c is not None:
            motion_cell = motion_cell + f.sigmoid() * m_c
        motion_hidden = o.sigmoid() * motion_cell.tanh() + hidden_sequence  # m_h': eq. 4.11
        return NodeOutput(hidden_sequence, cells[-1], motion_hidden, motion_cell)

    def _gate_inputs(self, x: Tensor, q: Tensor | None, m_h: Tensor | None) -> tuple[Tensor, Tensor]:
        """Eq. 4.2 without the part of h, for all frames: (T * B, 4C, H, W); and the weight of the part of h."""
        weight_x, weight_h = self.gates_xh.weight.chunk(2, dim=1)
        weight_x2, weight_h2, weight_q, weight_m = self.gates_xhqm.weight.chunk(4, dim=1)
        inputs, weights = [x], [weight_x + weight_x2]
        if q is None:
            weights[0] = weights[0] + weight_q
        else:
            inputs.append(q)
            weights.append(weight_q)
        if m_h is not None:
            inputs.append(m_h)
            weights.append(weight_m)
        bias = self.gates_xh.bias + self.gates_xhqm.bias
        stacked = torch.cat(inputs, dim=1) if len(inputs) > 1 else x  # (T * B, channels that are not zero, H, W)
        return conv2d(stacked, torch.cat(weights, dim=1), bias, padding=1), weight_h + weight_h2

    @staticmethod
    def _recurrence(gate_inputs: Sequence[Tensor], weight_h: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """h and c along time: T x (B, 4C, H, W) -> two T x (B, C, H, W). Before the first frame h = c = 0."""
        hidden: list[Tensor] = []
        cells: list[Tensor] = []
        for gates in gate_inputs:
            if hidden:
                gates = gates + conv2d(hidden[-1], weight_h, padding=1)  # the rest of eq. 4.2
            i, f, o, g = gates.chunk(4, dim=1)
            # At first too: without a gradient of f, autograd would write that of the gates anew in another layout.
            before = cells[-1] if cells else torch.zeros_like(f)
            cell = i.sigmoid() * g.tanh() + f.sigmoid() * before  # c': eq. 4.3
            hidden.append(o.sigmoid() * cell.tanh())  # h': eq. 4.4
            cells.append(cell)
        return hidden, cells

    def _motion_gates(
        self, num_frames: int, q: Tensor, m_h: Tensor | None, forget: bool
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """motion = conv_m([q, a1, a2]) for all frames: i, f, g, o, each (T * B, C, H, W), not the recurrence's order.

        Without `forget`, f is None: it would be multiplied by an m_c of zero.
        """
        size = (q.shape[-2], q.shape[-1])
        first, *_, last = q.chunk(num_frames)
        memory = None if m_h is None else channel_tokens(m_h).unflatten(0, (num_frames, -1))
        past = self.past_attention(channel_tokens(first), memory, num_frames)  # eq. 4.5
        future = self.future_attention(channel_tokens(last), past, num_frames)  # eq. 4.6
        a1 = self._mix(self.past_mix, token_maps(past.flatten(0, 1), size), m_h)  # eq. 4.7
        a2 = self._mix(self.future_mix, token_maps(future.flatten(0, 1), size), m_h)  # eq. 4.8
        conv, inputs = self.motion_gates, torch.cat([q, a1, a2], dim=1)
        if forget:
            return conv(inputs).chunk(4, dim=1)  # eq. 4.9
        weight, bias = (torch.cat([p[: self.channels], p[2 * self.channels :]]) for p in (conv.weight, conv.bias))
        i, g, o = conv2d(inputs, weight, bias, padding=1).chunk(3, dim=1)
        return i, None, g, o

    def _mix(self, conv: nn.Conv2d, attended: Tensor, m_h: Tensor | None) -> Tensor:
        """conv([sigmoid(attended) + m_h, m_h]), (T * B, C, H, W); with m_h = 0 half of the input vanishes."""
        gate = attended.sigmoid()
        if m_h is None:
            return conv2d(gate, conv.weight[:, : self.channels])
        return conv(torch.cat([gate + m_h, m_h], dim=1))


class CrossSliceConvLSTM(nn.Module):
    """S slices of L layers of nodes: (T * B, 64, H, W) -> the hidden sequence of the last node, the same shape.

    Eq. 4.12: every node after the first reads the h sequence (as x) and the m_h sequence (as q) of the node before it,
    and m_h, m_c of the same layer of the previous slice.
    """

    def __init__(self, num_slices: int = 2, num_layers: int = 2, channels: int = 64, attention_dropout: float = 0.1):
        super().__init__()
        if num_slices < 1 or num_layers < 1:
            raise ValueError(f"num_slices and num_layers must be 1 or more, not {num_slices} and {num_layers}")
        self.num_slices = num_slices
        self.num_layers = num_layers
        last = num_slices * num_layers - 1
        self.nodes = nn.ModuleList(
            CrossSliceNode(channels, attention_dropout, motion=index < last) for index in range(last + 1)
        )

    def forward(self, x: Tensor, num_frames: int, recompute: bool = False) -> tuple[Tensor, Tensor]:
        """Return the last node's h sequence (T * B, C, H, W) and its last cell state (B, C, H, W).

        With `recompute` a node's inner results are not kept for the backward pass, but computed again.
        """
        q: Tensor | None = None
        previous_slice: list[NodeOutput | None] = [None] * self.num_layers
        for index, node in enumerate(self.nodes):
            layer = index % self.num_layers
            below = previous_slice[layer]
            m_h, m_c = (None, None) if below is None else (below.motion_hidden, below.motion_cell)
            run = partial(checkpointed, node) if recompute else node
            output = run(num_frames, x, q, m_h, m_c)
            previous_slice[layer] = output
            x, q = output.hidden, output.motion_hidden
        return x, output.cell_last
