"""ONNX graphs of a network: a clip or one frame and its cache in; raw output, boxes or detections out.

Written by torch.onnx.export's dynamo exporter; the suppression is a graph of its own, put behind the network's.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from nets import SSTNet, StreamingForm, inference_form
from utils.checkpoint import LoadedNetwork
from utils.cli import UserError
from utils.clips import IMAGENET_MEAN, IMAGENET_STD
from utils.detections import FARTHEST, cell_boxes
from utils.onnx_network import Description, Form, Suppression, extra

if TYPE_CHECKING:
    import onnx

OPSET = 18

# `candidates` (batch, cells, 6) -> `detections` (batch, K, 6): utils.detections.postprocess in ONNX's own words.
# What must not be a candidate gets a score of 0, which NonMaxSuppression drops as not above its threshold 0. It sees
# the boxes as y, x pairs, which changes no IoU. A cell takes part in its own class alone, as in batched_nms. A box is
# one where none of its sides is too far, or no number. Rows that are left over are zeros.
SUPPRESSION = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
suppression (float[batch, cells, 6] candidates) => (float[batch, {count}, 6] detections)
<
  float nms_farthest = {{{farthest}}},
  float nms_least = {{{min_confidence}}}, float[1] nms_iou = {{{nms}}}, float[1] nms_none = {{0}},
  float nms_zero = {{0}}, int64[1] nms_count = {{{count}}}, int64[4] nms_sides = {{0, 1, 2, 3}},
  int64 nms_score_at = {{4}}, int64 nms_class_at = {{5}}, int64[2] nms_pair = {{0, 2}}, int64[1] nms_axis1 = {{1}},
  int64[1] nms_axis2 = {{2}}, int64[4] nms_more_scores = {{0, 0, 0, {count}}},
  int64[6] nms_more_rows = {{0, 0, 0, 0, {count}, 0}}, float[1, {classes}, 1] nms_classes = {{{class_list}}}
>
{{
  nms_boxes = Gather <axis = 2> (candidates, nms_sides)
  nms_scores = Gather <axis = 2> (candidates, nms_score_at)
  nms_class = Gather <axis = 2> (candidates, nms_class_at)
  nms_away = Abs (nms_boxes)
  nms_near = LessOrEqual (nms_away, nms_farthest)
  nms_near_sides = Cast <to = 1> (nms_near)
  nms_all_near = ReduceMin <keepdims = 0> (nms_near_sides, nms_axis2)
  nms_is_box = Greater (nms_all_near, nms_zero)
  nms_enough = GreaterOrEqual (nms_scores, nms_least)
  nms_usable = And (nms_is_box, nms_enough)
  nms_usable_scores = Where (nms_usable, nms_scores, nms_zero)
  nms_own_class = Unsqueeze (nms_class, nms_axis1)
  nms_is_class = Equal (nms_own_class, nms_classes)
  nms_as_class = Unsqueeze (nms_usable_scores, nms_axis1)
  nms_class_scores = Where (nms_is_class, nms_as_class, nms_zero)
  nms_selected = NonMaxSuppression (nms_boxes, nms_class_scores, nms_count, nms_iou, nms_none)
  nms_pairs = Gather <axis = 1> (nms_selected, nms_pair)
  nms_kept = GatherND (nms_usable_scores, nms_pairs)
  nms_nothing = Mul (nms_usable_scores, nms_zero)
  nms_kept_scores = ScatterND (nms_nothing, nms_pairs, nms_kept)
  nms_padded_scores = Pad (nms_kept_scores, nms_more_scores)
  nms_padded_rows = Pad (candidates, nms_more_rows)
  nms_best, nms_order = TopK <axis = 1> (nms_padded_scores, nms_count)
  nms_places = Unsqueeze (nms_order, nms_axis2)
  nms_rows = GatherND <batch_dims = 1> (nms_padded_rows, nms_places)
  nms_is_row = Greater (nms_best, nms_zero)
  nms_row_mask = Unsqueeze (nms_is_row, nms_axis2)
  detections = Where (nms_row_mask, nms_rows, nms_zero)
}}
"""


class ClipGraph(nn.Module):
    """The inference form, with decoded boxes if asked for."""

    def __init__(self, model: SSTNet, decode: bool):
        super().__init__()
        self.model = inference_form(model)
        self.decode = decode
        self.eval()

    def forward(self, clips: Tensor) -> Tensor:
        output = self.model(clips)
        return cell_boxes(output) if self.decode else output


class StreamGraph(nn.Module):
    """The streaming form, with decoded boxes if asked for."""

    def __init__(self, model: SSTNet, decode: bool):
        super().__init__()
        self.step = StreamingForm(model)
        self.decode = decode
        self.eval()

    def forward(
        self, frames: Tensor, first: Tensor, features: Tensor, halves: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        output, *cache = self.step(frames, first, features, halves)
        return cell_boxes(output) if self.decode else output, *cache


def build_graphs(network: LoadedNetwork, form: Form) -> list[onnx.ModelProto]:
    """The network as an ONNX model of this form, its dimensions named, its metadata in it.

    Before one with suppression comes the same without: what is suppressed cannot be compared.
    """
    onnx = extra("onnxscript", "onnx")
    bare = _translate(network.model, form)
    forms = [replace(form, suppression=None), form] if form.suppression else [form]
    graphs = [onnx.ModelProto() for _ in forms]
    for graph, part in zip(graphs, forms, strict=True):
        graph.CopyFrom(bare)
        _complete(graph, network, part)
    return graphs


def _complete(graph: onnx.ModelProto, network: LoadedNetwork, form: Form) -> None:
    """Put beside the translated network what its form asks for, names and metadata."""
    onnx = extra("onnx")
    model = network.model
    if form.suppression:
        _append_suppression(graph, form.suppression, model.num_classes)
    _name_dimensions(graph, model, form)
    description = Description(
        form, dict(model.architecture), network.class_names, network.input_size, model.stride, IMAGENET_MEAN,
        IMAGENET_STD, network.intensity, network.frame_scales, network.confidence, network.provenance,
    )  # fmt: skip
    onnx.helper.set_model_props(graph, description.to_metadata())
    onnx.checker.check_model(graph, full_check=True)


def _translate(model: SSTNet, form: Form) -> onnx.ModelProto:
    """Run torch.onnx's exporter on an example whose dimensions are all different."""
    batch, rows, columns = Dim("batch"), Dim("rows"), Dim("columns")
    size, count = (64, 96), 2
    if form.streaming:
        network = StreamGraph(model, form.decode)
        first = torch.arange(count) == 0
        example = (torch.zeros(count, 3, *size), first, *network.step.empty_cache(count, size))
        frames = {0: batch, 2: 32 * rows, 3: 32 * columns}
        cache = {0: batch, 3: 4 * rows, 4: 4 * columns}
        dynamic = (frames, {0: batch}, cache, cache)
    else:
        network = ClipGraph(model, form.decode)
        example = (torch.zeros(count, 3, model.num_frames, *size),)
        dynamic = ({0: batch, 3: 32 * rows, 4: 32 * columns},)
    outputs = Form(form.streaming, form.decode).outputs  # the suppression comes behind
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own insides
        try:
            program = torch.onnx.export(
                network,
                example,
                dynamo=True,
                dynamic_shapes=dynamic,
                input_names=form.inputs,
                output_names=outputs,
                opset_version=OPSET,
                verbose=False,
            )
        except Exception as error:  # its passes raise errors of their own, without a common base
            versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxscript", "onnx_ir", "onnx"))
            raise UserError(
                f"the export failed with {versions} ({error}); pip install --upgrade -r requirements-export.txt"
            ) from error
    return program.model_proto


def suppression_graph(suppression: Suppression, num_classes: int, ir_version: int = 10) -> onnx.ModelProto:
    """`candidates` -> `detections` as a model of its own."""
    onnx = extra("onnx.parser", "onnx")
    # The operator compares in float32, torchvision in float64: rounded down, both drop the same boxes.
    threshold = np.float32(suppression.nms)
    if float(threshold) > suppression.nms:
        threshold = np.nextafter(threshold, np.float32(0))
    text = SUPPRESSION.format(
        ir_version=ir_version,
        opset=OPSET,
        nms=f"{threshold:.20f}",
        farthest=f"{FARTHEST:.1f}",
        min_confidence=f"{suppression.min_confidence:.20f}",
        count=suppression.max_detections,
        classes=num_classes,
        class_list=", ".join(map(str, range(num_classes))),
    )
    return onnx.parser.parse_model(text)


def _append_suppression(graph: onnx.ModelProto, suppression: Suppression, num_classes: int) -> None:
    """Put the suppression behind `candidates`, which is then no output any more."""
    behind = suppression_graph(suppression, num_classes, graph.ir_version).graph
    graph.graph.node.extend(behind.node)
    graph.graph.initializer.extend(behind.initializer)
    rest = [output for output in graph.graph.output if output.name != "candidates"]
    del graph.graph.output[:]
    graph.graph.output.extend([*behind.output, *rest])


def _name_dimensions(graph: onnx.ModelProto, model: SSTNet, form: Form) -> None:
    """Call the dimensions of inputs and outputs by names that mean something."""
    references, channels, classes = model.num_frames - 1, model.extractor.out_channels, model.num_classes
    cells = (f"height/{model.stride}", f"width/{model.stride}")
    shapes = {
        "clips": ("batch", 3, model.num_frames, "height", "width"),
        "frames": ("batch", 3, "height", "width"),
        "first": ("batch",),
        "output": ("batch", 5 + classes, *cells),
        "candidates": ("batch", "cells", 6),
        "detections": ("batch", form.suppression.max_detections if form.suppression else 0, 6),
    }
    # Of a neck of the user's own, a half's channels are known from the graph alone.
    half = [value.type.tensor_type.shape.dim[2].dim_value for value in graph.graph.input if value.name == "halves"]
    for prefix in ("", "next_"):
        shapes[f"{prefix}features"] = ("batch", references, channels, *cells)
        shapes[f"{prefix}halves"] = ("batch", references, *half, *cells)
    del graph.graph.value_info[:]  # calls them by other names
    for value in [*graph.graph.input, *graph.graph.output]:
        shape = value.type.tensor_type.shape
        is_input = value.name in form.inputs
        for place, size in enumerate(shapes[value.name]):
            if is_input and isinstance(size, str) and shape.dim[place].HasField("dim_value"):
                raise UserError(
                    f"torch {torch.__version__} exported {value.name} with a fixed {size}, not a dynamic one; "
                    "another version of torch or onnxscript may do better"
                )
            shape.dim[place].Clear()
            setattr(shape.dim[place], "dim_param" if isinstance(size, str) else "dim_value", size)
