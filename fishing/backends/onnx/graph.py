"""One ONNX graph for a net: the forward pass, and eq. 10 down its head.

One call of the graph returns all paired blobs. ONNX Runtime and OpenVINO run it here,
and `export` writes it to a file for use anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fishing.backends.onnx.backward import backward
from fishing.backends.onnx.builder import Builder, Graph, Value, refusal
from fishing.backends.onnx.layers import convert
from fishing.nets import (
    BLOBS,
    Head,
    LayerWeights,
    NetSpec,
    ancestors,
    check_input,
    forward_blob,
    head_names,
    prepare_head,
    read_net,
    read_weights,
    weights_path,
)

#: The graph's inputs: images, and the temperature of eq. 10.
DATA, TAU = "data", "tau"


def gradient_graph(spec: NetSpec, *, native_lrn: bool = False) -> Graph:
    """Make the graph of a net whose outputs are `fishing.nets.BLOBS`.

    Parameters
    ----------
    spec : NetSpec
    native_lrn : bool
        Use ONNX's operator for LRN, which is fast in OpenVINO and slow in ONNX Runtime.
        By default pooling takes its place where that is possible.

    Returns
    -------
    Graph
        Its inputs are ``data``, float32 of shape (n, 3, size, size), and ``tau``, a
        positive float32 without axes. Each output is float32 of shape (n, d).

    Raises
    ------
    NetError
        If files are missing or malformed, if a layer cannot be converted, or if the
        net has no head that fits.
    """
    caffemodel = weights_path(spec)
    net = read_net(spec.prototxt)
    check_input(net.layer, spec.input_size)
    head = prepare_head(net.layer, spec.blobs)
    outputs = {forward_blob(name): spec.blobs[name] for name in head_names()}
    return build_graph(
        net.layer,
        read_weights(caffemodel),
        caffemodel,
        outputs=outputs,
        head=head,
        gradients=[name for name in BLOBS if name not in outputs],
        native_lrn=native_lrn,
    )


def build_graph(
    layers: Sequence[Any],
    weights: LayerWeights,
    caffemodel: Path,
    *,
    outputs: Mapping[str, str],
    head: Head | None = None,
    gradients: Sequence[str] = (),
    native_lrn: bool = False,
) -> Graph:
    """Make a graph of any blobs of any net, with a head of any depth or none.

    Parameters
    ----------
    layers : sequence of LayerParameter
        Each layer above the head's input writes a blob of its own; see
        `separate_in_place`.
    weights : dict of str to list of ndarray
        What `read_weights` returns.
    caffemodel : Path
        Where the weights are from, for messages.
    outputs : mapping of str to str
        Outputs of the forward pass, and the net's name of the blob that each is.
    head : Head, optional
        Without it, the graph has no backward pass.
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
        If a layer cannot be converted.
    """
    build = Builder(weights, caffemodel, native_lrn=native_lrn)
    values: dict[str, Value] = {}
    used = ancestors(layers, list(outputs.values()))
    _check_names(used)
    inputs: dict[str, Sequence[int | str]] = {}
    build.reserve(DATA, TAU, *outputs, *gradients)
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
    found = {name: values[blob] for name, blob in outputs.items()}
    if head:
        inputs[TAU] = []
        slopes = backward(build, head, values, Value(TAU, ()))
        found |= dict(zip(gradients, slopes, strict=True))
    return build.finish(inputs, found)


def graph_bytes(graph: Graph) -> tuple[int, int]:
    """Bound the bytes that a graph takes: in any case, and for each image.

    In any case it takes its weights, and at most 1 GiB for the convolution library. The
    bound for an image counts all values between nodes, though they are not all kept at
    the same time.
    """
    values = sum(math.prod(shape) for shape in graph.shapes.values())
    fixed = sum(array.nbytes for array in graph.initializers.values()) + 2**30
    return fixed, 4 * values


def _check_one_input(layer: Any, inputs: Mapping[str, Any]) -> None:
    n_shapes = len(layer.input_param.shape)
    if inputs or len(layer.top) != 1 or n_shapes != 1:
        raise refusal(layer, "one input of one shape", f"{n_shapes} shapes or another")


def _check_names(layers: Sequence[Any]) -> None:
    """Refuse layers of one name, and layers that share their parameters."""
    seen: set[str] = set()
    for layer in layers:
        names = {layer.name, *(p.name for p in layer.param if p.name)}
        if layer.name and names & seen:
            raise refusal(layer, "names of its own", f"'{min(names & seen)}' once more")
        seen |= names
