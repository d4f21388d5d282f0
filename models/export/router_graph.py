"""The router inside a scorer graph: found by walking back from the gate's output, read as torch layers, and put back.

Routers are stacks of linear layers and ReLUs under a log-softmax, as `training.micro` makes them; a graph of another make is
refused. Weights are the graph's initializers, so that putting them back changes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from attune.models.export.onnx import ExportFailed


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """One linear layer in the graph: names of its initializers, their values as torch has them, and whether the graph's is turned."""

    weight_name: str
    bias_name: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    turned: bool


@dataclass(frozen=True, slots=True)
class RouterLayers:
    """A router: the tensor that it reads, and its layers in order; None is a ReLU."""

    source: str
    layers: tuple[LinearLayer | None, ...]

    @property
    def width(self) -> int:
        """How wide the vectors are that the router reads."""
        first = self.layers[0]
        assert first is not None
        return int(first.weight.shape[1])

    def module(self) -> nn.Sequential:
        """Returns the router in torch, with the graph's weights."""
        parts: list[nn.Module] = []
        for layer in self.layers:
            if layer is None:
                parts.append(nn.ReLU())
                continue
            linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[0])
            linear.load_state_dict({"weight": torch.from_numpy(layer.weight.copy()), "bias": torch.from_numpy(layer.bias.copy())})
            parts.append(linear)
        return nn.Sequential(*parts, nn.LogSoftmax(dim=-1)).eval().requires_grad_(requires_grad=False)


def find_router(model: onnx.ModelProto, output: str) -> RouterLayers:
    """Returns the router whose log-probabilities are `output`.

    Raises:
        ExportFailed: there is no such output, or it is not a stack of linear layers and ReLUs under a log-softmax.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    if output not in makers or output not in {value.name for value in model.graph.output}:
        raise ExportFailed(f"the graph has no output {output!r}")
    node = makers[output]
    if node.op_type != "LogSoftmax":
        raise ExportFailed(f"{output} is made by {node.op_type}; a router ends in LogSoftmax")
    layers: list[LinearLayer | None] = []
    below: list[str] = []
    tensor = node.input[0]
    while (node := makers.get(tensor)) is not None:
        if node.op_type == "Relu":
            layers.append(None)
            below.append(tensor)
        elif node.op_type == "Gemm" and {node.input[1], node.input[2]} <= constants.keys():
            layers.append(_linear(node, constants))
        else:
            break
        tensor = node.input[0]
    # A ReLU below the first linear layer belongs to what makes the vectors: the router begins above it.
    while layers and layers[-1] is None:
        tensor = below.pop()
        layers.pop()
    if not layers:
        raise ExportFailed(f"{output} has no linear layer of its own under its log-softmax")
    return RouterLayers(tensor, tuple(reversed(layers)))


def put_router(model: onnx.ModelProto, layers: RouterLayers, router: nn.Sequential) -> None:
    """Writes the weights of `router` into the graph in place.

    Raises:
        ExportFailed: the weights are shared with something else in the graph, which would change with them.
    """
    uses = [name for node in model.graph.node for name in node.input]
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer, part in zip(layers.layers, router, strict=False):
        if layer is None:
            continue
        assert isinstance(part, nn.Linear)
        shared = [name for name in (layer.weight_name, layer.bias_name) if uses.count(name) != 1]
        if shared:
            raise ExportFailed(f"{', '.join(shared)} of the router is used elsewhere in the graph too")
        weight = part.weight.detach().numpy()
        for name, value in ((layer.weight_name, weight.T if layer.turned else weight), (layer.bias_name, part.bias.detach().numpy())):
            constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name))


def _linear(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> LinearLayer:
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
        raise ExportFailed(f"layer {node.name or node.output[0]} is scaled or transposed; a plain linear layer was expected")
    turned = not attributes.get("transB", 0)
    weight, bias = (numpy_helper.to_array(constants[name]).astype(np.float32) for name in node.input[1:3])
    return LinearLayer(node.input[1], node.input[2], np.ascontiguousarray(weight.T if turned else weight), bias, turned)
