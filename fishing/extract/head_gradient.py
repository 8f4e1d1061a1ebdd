r"""Eq. 10 in numpy: gradients computed from the activations of a features file.

.. math::
    \partial E / \partial y_8 = (\mathrm{softmax}(y_8 / \tau) - 1/P) / \tau, \quad
    \partial E / \partial y_k =
    [W_{k+1} \, \partial E / \partial y_{k+1}] \circ f'(y_k).

A features file holds x_k and not y_k, so f' must follow from x_k, as it does for ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fishing.errors import NetError
from fishing.nets import (
    SAME_VALUES,
    NetSpec,
    fit_weights,
    prepare_head,
    read_net,
    read_weights,
    weights_path,
)
from fishing.nets.blobs import LAST, backward_blob, forward_blob, head_names
from fishing.store import Rows

_Array = NDArray[np.float32]


class Step(NamedTuple):
    """A step down the head, from one inner product to the next."""

    blob: str  # the activation x_k below the inner product, such as "forward/x7"
    weights: _Array  # W_{k+1} of the inner product, as Caffe stores it: (d_above, d)
    derivative: Callable[[_Array], _Array]  # from x_k to f'(y_k)


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
    with np.errstate(over="ignore", invalid="ignore"):
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
    lowest = min(k for k in range(1, LAST + 1) if backward_blob(k) in widths)
    keys = head_names(LAST + 1 - lowest)[:-1]
    missing = [key for key in keys if key not in spec.blobs]
    if missing:
        raise NetError(
            f"expected {missing[0]} among the blobs of {spec.name}, found "
            f"{' '.join(spec.blobs)}; name the net that the features file was made with"
        )
    net = read_net(spec.model)
    layers, inner_products = prepare_head(net.layer, spec.blobs, len(keys) - 1)
    caffemodel = weights_path(spec)
    found = read_weights(caffemodel)
    steps = []
    # From the logits down: each inner product but the lowest, and the one below it.
    outputs = [forward_blob(key) for key in keys[1:]]
    for i in reversed(range(len(outputs) - 1)):
        above, below = inner_products[i + 1], inner_products[i]
        d_above, d = widths[outputs[i + 1]], widths[outputs[i]]
        p = above.inner_product_param
        shapes = [[d, d_above] if p.transpose else [d_above, d], [d_above]]
        expected = {above.name: shapes[: 1 + p.bias_term]}
        W = fit_weights(caffemodel, found, expected)[above.name][0]
        # Weights in a file may lie at odd addresses, which BLAS does not take.
        W = np.require(W.T if p.transpose else W, requirements=["C", "A"])
        between = layers[layers.index(above) + 1 : layers.index(below)]
        steps.append(Step(outputs[i], W, _derivative(between)))
    return steps


def _derivative(between: Sequence[Any]) -> Callable[[_Array], _Array]:
    """Choose f' for the layers between two inner products."""
    layers = [layer for layer in between if layer.type not in SAME_VALUES]
    if not layers:
        return np.ones_like
    if len(layers) > 1 or layers[0].type not in _DERIVATIVES:
        found = ", ".join(f"'{layer.name}' ({layer.type})" for layer in layers)
        raise NetError(
            "expected one non-linearity between inner products, of the types "
            f"{' '.join(_DERIVATIVES)}, found {found}: activations do not tell its "
            "derivative; extract anew with --temperature"
        )
    return _DERIVATIVES[layers[0].type](layers[0])


def _relu(layer: Any) -> Callable[[_Array], _Array]:
    """Return f': 1 where y > 0, and the slope elsewhere."""
    slope = _not_negative(layer, "negative_slope", layer.relu_param.negative_slope)
    return lambda x: np.where(x > 0, np.float32(1), slope)


def _elu(layer: Any) -> Callable[[_Array], _Array]:
    """Return f': 1 where y > 0, and alpha + x elsewhere."""
    alpha = _not_negative(layer, "alpha", layer.elu_param.alpha)
    return lambda x: np.where(x > 0, np.float32(1), alpha + x)


def _sigmoid(layer: Any) -> Callable[[_Array], _Array]:
    return lambda x: x * (1 - x)


def _tanh(layer: Any) -> Callable[[_Array], _Array]:
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


_DERIVATIVES: dict[str, Callable[[Any], Callable[[_Array], _Array]]] = {
    "ELU": _elu,
    "ReLU": _relu,
    "Sigmoid": _sigmoid,
    "TanH": _tanh,
}
