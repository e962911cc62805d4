"""Other people's weight files: our names for their tensors, and the network that their shapes tell of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

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
OUR_NODE = re.compile(r"^motion_branch\.stack\.nodes\.(\d+)\.")
PAIR_WEIGHT = re.compile(r"^neck\.weight\.(\d+)$")


def rename_weights(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Our names for a file's tensors, and the names of those to ignore."""
    weights = {_bare(name): tensor for name, tensor in weights.items()}
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


def _bare(name: str) -> str:
    """A name without DataParallel's prefix."""
    return name.removeprefix("module.")


def _our_name(name: str, num_layers: int) -> str:
    if node := NODE_NAME.match(name):
        index = int(node[1]) * num_layers + int(node[2])
        for theirs, ours in NODE_PARTS.items():
            if node[3].startswith(theirs + "."):
                return f"motion_branch.stack.nodes.{index}.{ours}{node[3][len(theirs):]}"
    for pattern, ours in PREFIXES:
        name = re.sub(pattern, ours, name)
    return name


def infer_architecture(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `SSTNet` from the names and shapes of a state dict; KeyError where they are of another network.

    Of the motion branch the release's names say slices and layers; ours count its nodes, which one slice then has.
    """
    ours = rename_weights(weights)[0]
    stem = ours["extractor.backbone.stem.conv.conv.weight"].shape[0]
    channels, references = ours["neck.conv_cur.0.conv.weight"].shape[1], ours["neck.pair_weights"].shape[0]
    gate = ours.get("neck.conv_ref.0.conv.weight")
    if gate is not None and gate.shape[1] != channels * references:
        raise KeyError("neck.conv_ref")
    bottlenecks = len({name.split(".")[5] for name in ours if name.startswith("extractor.backbone.dark3.1.m.")})
    nodes = {match.groups()[:2] for match in map(NODE_NAME.match, map(_bare, weights)) if match}  # (slice, layer)
    nodes = nodes or {("0", match[1]) for match in map(OUR_NODE.match, ours) if match}
    slices = len({node[0] for node in nodes})
    return {
        "num_classes": ours["head.cls_preds.0.weight"].shape[0],
        "num_frames": references + 1,
        "num_slices": slices,
        "num_layers": len(nodes) // max(slices, 1),
        "depth": round(bottlenecks / 9, 2),
        "width": stem / 64,
        "gate": gate is not None,
    }
