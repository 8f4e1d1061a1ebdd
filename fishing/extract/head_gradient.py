r"""Eq. 10 in numpy: gradients computed from the activations of a features file.

.. math::
    \partial E / \partial y_8 = (\mathrm{softmax}(y_8 / \tau) - 1/P) / \tau, \quad
    \partial E / \partial y_k =
    [W_{k+1} \, \partial E / \partial y_{k+1}] \circ f'(y_k).

A features file holds x_k and not y_k, so f' must follow from x_k, as it does for ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import NetError
from fishing.extract.step import Step
from fishing.nets import (
    SAME_VALUES,
    NetSpec,
    PreparedNet,
    factor_axes,
    fit_weights,
    prepare_net,
)
from fishing.nets.blobs import LAST, backward_blob, forward_blob
from fishing.processes import blas_threads
from fishing.store import Rows

_Array = NDArray[np.float32]


def gradient(
    blobs: Mapping[str, Rows], steps: Sequence[Step], tau: float, key: Any
) -> _Array:
    """Compute dE/dy_k of the rows that a key selects from the blobs of a features file.

    It takes no step to dE/dy8, the first step to dE/dy7, and the first two to dE/dy6.
    Values are not finite if `tau` is so small that float32 cannot hold the gradient.
    """
    y = blobs[forward_blob("y8")][key].astype(np.float64)
    p = np.exp((y - y.max(axis=1, keepdims=True)) / tau)
    p /= p.sum(axis=1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"), blas_threads():
        g: _Array = ((p - 1 / y.shape[1]) / tau).astype(np.float32)
        for step in steps:
            g = g @ step.weights
            g *= step.derivative(blobs[step.blob][key])
    return g


def read_steps(spec: NetSpec, widths: Mapping[str, int]) -> list[Step]:
    """Read the steps from the logits down to the lowest gradient of a features file.

    `widths` has the values per image of the file's blobs, at least one of which is a
    gradient. Raises a NetError if files are missing or malformed, if the net's head
    does not fit the features file, or if f' does not follow from x_k.
    """
    if spec.is_onnx:
        # Imported here, since other nets need no library of ONNX's.
        from fishing.extract.onnx_steps import read_onnx_steps

        return read_onnx_steps(spec, widths)
    lowest = min(k for k in range(1, LAST + 1) if backward_blob(k) in widths)
    n_products = LAST + 1 - lowest
    net = prepare_net(spec)
    if n_products > len(net.head.inner_products):
        raise NetError(
            f"expected a net with {n_products} inner products or more for "
            f"{backward_blob(lowest)}, found {net.head.describe()} in {spec.name}; "
            "name the net that the features file was made with"
        )
    products = net.head.inner_products[-n_products:]
    steps = []
    # From the logits down: each inner product but the lowest, and the one below it.
    for i in reversed(range(n_products - 1)):
        below, above = products[i : i + 2]
        blob = forward_blob(f"x{lowest + i}")
        p = above.inner_product_param
        d_above, d = p.num_output, widths[blob]
        shapes = [[d, d_above] if p.transpose else [d_above, d], [d_above]]
        W = _parameters(net, above, shapes[: 1 + p.bias_term])[0]
        # Weights in a file may lie at odd addresses, which BLAS does not take.
        W = np.require(W.T if p.transpose else W, requirements=["C", "A"])
        layers = net.head.layers
        between = layers[layers.index(above) + 1 : layers.index(below)]
        steps.append(Step(blob, W, _derivative(between, net)))
    return steps


def _parameters(
    net: PreparedNet, layer: Any, shapes: Sequence[Sequence[int]]
) -> list[_Array]:
    """Find a layer's parameters, and give them the shapes that it expects."""
    return fit_weights(net.caffemodel, net.weights, {layer.name: shapes})[layer.name]


def _derivative(between: Sequence[Any], net: PreparedNet) -> Callable[[_Array], _Array]:
    """Choose f' for the layers between two inner products, from the upper one down.

    x_k tells the derivative of the layer that makes it. Below that, only layers may
    stand whose derivative does not depend on y_k.
    """
    layers = [layer for layer in between if layer.type not in SAME_VALUES]
    first, rest = layers[:1], layers[1:]
    if first and first[0].type not in _DERIVATIVES:
        first, rest = [], layers
    slope: _Array = np.ones((), np.float32)
    for layer in rest:
        factors = _constant_slope(layer, net)
        if factors is None:
            found = ", ".join(f"'{layer.name}' ({layer.type})" for layer in layers)
            raise NetError(
                f"expected one layer of the types {' '.join(_DERIVATIVES)} between "
                "inner products, and below it BatchNorm, Bias, Scale or Power 1, found "
                f"{found}: activations do not tell its derivative; extract anew with "
                "--temperature"
            )
        slope = slope * factors
    if not first:
        return lambda x: np.broadcast_to(slope, x.shape)
    derivative = _DERIVATIVES[first[0].type](first[0], net)
    return lambda x: derivative(x) * slope


def _constant_slope(layer: Any, net: PreparedNet) -> _Array | None:
    """Return the derivative of a layer that only adds and multiplies by constants."""
    if layer.type == "Bias":
        return np.ones((), np.float32)
    if layer.type == "Power" and layer.power_param.power == 1:
        return np.array(layer.power_param.scale, np.float32)
    if layer.type == "BatchNorm":
        shape = net.shapes[layer.bottom[0]]
        n = shape[0]
        _, variance, factor = _parameters(net, layer, [[n], [n], [1]])
        scale = np.float32(0 if factor[0] == 0 else 1 / factor[0])
        eps = np.float32(layer.batch_norm_param.eps)
        return _spread(1 / np.sqrt(scale * variance + eps), shape, 0)
    if layer.type == "Scale":
        p, shape = layer.scale_param, net.shapes[layer.bottom[0]]
        start, end = factor_axes(layer, shape)
        factors = _parameters(net, layer, [shape[start:end]] * (1 + p.bias_term))[0]
        return _spread(factors, shape, start)
    return None


def _spread(values: _Array, shape: Sequence[int], start: int) -> _Array:
    """Repeat values along some axes of a blob for each of its values, in one row."""
    n_after = len(shape) - start - values.ndim
    return np.broadcast_to(values.reshape(values.shape + (1,) * n_after), shape).ravel()


def _relu(layer: Any, net: PreparedNet) -> Callable[[_Array], _Array]:
    """Return f': 1 where y > 0, and the slope elsewhere."""
    slope = _not_negative(layer, "negative_slope", layer.relu_param.negative_slope)
    return lambda x: np.where(x > 0, np.float32(1), slope)


def _prelu(layer: Any, net: PreparedNet) -> Callable[[_Array], _Array]:
    """Return f': 1 where y > 0, and the slope of its channel elsewhere."""
    shape = net.shapes[layer.bottom[0]]
    is_shared = layer.prelu_param.channel_shared
    (slopes,) = _parameters(net, layer, [[] if is_shared else shape[:1]])
    _not_negative(layer, "slope", float(slopes.min()))
    slopes = _spread(slopes, shape, 0)
    return lambda x: np.where(x > 0, np.float32(1), slopes)


def _elu(layer: Any, net: PreparedNet) -> Callable[[_Array], _Array]:
    """Return f': 1 where y > 0, and alpha + x elsewhere."""
    alpha = _not_negative(layer, "alpha", layer.elu_param.alpha)
    return lambda x: np.where(x > 0, np.float32(1), alpha + x)


def _sigmoid(layer: Any, net: PreparedNet) -> Callable[[_Array], _Array]:
    return lambda x: x * (1 - x)


def _tanh(layer: Any, net: PreparedNet) -> Callable[[_Array], _Array]:
    return lambda x: 1 - x * x


def _not_negative(layer: Any, name: str, value: float) -> np.float32:
    """Refuse a setting under which x > 0 does not imply y > 0."""
    if not value >= 0:
        raise NetError(
            f"layer '{layer.name}' ({layer.type}): expected a {name} of 0 or more, "
            f"found {value:g}, with which y may be negative where x is positive; "
            "extract anew with --temperature"
        )
    return np.float32(value)


_DERIVATIVES: dict[str, Callable[[Any, PreparedNet], Callable[[_Array], _Array]]] = {
    "ELU": _elu,
    "PReLU": _prelu,
    "ReLU": _relu,
    "Sigmoid": _sigmoid,
    "TanH": _tanh,
}
