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
from fishing.backends.onnx.builder import DATA, TAU, Builder, Graph, Value
from fishing.backends.onnx.imported import imported_graph
from fishing.backends.onnx.layers import convert
from fishing.nets import Head, LayerWeights, NetSpec, ancestors, prepare_net, refusal


def gradient_graph(spec: NetSpec, *, native_lrn: bool = False) -> Graph:
    """Make the graph of a net, whose outputs are its paired blobs.

    Its inputs are ``data``, float32 of shape (n, channels, height, width), and
    ``tau``, a positive float32 without axes. Each output is float32 of shape (n, d).
    ONNX's own operator for LRN is fast in OpenVINO and slow in ONNX Runtime; unless
    `native_lrn` is set, pooling replaces it where possible.
    """
    if spec.is_onnx:
        return imported_graph(spec)
    net = prepare_net(spec)
    return build_graph(
        net.layers,
        net.weights,
        net.caffemodel,
        outputs=net.head.forward(),
        head=net.head,
        native_lrn=native_lrn,
    )


def build_graph(
    layers: Sequence[Any],
    weights: LayerWeights,
    caffemodel: Path,
    *,
    outputs: Mapping[str, str],
    head: Head | None = None,
    native_lrn: bool = False,
) -> Graph:
    """Make a graph of any blobs of any net, with a head of any depth or none.

    Each layer above the head's input writes a blob of its own; see `separate_in_place`.
    `outputs` maps the names of the forward outputs to the net's blobs. Without a head,
    there is no backward pass; with it, the gradients dE/dy of its inner products are
    further outputs. Messages name `caffemodel`, the file of the weights.
    """
    build = Builder(weights, caffemodel, native_lrn=native_lrn)
    values: dict[str, Value] = {}
    used = ancestors(layers, list(outputs.values()))
    inputs: dict[str, Sequence[int | str]] = {}
    gradients = list(head.gradients()) if head else []
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
        values |= zip(layer.top, convert(build, layer, bottoms), strict=True)
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
