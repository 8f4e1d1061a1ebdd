"""One ONNX graph for a net: the forward pass, and eq. 10 down its head.

In go a prototxt and a caffemodel, out comes a graph whose one call gives all paired
blobs, for ONNX Runtime here or as a file for use anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fishing.backends.onnx.backward import backward
from fishing.backends.onnx.builder import Builder, Graph, Value, refusal
from fishing.backends.onnx.layers import convert
from fishing.errors import NetError
from fishing.nets import NetSpec, read_net, read_weights, weights_path
from fishing.nets.caffe_files import LayerWeights
from fishing.nets.caffe_schema import Message
from fishing.nets.head import (
    ancestors,
    check_softmax,
    find_head,
    separate_in_place,
)

#: The graph's inputs: images, and the temperature of eq. 10.
DATA, TAU = "data", "tau"

_KEYS = ("x5", "x6", "x7", "y8")
_FORWARD = {
    "forward/x5": "x5",
    "forward/x6": "x6",
    "forward/x7": "x7",
    "forward/y8": "y8",
    "forward/x8": "x8",
}
_BACKWARD = ("backward/y6", "backward/y7", "backward/y8")


def gradient_graph(spec: NetSpec, *, native_lrn: bool = False) -> Graph:
    """Make the graph of a net whose outputs are `fishing.backends.BLOBS`.

    Parameters
    ----------
    spec : NetSpec
    native_lrn : bool
        Leave LRN to ONNX's operator, which OpenVINO is fast at and ONNX Runtime slow;
        else pooling takes its place.

    Returns
    -------
    Graph
        Of the inputs ``data``, float32 of shape (n, 3, size, size), and ``tau``, a
        positive float32 without axes. Each output is float32 of shape (n, d).

    Raises
    ------
    NetError
        If files are missing or malformed, if a layer cannot be converted, or if the
        net has no head of three inner products that fits.
    """
    caffemodel = weights_path(spec)
    net = read_net(spec.prototxt)
    _check_input(net, spec.input_size)
    _check_numbers(net.layer)
    separate_in_place(net.layer, spec.blobs["x5"])
    check_softmax(net.layer, spec.blobs)
    return build_graph(
        net.layer,
        read_weights(caffemodel),
        caffemodel,
        blobs=spec.blobs,
        forward=_FORWARD,
        keys=_KEYS,
        gradients=_BACKWARD,
        native_lrn=native_lrn,
    )


def _check_numbers(layers: Sequence[Message]) -> None:
    """Refuse NaN and infinity among the parameters of layers."""
    for layer in layers:
        for name in layer.not_finite():
            raise NetError(
                f"expected finite numbers, found another as {name} of '{layer.name}'"
            )


def build_graph(
    layers: Sequence[Message],
    weights: LayerWeights,
    caffemodel: Path,
    *,
    blobs: Mapping[str, str],
    forward: Mapping[str, str],
    keys: Sequence[str] = (),
    gradients: Sequence[str] = (),
    native_lrn: bool = False,
) -> Graph:
    """Make a graph of any outputs of any net, with a head of any depth or none.

    Parameters
    ----------
    layers : sequence of Message
        Those above the head's input write a blob of their own: see `separate_in_place`.
    weights : dict of str to list of ndarray
        As `read_weights` gives them.
    caffemodel : Path
        Where the weights are from, for messages.
    blobs : mapping of str to str
        Names of blobs in the net, by the keys that the next three speak of.
    forward : mapping of str to str
        Outputs of the forward pass, and the key of the blob that each is.
    keys : sequence of str
        Keys of the inputs of the head's inner products, from the lowest up, and of the
        logits; none for a graph without backward pass.
    gradients : sequence of str
        Outputs of the backward pass: dE/dy of the inner products, from the lowest up.
    native_lrn : bool
        See `gradient_graph`.

    Returns
    -------
    Graph

    Raises
    ------
    NetError
        If a layer cannot be converted, or the head does not fit.
    """
    head = find_head(layers, blobs, keys) if keys else None
    build = Builder(weights, caffemodel, native_lrn=native_lrn)
    tau = Value(TAU, ())
    values: dict[str, Value] = {}
    used = ancestors(layers, [blobs[key] for key in forward.values()])
    _check_names(used)
    inputs: dict[str, Sequence[int | str]] = {}
    build.reserve(DATA, TAU, *forward, *gradients)
    for layer in used:
        if layer.type == "Input":
            _check_one_input(layer, inputs)
            shape = layer.input_param.shape[0].dim[1:]
            values[layer.top[0]] = Value(DATA, tuple(shape))
            inputs[DATA] = ["n", *shape]
            continue
        missing = [bottom for bottom in layer.bottom if bottom not in values]
        if missing:
            raise refusal(layer, f"a layer before it to write '{missing[0]}'", "none")
        bottoms = [values[bottom] for bottom in layer.bottom]
        values[layer.top[0]] = convert(build, layer, bottoms)
    outputs = {name: values[blobs[key]] for name, key in forward.items()}
    if head:
        inputs[TAU] = []
        found = backward(build, head, values, tau)
        outputs |= dict(zip(gradients, found, strict=True))
    return build.finish(inputs, outputs)


def graph_bytes(graph: Graph) -> tuple[int, int]:
    """Bound the bytes that a graph takes: of its own, and for each image.

    The weights and 1 GiB for what a library of convolutions works with; and all values
    between the nodes, though not all are there at the same time.
    """
    values = sum(math.prod(shape) for shape in graph.shapes.values())
    fixed = sum(array.nbytes for array in graph.initializers.values()) + 2**30
    return fixed, 4 * values


def _check_input(net: Message, size: int) -> None:
    """Hold the net to have one input, of images of three channels."""
    layers = [layer for layer in net.layer if layer.type == "Input"]
    tops = [top for layer in layers for top in layer.top]
    shapes = [list(s.dim) for layer in layers for s in layer.input_param.shape]
    if len(tops) != 1 or len(shapes) != 1 or shapes[0][1:] != [3, size, size]:
        raise NetError(
            f"expected one input of shape (N, 3, {size}, {size}), "
            f"found {dict(zip(tops, shapes, strict=False))}"
        )


def _check_one_input(layer: Message, inputs: Mapping[str, Any]) -> None:
    n_shapes = len(layer.input_param.shape)
    if inputs or len(layer.top) != 1 or n_shapes != 1:
        raise refusal(layer, "one input of one shape", f"{n_shapes} shapes or another")


def _check_names(layers: Sequence[Message]) -> None:
    """Refuse layers of one name, and layers that share their parameters."""
    seen: set[str] = set()
    for layer in layers:
        names = {layer.name, *(p.name for p in layer.param if p.name)}
        if layer.name and names & seen:
            raise refusal(layer, "names of its own", f"'{min(names & seen)}' once more")
        seen |= names
