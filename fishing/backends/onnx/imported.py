"""The gradient graph of a net that is an ONNX model.

The model's own nodes stay as they are. Outputs are added to them, and eq. 10 down the
head that `fishing.nets.onnx_head` finds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fishing.backends.onnx.builder import DATA, TAU, Builder, Graph, Value
from fishing.backends.onnx.derivatives import go_down, graph_name
from fishing.errors import NetError
from fishing.nets import NetSpec
from fishing.nets.blobs import LAST, backward_blob, forward_blob
from fishing.nets.onnx_files import OnnxNet, read_onnx
from fishing.nets.onnx_head import OnnxHead, channels, named_onnx_head
from fishing.nets.onnx_products import Product


def imported_graph(spec: NetSpec) -> Graph:
    """Make the gradient graph of an ONNX model; see `gradient_graph`.

    Raises
    ------
    NetError
        If the model cannot be read, or has no head that fits the names of `spec`.
    """
    net = read_onnx(spec.model)
    _check_input(net, spec.preprocess.shape)
    head, activations = named_onnx_head(net, spec.blobs)
    wanted = {*spec.blobs.values(), *(p.y for p in head.products)}
    build = _builder(net, sorted(wanted))
    outputs = dict(_forward(build, net, head, activations))
    logits = outputs[forward_blob(f"y{LAST}")]
    softmax = spec.blobs.get(f"x{LAST}")
    outputs[forward_blob(f"x{LAST}")] = (
        _flatten(build, graph_name(net, softmax), logits.shape[0])
        if softmax
        else build.node("Softmax", [logits], "softmax", logits.shape, axis=1)
    )
    outputs |= _backward(build, net, head, logits)
    inputs: dict[str, Any] = {DATA: [net.batch or "n", *spec.preprocess.shape], TAU: []}
    return _finished(build, net, inputs, outputs)


def products_graph(spec: NetSpec) -> tuple[Graph, OnnxHead]:
    """Make a graph of the inputs and the outputs of all products, without gradients.

    Its outputs are ``x0``, ``y0``, ``x1`` and so on, by the products' order in the
    head that is returned as well.
    """
    net = read_onnx(spec.model)
    _check_input(net, spec.preprocess.shape)
    head, _ = named_onnx_head(net, spec.blobs)
    build = _builder(net, [t for p in head.products for t in (p.x, p.y)])
    outputs = {}
    for i, product in enumerate(head.products):
        outputs[f"x{i}"] = _input_of(build, net, product, f"x{i}")
        y = graph_name(net, product.y)
        outputs[f"y{i}"] = _flatten(build, y, len(product.weights))
    inputs: dict[str, Any] = {DATA: [net.batch or "n", *spec.preprocess.shape]}
    return _finished(build, net, inputs, outputs), head


def _finished(
    build: Builder,
    net: OnnxNet,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Value],
) -> Graph:
    graph = build.finish(inputs, outputs)
    version = max(net.model.ir_version, 7)
    return dataclasses.replace(
        graph, opset=net.opset, ir_version=version, batch=net.batch
    )


def _check_input(net: OnnxNet, shape: tuple[int, int, int]) -> None:
    fits = all(d in (None, s) for d, s in zip(net.shape, shape, strict=True))
    if not fits:
        raise NetError(
            f"{net.path}: expected images of shape {list(net.shape)}, found "
            f"{list(shape)} as the [input] of net.toml; correct it"
        )


def _builder(net: OnnxNet, wanted: list[str]) -> Builder:
    """Take over the nodes of the model that compute these tensors."""
    nodes, used = [], set()
    for node in net.ancestors(wanted):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [graph_name(net, name) for name in node.input]
        copy.output[:] = [graph_name(net, name) for name in node.output]
        used.update(node.input)
        nodes.append(copy)
    build = Builder({}, net.path)
    constants = {
        graph_name(net, n): net.constants[n] for n in used if n in net.constants
    }
    build.reserve(DATA, TAU, *constants, *(n for node in nodes for n in node.output))
    build.adopt(nodes, constants)
    return build


def _forward(
    build: Builder, net: OnnxNet, head: OnnxHead, activations: Mapping[str, str]
) -> list[tuple[str, Value]]:
    """Flatten the inputs of the products and the logits, from the lowest up."""
    found = []
    for name, tensor in activations.items():
        width = channels(net, tensor)
        if width is None:
            raise NetError(
                f"{net.path}: expected {name} '{tensor}' to be a map of known "
                "channels, found that no weights tell them; name another tensor"
            )
        shape = build.constant([0, width, -1], f"{name}/shape")
        maps = build.node(
            "Reshape", [graph_name(net, tensor), shape], f"{name}/maps", [width, 1]
        )
        mean = build.node("GlobalAveragePool", [maps], f"{name}/mean", [width, 1])
        found.append((forward_blob(name), mean))
    lowest = LAST - len(head.products)
    for k, product in enumerate(reversed(head.products), lowest):
        x = _input_of(build, net, product, f"x{k}")
        found.append((forward_blob(f"x{k}"), x))
    logits = head.products[0]
    y = _flatten(build, graph_name(net, logits.y), len(logits.weights))
    return [*found, (forward_blob(f"y{LAST}"), y)]


def _input_of(build: Builder, net: OnnxNet, product: Product, name: str) -> Value:
    """Take the input of a product as (n, d), the mean over positions if it has some."""
    x, width = graph_name(net, product.x), product.weights.shape[1]
    if product.is_pooled:
        x = build.node("GlobalAveragePool", [x], f"{name}/mean", [width, 1, 1]).name
    return _flatten(build, x, width)


def _flatten(build: Builder, name: str, width: int) -> Value:
    return build.node("Flatten", [name], f"{name}/flat", [width], axis=1)


def _backward(
    build: Builder, net: OnnxNet, head: OnnxHead, logits: Value
) -> dict[str, Value]:
    """Add eq. 10, and return the gradients from the lowest up."""
    tau = Value(TAU, ())
    scaled = build.node("Div", [logits, tau], "y/tau", logits.shape)
    tempered = build.node("Softmax", [scaled], "softmax(y/tau)", logits.shape, axis=1)
    uniform = build.constant(1 / logits.shape[0], "1/P")
    error = build.node("Sub", [tempered, uniform], "softmax(y/tau)-1/P", logits.shape)
    gradient = build.node("Div", [error, tau], "dy8", logits.shape)
    found = {backward_blob(LAST): gradient}
    for i, nodes in enumerate(head.between):
        upper, lower = head.products[i], head.products[i + 1]
        k = LAST - 1 - i
        down = build.node(
            "Gemm",
            [gradient, _weights(build, net, upper)],
            f"dx{k}",
            upper.weights.shape[1:],
            transB=int(upper.initializer is not None and not upper.is_transposed),
        )
        gradient = go_down(build, net, nodes, upper.x, lower.y, down)
        found[backward_blob(k)] = gradient
    return dict(reversed(found.items()))


def _weights(build: Builder, net: OnnxNet, product: Product) -> str:
    """Name the initializer of a product's weights; the model may have one."""
    if product.initializer is not None:
        return graph_name(net, product.initializer)
    array: NDArray[np.float32] = np.ascontiguousarray(product.weights)
    return build.constant(array, f"{product.y}/weights")
