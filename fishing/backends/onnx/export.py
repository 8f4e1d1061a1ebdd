"""A net's graph as an ONNX file."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fishing.backends.onnx.builder import Graph
from fishing.backends.onnx.graph import gradient_graph
from fishing.errors import BackendError
from fishing.files import whole_file
from fishing.nets import NetSpec, check_weights, weights_path

# Protobuf reads no message of 2 GB or more; this leaves room for the nodes.
_MOST_BYTES = 2**31 - 2**24


def export(spec: NetSpec, path: Path, *, most_bytes: int = _MOST_BYTES) -> None:
    """Write the graph of a net to an ONNX file.

    Its metadata name the net, the SHA-256 of the prototxt and of the weights, the
    preprocessing of images (JSON), the label and the outputs (JSON). Weights that do
    not fit into one file go into a second one beside it, ``<name>.data``.

    Parameters
    ----------
    spec : NetSpec
    path : Path
        The file gets this name once it is whole.
    most_bytes : int
        The most bytes of weights that the file itself may hold.

    Raises
    ------
    NetError
        If `gradient_graph` raises it, or if the weights are not those on record.
    BackendError
        If the file cannot be written.
    """
    graph = gradient_graph(spec)
    metadata = {
        "net": spec.name,
        "net_sha256": spec.net_sha256,
        "weights_sha256": check_weights(spec, weights_path(spec)),
        "preprocess": json.dumps(spec.preprocess.describe()),
        "label": "uniform",
        "outputs": json.dumps(list(graph.widths)),
    }
    n_bytes = sum(array.nbytes for array in graph.initializers.values())
    data = _data_file(path)
    try:
        path.parent.stat()  # a missing folder is an error; it is not made
        with ExitStack() as files:  # the weights get their name before the model
            unfinished = files.enter_context(whole_file(path))
            if n_bytes > most_bytes:
                weights = files.enter_context(whole_file(data))
                tensors = _write_data(graph, weights, data.name)
            else:
                tensors = [
                    numpy_helper.from_array(array, name)
                    for name, array in graph.initializers.items()
                ]
            model = graph.model(tensors)
            model.doc_string = spec.title
            helper.set_model_props(model, metadata)
            unfinished.write_bytes(model.SerializeToString(deterministic=True))
    except OSError as error:
        raise BackendError(f"expected to write {path}: {error.strerror}") from None


def write_graph(graph: Graph, path: Path) -> None:
    """Write a graph for a runtime that reads files; ``<path>.data`` has its weights."""
    data = _data_file(path)
    tensors = _write_data(graph, data, data.name)
    path.write_bytes(graph.model(tensors).SerializeToString())


def external_tensor(name: str, array: NDArray[Any], **where: str) -> TensorProto:
    """Describe an initializer, of an array's shape and dtype, outside of the model.

    `where` are ONNX's keys of external data: ``location``, ``offset`` and ``length``.
    """
    dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = TensorProto(name=name, dims=array.shape, data_type=dtype)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in where.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _data_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _write_data(graph: Graph, path: Path, name: str) -> list[TensorProto]:
    """Write the larger initializers, each on pages of its own, and describe all.

    The descriptions call the file `name`.
    """
    tensors = []
    with path.open("wb") as file:
        for key, array in graph.initializers.items():
            if array.dtype != np.float32 or array.nbytes < 1024:
                tensors.append(numpy_helper.from_array(array, key))
                continue
            start = -(-file.tell() // 4096) * 4096
            file.seek(start)
            file.write(np.ascontiguousarray(array).data)
            where = {"offset": str(start), "length": str(array.nbytes)}
            tensors.append(external_tensor(key, array, location=name, **where))
    return tensors
