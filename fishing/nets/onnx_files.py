"""Classifiers from ONNX files, read and checked without running them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fishing.errors import NetError
from fishing.file_kinds import found_instead
from fishing.nets.onnx_data import read_tensor

#: The lowest opset whose operators mean what the gradients' operators expect.
LOWEST_OPSET = 13
# protobuf reads no longer message, and no classifier has a tenth of these nodes.
_MOST_BYTES, _MOST_NODES = 2**31 - 1, 2**16
# Graphs within graphs; how long they take is only known when they run.
_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}


@dataclass
class OnnxNet:
    """The graph of a classifier.

    Attributes
    ----------
    path : Path
    model : ModelProto
        All of the file but the initializers, which are in `constants`.
    input : str
        The name of the one input, which takes images.
    shape : tuple of (int or None)
        Shape of one image: channels, height and width, None where any length will do.
    batch : int or None
        The number of images that the model takes at a time, None if any number.
    constants : dict of str to ndarray
        Initializers, and the values of Constant nodes.
    writers : dict of str to NodeProto
        The node that writes each other tensor.
    """

    path: Path
    model: Any
    input: str
    shape: tuple[int | None, ...]
    batch: int | None
    constants: dict[str, NDArray[Any]]
    writers: dict[str, Any] = field(default_factory=dict)

    @property
    def opset(self) -> int:
        """Version of ONNX's operators."""
        return _opset(self.model)

    def is_constant(self, name: str) -> bool:
        """Tell whether a tensor, or none at all, is the same for all images."""
        todo, seen = [name], {""}
        while todo:
            tensor = todo.pop()
            if tensor == self.input:
                return False
            if tensor in self.constants or tensor in seen:
                continue
            seen.add(tensor)
            todo.extend(self.writers[tensor].input)
        return True

    def constant(self, name: str) -> NDArray[Any]:
        """Compute a constant tensor, maybe through Transpose, Cast and the like.

        Raises
        ------
        NetError
            If it cannot be computed, or is not finite.
        """
        if name in self.constants:
            return self.constants[name]
        nodes = self.ancestors([name])
        used = {i for node in nodes for i in node.input if i in self.constants}
        # A model of its own that computes this tensor; its weights are few and known.
        graph = helper.make_graph(
            nodes,
            "constant",
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(self.constants[i], i) for i in sorted(used)],
        )
        model = helper.make_model(graph, opset_imports=list(self.model.opset_import))
        try:
            found: Any = ReferenceEvaluator(model).run(None, {})
            array = np.asarray(found[0])
        except Exception as error:  # whatever numpy says of impossible shapes
            words = " ".join(str(error).split())[:200]
            raise NetError(
                f"{self.path}: expected to compute the constant '{name}', found "
                f"{words or type(error).__name__}; export the model again"
            ) from None
        self.constants[name] = array
        return array

    def ancestors(self, names: list[str]) -> list[Any]:
        """List, in their order, the nodes that any of these tensors depends on."""
        needed: set[str] = set()
        todo = list(names)
        while todo:
            tensor = todo.pop()
            if tensor in needed:
                continue
            needed.add(tensor)
            if tensor in self.writers and tensor not in self.constants:
                todo.extend(i for i in self.writers[tensor].input if i)
        return [
            node
            for node in self.model.graph.node
            if needed.intersection(node.output)
            and not all(o in self.constants for o in node.output)
        ]


def read_onnx(path: Path) -> OnnxNet:
    """Read a classifier from an ONNX file, and check that it is one that can be run.

    Weights outside of the model must lie in a file beside it.

    Parameters
    ----------
    path : Path

    Returns
    -------
    OnnxNet

    Raises
    ------
    NetError
        If the file is damaged, is not an ONNX model, has operators that are not ONNX's
        own, graphs within graphs, several inputs, or weights outside of its folder.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise NetError(f"expected to read {path}: {error.strerror}") from None
    except (DecodeError, ValueError) as error:
        words = found_instead(path) or " ".join(str(error).split())[:200]
        raise NetError(
            f"{path}: expected an ONNX model, found {words}; export it again"
        ) from None
    try:
        return _checked(path, model)
    except ValueError as error:
        raise NetError(f"{path}: expected an ONNX classifier, found {error}") from None


def _checked(path: Path, model: Any) -> OnnxNet:
    graph = model.graph
    _check_operators(model)
    constants = {}
    for tensor in graph.initializer:
        constants[tensor.name] = read_tensor(tensor, path.parent)
    if graph.sparse_initializer:
        raise ValueError("sparse weights; export dense ones")
    for node in graph.node:
        if node.op_type == "Constant" and len(node.output) == 1:
            constants[node.output[0]] = _constant(node, path.parent)
    del graph.initializer[:]
    inputs = [i for i in graph.input if i.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs[:5]) or "none"
        raise ValueError(f"{len(inputs)} inputs ({names}) in place of one, the images")
    net = OnnxNet(
        path,
        model,
        inputs[0].name,
        *_input_shape(inputs[0]),
        constants=constants,
    )
    _connect(net)
    return net


def _check_operators(model: Any) -> None:
    """Refuse what is not computed by ONNX's own operators."""
    if len(model.graph.node) > _MOST_NODES:
        raise ValueError(f"more than {_MOST_NODES} nodes")
    if model.functions:
        raise ValueError("functions of its own; export the model with them inlined")
    opset = _opset(model)
    newest = onnx.defs.onnx_opset_version()
    if not LOWEST_OPSET <= opset <= newest:
        raise ValueError(
            f"operators of version {opset}; export the model with an opset from "
            f"{LOWEST_OPSET} to {newest}"
        )
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise ValueError(
                f"the operator {node.op_type} of {node.domain}, which is not ONNX's own"
            )
        if node.op_type in _CONTROL_FLOW:
            raise ValueError(
                f"{node.op_type}, a graph within the graph; export a model without it"
            )
        try:
            schema = onnx.defs.get_schema(node.op_type, opset)
        except (onnx.defs.SchemaError, TypeError):  # or a name that is no text
            raise ValueError(
                f"the operator {node.op_type[:100]!r}, which ONNX does not have in "
                f"version {opset}"
            ) from None
        for what, names, least, most in (
            ("inputs", node.input, schema.min_input, schema.max_input),
            ("outputs", node.output, schema.min_output, schema.max_output),
        ):
            if not least <= len(names) <= most or not all(names[:least]):
                raise ValueError(
                    f"a node '{node.name or node.op_type}' with {len(names)} {what}, "
                    f"which {node.op_type} does not take"
                )


def _opset(model: Any) -> int:
    versions = [i.version for i in model.opset_import if i.domain in ("", "ai.onnx")]
    if len(versions) != 1:
        raise ValueError(f"{len(versions)} versions of ONNX's operators")
    return int(versions[0])


def _input_shape(value: Any) -> tuple[tuple[int | None, ...], int | None]:
    """Read the shape of one image and the batch size; None stands for any length."""
    kind = value.type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        raise ValueError(f"an input '{value.name}' that is not of float32")
    dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    if len(dims) != 4 or any(d is not None and d < 1 for d in dims):
        raise ValueError(
            f"an input of shape {dims} in place of (N, channels, height, width)"
        )
    batch, *shape = dims
    return tuple(shape), batch


def _constant(node: Any, folder: Path) -> NDArray[Any]:
    """Read the value of a Constant node."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if "value" in values:
        return read_tensor(values["value"], folder)
    for key, dtype in (("float", np.float32), ("int", np.int64)):
        for name in (f"value_{key}", f"value_{key}s"):
            if name in values:
                return np.array(values[name], dtype)
    raise ValueError(f"a constant '{node.output[0]}' that is not of numbers")


def _connect(net: OnnxNet) -> None:
    """Note who writes each tensor; the order of nodes must be one to run them in."""
    known = {"", net.input, *net.constants}
    for node in net.model.graph.node:
        if node.op_type == "Constant":
            continue
        for name in node.input:
            if name not in known:
                raise ValueError(
                    f"a node '{node.name or node.op_type}' that reads '{name}' before "
                    "it is written"
                )
        for name in node.output:
            if name and name in known:
                raise ValueError(f"the tensor '{name}' written twice")
            known.add(name)
            if name:
                net.writers[name] = node
    outputs = [o.name for o in net.model.graph.output]
    missing = [name for name in outputs if name not in known]
    if missing or not outputs:
        raise ValueError(f"no node that writes the output {missing[:1] or ''}")
