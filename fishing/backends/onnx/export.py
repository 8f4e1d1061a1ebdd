"""A graph as an ONNX file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from fishing.backends.onnx.builder import Graph
from fishing.backends.onnx.graph import gradient_graph
from fishing.errors import BackendError
from fishing.images import Preprocess
from fishing.nets import NetSpec, check_weights, weights_path

# Protobuf reads no message of 2 GB or more; this leaves room for the nodes.
_MOST_BYTES = 2**31 - 2**24


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
        "net_sha256": spec.net_sha256,
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
