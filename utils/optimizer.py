"""How training starts and which parameters get weight decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.937
WEIGHT_DECAY = 5e-4


def initialise(model: nn.Module, kind: str) -> None:
    """Set the weights to start from.

    "release": convolution weights N(0, 0.02), BatchNorm weights N(1, 0.02) and biases 0; convolutions' biases stay as
    PyTorch makes them. It starts slowly: the signal shrinks from layer to layer. "kaiming": variance-preserving
    convolutions, and a head that begins empty.
    """
    for module in model.modules():
        if kind == "release" and isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif kind == "release" and isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
        elif kind == "kaiming" and isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if kind == "kaiming":
        model.head.begin_empty()


def parameter_groups(model: nn.Module) -> list[dict]:
    """All parameters in two groups: matrices and kernels with weight decay; biases, scales and scalars without."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]


def build_optimizer(model: nn.Module, kind: str, lr: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, Adam or AdamW, over `parameter_groups`."""
    groups = parameter_groups(model)
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM, nesterov=True, fused=True)
    adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    return adam(groups, lr=lr, betas=(MOMENTUM, 0.999), fused=True)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict, its moments laid out in memory as the parameters are.

    Fused kernels go through parameter and moments in the order of memory; a run that was saved with the other
    `--channels-last` has the moments of a kernel in another order.
    """
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
