"""Build an ONNX graph node by node, with the numbers that the nodes need.

All shapes leave out the batch axis, whose length stays open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fishing.nets import LayerWeights, fit_weights, parameter_shapes

# The lowest opset in which Softmax is along one axis.
_OPSET, _IR_VERSION = 13, 7

#: A graph's inputs: images, and the temperature of eq. 10.
DATA, TAU = "data", "tau"


class Value(NamedTuple):
    """A tensor of the graph, with its shape for one image."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """A finished graph, whose weights are numpy arrays."""

    nodes: list[onnx.NodeProto]
    initializers: dict[str, NDArray[Any]]
    inputs: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]
    widths: dict[str, int]  # values per image of each output
    shapes: dict[str, tuple[int, ...]]  # of each node's output, for one image
    opset: int = _OPSET
    ir_version: int = _IR_VERSION
    batch: int | None = None  # images at a time, where the model takes so many

    def model(self, tensors: Sequence[TensorProto]) -> onnx.ModelProto:
        """Make a model of the graph, with `tensors` as its initializers."""
        graph = helper.make_graph(
            self.nodes, "gradients", self.inputs, self.outputs, list(tensors)
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=self.ir_version,
            producer_name="fishing",
        )


class Builder:
    """Collects nodes and initializers under names that do not clash.

    `weights` is what `read_weights` returns, and `caffemodel` the file that messages
    name. `weight_names` holds the names of the initializers of each layer that has
    weights and possibly a bias.
    """

    def __init__(
        self, weights: LayerWeights, caffemodel: Path, *, native_lrn: bool = False
    ) -> None:
        self.native_lrn = native_lrn
        self._weights = weights
        self._caffemodel = caffemodel
        self.weight_names: dict[str, list[str]] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._initializers: dict[str, NDArray[Any]] = {}
        self._names: set[str] = set()

    def node(
        self,
        operator: str,
        inputs: Sequence[Value | str],
        name: str,
        shape: Sequence[int],
        **attributes: Any,
    ) -> Value:
        """Add a node of an ONNX operator with these attributes, and return its output.

        An input that is a str is the name of an initializer. The output has this name,
        with a suffix if the name is taken, and this shape for one image.
        """
        output = Value(self._unique(name), tuple(shape))
        self._shapes[output.name] = output.shape
        names = [i.name if isinstance(i, Value) else i for i in inputs]
        self._nodes.append(
            helper.make_node(
                operator, names, [output.name], name=output.name, **attributes
            )
        )
        return output

    def reserve(self, *names: str) -> None:
        """Reserve names for inputs and outputs."""
        self._names.update(names)

    def constant(self, value: Any, name: str) -> str:
        """Add an initializer of float32 or int64, and return its name."""
        array = np.asarray(value)
        name = self._unique(name)
        dtype = np.int64 if array.dtype.kind == "i" else np.float32
        self._initializers[name] = array.astype(dtype)
        return name

    def adopt(
        self, nodes: Sequence[onnx.NodeProto], initializers: Mapping[str, NDArray[Any]]
    ) -> None:
        """Add nodes of another graph under reserved names, with what they read."""
        self._nodes.extend(nodes)
        self._initializers.update(initializers)

    def parameters(self, layer: Any, x: Value) -> list[NDArray[np.float32]]:
        """Find a layer's parameters, and give them the shapes that it expects."""
        shapes = parameter_shapes(layer, [x.shape])
        fitted = fit_weights(self._caffemodel, self._weights, {layer.name: shapes})
        return fitted[layer.name]

    def weights(self, layer: Any, x: Value) -> list[str]:
        """Make initializers of a layer's parameters, and return their names."""
        found = self.parameters(layer, x)
        kinds = ("weights", "bias")[: len(found)]
        names = [self._unique(f"{layer.name}/{kind}") for kind in kinds]
        self._initializers.update(zip(names, found, strict=True))
        self.weight_names[layer.name] = names
        return names

    def reshape(self, value: Value, shape: Sequence[int], name: str) -> Value:
        """Add a node that gives the values of each image another shape."""
        if tuple(shape) == value.shape:
            return value
        target = self.constant([0, *shape], f"{name}/shape")
        return self.node("Reshape", [value, target], name, shape)

    def finish(
        self, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, Value]
    ) -> Graph:
        """Finish the graph, whose outputs are these values as (n, d) tensors."""
        renamed: dict[str, str] = {}
        widths = {name: math.prod(v.shape) for name, v in outputs.items()}
        for name, value in outputs.items():
            flat = self.reshape(value, [widths[name]], f"{name}/flat")
            if flat.name in renamed or flat.name in inputs:
                flat = self.node("Identity", [flat], f"{name}/copy", flat.shape)
            renamed[flat.name] = name
        for node in self._nodes:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
            node.name = node.output[0]
        return Graph(
            self._nodes,
            self._initializers,
            [_tensor(name, shape) for name, shape in inputs.items()],
            [_tensor(name, ["n", width]) for name, width in widths.items()],
            widths,
            {renamed.get(name, name): shape for name, shape in self._shapes.items()},
        )

    def _unique(self, name: str) -> str:
        found, i = name, 2
        while found in self._names:
            found, i = f"{name}#{i}", i + 1
        self._names.add(found)
        return found


def _tensor(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
