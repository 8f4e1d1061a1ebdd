"""The inner products of an ONNX model, in all ways in which exporters write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from fishing.errors import NetError
from fishing.nets.onnx_files import OnnxNet

#: Operators that change the shape of a tensor at most, and no value.
SAME_VALUES = {
    "Cast",
    "Dropout",
    "Flatten",
    "Identity",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
}


#: Non-linearities, each of one operator.
ACTIVATIONS = {
    "Clip",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "PRelu",
    "Pow",
    "Relu",
    "Sigmoid",
    "Softplus",
    "Tanh",
}
#: Operators through which the backward pass goes from x_k to y_k.
ELEMENTWISE = {
    *ACTIVATIONS,
    "Add",
    "BatchNormalization",
    "Div",
    "Mul",
    "Neg",
    "Sub",
}


@dataclass(frozen=True)
class Product:
    """An inner product y = x W^T + b.

    Attributes
    ----------
    x, y : str
        Tensors of the model.
    weights : ndarray of float32, shape (d_out, d_in)
    bias : ndarray of float32, shape (d_out,)
    initializer : str or None
        The initializer that holds W^T or W, if it is one of float32 with two axes.
    is_transposed : bool
        Whether that one holds W (d_out, d_in), as Gemm's ``transB`` has it.
    is_pooled : bool
        Whether x is a map whose mean over positions is multiplied.
    """

    x: str
    y: str
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    initializer: str | None = None
    is_transposed: bool = False
    is_pooled: bool = False


def match_product(net: OnnxNet, tensor: str) -> Product | None:
    """Tell whether a tensor is an inner product with constant weights, and which."""
    node = net.writers.get(tensor)
    if node is None:
        return None
    bias: NDArray[Any] | None = None
    if node.op_type == "Add":
        sides = [net.is_constant(i) for i in node.input]
        if sides.count(True) != 1:
            return None
        bias = net.constant(node.input[sides.index(True)])
        inner = below_same_values(net, node.input[sides.index(False)])
        node = net.writers.get(inner)
        if node is None:
            return None
    is_pooled = False
    if is_global_mean(net, node):
        node = net.writers.get(below_same_values(net, node.input[0]))
        is_pooled = True
        if node is None or node.op_type != "Conv":
            return None
    if node.op_type not in _PRODUCTS or not net.is_constant(node.input[1]):
        return None
    weights, own_bias, where = _PRODUCTS[node.op_type](net, node) or (None, None, None)
    if (
        weights is None
        or weights.ndim != 2
        or (is_pooled and not is_pointwise(net, node))
    ):
        return None
    total = np.zeros(len(weights), np.float32)
    for part in (own_bias, bias):
        if part is not None:
            if part.size not in (1, total.size):
                return None
            total = total + part.reshape(-1).astype(np.float32)
    for what, array in (("weights", weights), ("bias", total)):
        if not np.isfinite(array).all():
            raise NetError(
                f"{net.path}: expected finite {what} of the inner product "
                f"'{tensor}', found NaN or infinity in them"
            )
    return Product(
        x=node.input[0],
        y=tensor,
        weights=weights.astype(np.float32, copy=False),
        bias=total,
        initializer=where,
        is_transposed=bool(where) and node.op_type == "Gemm" and _transposed(node),
        is_pooled=is_pooled,
    )


def _gemm(net: OnnxNet, node: Any) -> Any:
    settings = attributes(node)
    alpha, beta = settings.get("alpha", 1.0), settings.get("beta", 1.0)
    if settings.get("transA", 0):
        return None
    stored = net.constant(node.input[1])
    weights = stored if _transposed(node) else stored.T
    bias = None
    if len(node.input) > 2 and node.input[2]:
        if not net.is_constant(node.input[2]):
            return None
        bias = beta * net.constant(node.input[2])
    return (
        alpha * weights if alpha != 1 else weights,
        bias,
        _initializer(net, node.input[1], alpha),
    )


def _matmul(net: OnnxNet, node: Any) -> Any:
    return net.constant(node.input[1]).T, None, _initializer(net, node.input[1], 1.0)


def _conv(net: OnnxNet, node: Any) -> Any:
    """Take a convolution whose map is 1 x 1 for an inner product of the same values."""
    settings, weights = attributes(node), net.constant(node.input[1])
    plain = (
        settings.get("group", 1) == 1
        and not any(settings.get("pads", ()))
        and set(settings.get("dilations", ())) <= {1}
        and settings.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    )
    if not plain or weights.ndim != 4:
        return None
    bias = None
    if len(node.input) > 2 and node.input[2]:
        if not net.is_constant(node.input[2]):
            return None
        bias = net.constant(node.input[2])
    return weights.reshape(len(weights), -1), bias, None


_PRODUCTS = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul}


def _transposed(node: Any) -> bool:
    return bool(attributes(node).get("transB", 0))


def _initializer(net: OnnxNet, name: str, alpha: float) -> str | None:
    array = net.constants.get(name)
    usable = array is not None and array.dtype == np.float32 and alpha == 1
    return name if usable and name not in net.writers else None


def is_pointwise(net: OnnxNet, node: Any) -> bool:
    """Tell whether a convolution has a kernel of 1 x 1 and a stride of 1."""
    kernel = net.constant(node.input[1]).shape[2:]
    return {*attributes(node).get("strides", ()), *kernel} <= {1}


def is_global_mean(net: OnnxNet, node: Any) -> bool:
    """Tell whether a node takes the mean of each channel over all positions."""
    if node.op_type == "GlobalAveragePool":
        return True
    if node.op_type != "ReduceMean":
        return False
    axes = attributes(node).get("axes")
    if axes is None and len(node.input) > 1 and net.is_constant(node.input[1]):
        axes = net.constant(node.input[1]).reshape(-1).tolist()
    return sorted(axes or ()) in ([2, 3], [-2, -1])


def below_same_values(net: OnnxNet, tensor: str) -> str:
    """Go down through operators that change no value."""
    while True:
        node = net.writers.get(tensor)
        if node is None or node.op_type not in SAME_VALUES:
            return tensor
        tensor = node.input[0]


def attributes(node: Any) -> dict[str, Any]:
    """Read the settings of a node."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
