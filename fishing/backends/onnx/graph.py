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
    """Make the graph of a net, whose outputs are `fishing.nets.BLOBS`.

    Its inputs are ``data``, float32 of shape (n, channels, height, width), and
    ``tau``, a positive float32 without axes. Each output is float32 of shape (n, d).
    ONNX's own operator for LRN is fast in OpenVINO and slow in ONNX Runtime; unless
    `native_lrn` is set, pooling replaces it where possible.
    """
    caffemodel = weights_path(spec)
    net = read_net(spec.model)
    check_input(net.layer, spec.preprocess.shape)
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

    Each layer above the head's input writes a blob of its own; see `separate_in_place`.
    `outputs` maps the names of the forward outputs to the net's blobs. Without a head,
    there is no backward pass; with it, `gradients` names the outputs dE/dy of the inner
    products, from the lowest up. Messages name `caffemodel`, the file of the weights.
    """
    build = Builder(weights, caffemodel, native_lrn=native_lrn)
    values: dict[str, Value] = {}
    used = ancestors(layers, list(outputs.values()))
    _check_names(used)
    inputs: dict[str, Sequence[int | str]] = {}
    build.reserve(DATA, TAU, *outputs, *gradients)
    for layer in used:
        if layer.type == "Input":
            n_shapes = len(layer.input_param.shape)
            if inputs or len(layer.top) != 1 or n_shapes != 1:
                found = f"{n_shapes} shapes or another input"
                raise refusal(layer, "one input of one shape", found)
            shape = layer.input_param.shape[0].dim[1:]
            values[layer.top[0]] = Value(DATA, tuple(shape))
            inputs[DATA] = ["n", *shape]
            continue
        missing = [bottom for bottom in layer.bottom if bottom not in values]
        if missing:
            raise refusal(layer, f"a layer before it to write '{missing[0]}'", "none")
        bottoms = [values[bottom] for bottom in layer.bottom]
        values[layer.top[0]] = convert(build, layer, bottoms)
    results = {name: values[blob] for name, blob in outputs.items()}
    if head:
        inputs[TAU] = []
        slopes = backward(build, head, values, Value(TAU, ()))
        results |= zip(gradients, slopes, strict=True)
    return build.finish(inputs, results)


def graph_bytes(graph: Graph) -> tuple[int, int]:
    """Bound the bytes that a graph takes in any case, and for each image.

    In any case it takes its weights, and at most 1 GiB for the convolution library. The
    bound for an image counts all values between nodes, although not all are kept at the
    same time.
    """
    values = sum(math.prod(shape) for shape in graph.shapes.values())
    fixed = sum(array.nbytes for array in graph.initializers.values()) + 2**30
    return fixed, 4 * values


def _check_names(layers: Sequence[Any]) -> None:
    """Refuse layers of one name, and layers that share their parameters."""
    seen: set[str] = set()
    for layer in layers:
        names = {layer.name, *(p.name for p in layer.param if p.name)}
        if layer.name and names & seen:
            raise refusal(layer, "names of its own", f"'{min(names & seen)}' once more")
        seen |= names
