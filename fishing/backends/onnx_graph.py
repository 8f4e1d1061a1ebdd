"""One ONNX graph for a net: the forward pass, and eq. 10 down its head.

In go a prototxt and a caffemodel, out comes a graph whose one call gives all paired
blobs, for ONNX Runtime here or as a file for use anywhere.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from fishing.backends.caffe_files import Weights, read_net, read_weights
from fishing.backends.caffe_schema import Message
from fishing.backends.head import (
    ancestors,
    check_softmax,
    find_head,
    separate_in_place,
)
from fishing.backends.onnx_backward import backward
from fishing.backends.onnx_builder import Builder, Graph, Value, refusal
from fishing.backends.onnx_layers import convert
from fishing.errors import BackendError, NetError
from fishing.nets import NetSpec, check_weights, weights_path
from fishing.preprocess import Preprocess

#: The graph's inputs: images, and the temperature of eq. 10.
DATA, TAU = "data", "tau"

_KEYS = ("x5", "x6", "x7", "y8")
_FORWARD = {
    "forward/pool5": "x5",
    "forward/fc6": "x6",
    "forward/fc7": "x7",
    "forward/fc8": "y8",
    "forward/prob": "x8",
}
_BACKWARD = ("backward/fc6", "backward/fc7", "backward/fc8")
# Protobuf reads no message of 2 GB or more; this leaves room for the nodes.
_MOST_BYTES = 2**31 - 2**24


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
    weights: Weights,
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


def export(spec: NetSpec, path: Path, *, most_bytes: int = _MOST_BYTES) -> None:
    """Write the graph of a net to an ONNX file.

    Its metadata name the net, the SHA-256 of the prototxt and of the weights, the
    preprocessing of images (JSON), the label and the outputs (JSON). Weights that would
    not fit into one file go into a second one beside it, ``<name>.data``.

    Parameters
    ----------
    spec : NetSpec
    path : Path
        The file appears under this name once it is whole.
    most_bytes : int
        Of weights in the file itself.

    Raises
    ------
    NetError
        As `gradient_graph`, and if the weights are not those on record.
    BackendError
        If the file cannot be written.
    """
    graph = gradient_graph(spec)
    metadata = {
        "net": spec.name,
        "prototxt_sha256": spec.prototxt_sha256,
        "weights_sha256": check_weights(spec, weights_path(spec)),
        "preprocess": json.dumps(Preprocess(spec.input_size, spec.mean).describe()),
        "label": "uniform",
        "outputs": json.dumps(list(graph.widths)),
    }
    partial = path.with_name(f"{path.name}.partial")
    data, partial_data = _data_file(path), _data_file(partial)
    try:
        model = _model(graph, partial_data, data.name, most_bytes)
        model.doc_string = spec.title
        helper.set_model_props(model, metadata)
        partial.write_bytes(model.SerializeToString(deterministic=True))
        if partial_data.exists():
            os.replace(partial_data, data)
        os.replace(partial, path)
    except OSError as error:
        raise BackendError(f"expected to write {path}: {error.strerror}") from None
    finally:
        for file in (partial, partial_data):
            file.unlink(missing_ok=True)


def write_graph(graph: Graph, path: Path) -> None:
    """Write a graph for a runtime that reads files; all weights go beside it.

    Parameters
    ----------
    graph : Graph
    path : Path
        The weights lie in ``<path>.data``.

    Raises
    ------
    OSError
        If the disk is full or lost.
    """
    data = _data_file(path)
    path.write_bytes(_model(graph, data, data.name, most_bytes=0).SerializeToString())


def graph_bytes(graph: Graph) -> tuple[int, int]:
    """Bound the bytes that a graph takes: of its own, and for each image.

    The weights and 1 GiB for what a library of convolutions works with; and all values
    between the nodes, though not all are there at the same time.
    """
    values = sum(math.prod(shape) for shape in graph.shapes.values())
    fixed = sum(array.nbytes for array in graph.initializers.values()) + 2**30
    return fixed, 4 * values


def external_tensor(name: str, array: NDArray[Any], **where: str) -> TensorProto:
    """Describe an initializer whose numbers lie outside of the model."""
    tensor = _tensor(name, array, None)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in where.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _tensor(name: str, array: NDArray[Any], raw: bytes | None) -> TensorProto:
    dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
    return TensorProto(name=name, dims=array.shape, data_type=dtype, raw_data=raw)


def _data_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _model(graph: Graph, data: Path, name: str, most_bytes: int) -> ModelProto:
    """Make a model; weights of more than `most_bytes` go into the file `data`.

    The model calls that file `name`.
    """
    if sum(array.nbytes for array in graph.initializers.values()) > most_bytes:
        return graph.model(_write_data(graph, data, name))
    return graph.model(
        [
            _tensor(name, array, array.tobytes())
            for name, array in graph.initializers.items()
        ]
    )


def _write_data(graph: Graph, path: Path, name: str) -> list[TensorProto]:
    """Write the larger initializers into a file of their own, each on a new page."""
    tensors = []
    with path.open("wb") as file:
        for key, array in graph.initializers.items():
            if array.dtype != np.float32 or array.nbytes < 1024:
                tensors.append(_tensor(key, array, array.tobytes()))
                continue
            start = -(-file.tell() // 4096) * 4096
            file.seek(start)
            file.write(np.ascontiguousarray(array).data)
            where = {"offset": str(start), "length": str(array.nbytes)}
            tensors.append(external_tensor(key, array, location=name, **where))
    return tensors


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
