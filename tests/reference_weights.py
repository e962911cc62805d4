"""The weights and inputs that the reference records were made with (tests/reference/README.md has the rule)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

REFERENCE = Path(__file__).parent / "reference"


def made_tensor(name: str, shape: list[int]) -> Tensor:
    """The tensor that the rule gives to a released name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith(".weight")):
        value = 1 + 0.25 * rng.uniform(-1, 1, shape)
    elif name.startswith("neck.weight."):
        value = 0.25 + 0.05 * rng.standard_normal(shape)
    elif len(shape) == 1:
        value = 0.1 * rng.standard_normal(shape)
    else:
        value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(value)).float()


def manifest_weights(release: str) -> dict[str, Tensor]:
    """All tensors of a release ("released" or "early") under its own names."""
    manifest = json.loads((REFERENCE / f"manifest_{release}.json").read_text())
    return {name: made_tensor(name, shape) for name, shape in manifest}


def stack_weights(num_slices: int, num_layers: int) -> dict[str, Tensor]:
    """The sliced network alone, for any S x L: its records were made with names inside the stack."""
    manifest = json.loads((REFERENCE / "manifest_released.json").read_text())
    prefix = "SSTNet.cell_list.00."
    node = [(name.removeprefix(prefix), shape) for name, shape in manifest if name.startswith(prefix)]
    return {
        f"SSTNet.cell_list.{s}{layer}.{name}": made_tensor(f"cell_list.{s}{layer}.{name}", shape)
        for s in range(num_slices)
        for layer in range(num_layers)
        for name, shape in node
    }


def made_input(seed: int, shape: tuple[int, ...]) -> Tensor:
    """The README's img(seed, shape)."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def record(name: str) -> dict[str, np.ndarray]:
    """A file of records."""
    with np.load(REFERENCE / f"{name}.npz") as file:
        return dict(file)
