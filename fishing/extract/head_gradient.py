r"""Eq. 10 in numpy: down the head, from the activations of a features file.

In go y_8, x_7 and x_6 of some images, out come their gradients

.. math::
    \partial E / \partial y_8 = (\mathrm{softmax}(y_8 / \tau) - 1/P) / \tau, \quad
    \partial E / \partial y_k =
    [W_{k+1} \, \partial E / \partial y_{k+1}] \circ f'(y_k).

A features file holds x_k and not y_k: f' must be such that x_k tells it, as with ReLU.
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
from fishing.store import Rows

_Array = NDArray[np.float32]

_LAYERS = ("x6", "x7", "y8")


class Step(NamedTuple):
    """A step down the head, from one inner product to the next.

    Attributes
    ----------
    layer : str
        Where it leads: ``x7`` or ``x6``.
    weights : ndarray of float32, shape (d_above, d)
        Of the inner product that it starts from.
    derivative : callable
        Takes x_k, (n, d), and gives f' at y_k, of that shape.
    """

    layer: str
    weights: _Array
    derivative: Callable[[_Array], _Array]


def gradient(
    blobs: Mapping[str, Rows], steps: Sequence[Step], tau: float, key: Any
) -> _Array:
    """Compute the gradient of some rows, so many steps down from the logits.

    Parameters
    ----------
    blobs : mapping of str to array_like of float32, shape (n, d)
        Of a features file.
    steps : sequence of Step
        None for dE/dy8, that to x7 for dE/dy7, both for dE/dy6.
    tau : float
    key : slice or array of int
        Which rows.

    Returns
    -------
    ndarray of float32
        Not finite where `tau` is so small that float32 does not hold the gradient.
    """
    y = blobs["forward/y8"][key].astype(np.float64)
    p = np.exp((y - y.max(axis=1, keepdims=True)) / tau)
    p /= p.sum(axis=1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        g: _Array = ((p - 1 / y.shape[1]) / tau).astype(np.float32)
        for step in steps:
            g = g @ step.weights
            g *= step.derivative(blobs[f"forward/{step.layer}"][key])
    return g


def read_steps(spec: NetSpec, widths: Mapping[str, int]) -> list[Step]:
    """Read what eq. 10 takes from a net.

    Parameters
    ----------
    spec : NetSpec
    widths : mapping of str to int
        Values per image of the blobs of the features file.

    Returns
    -------
    list of Step
        To x7 and to x6.

    Raises
    ------
    NetError
        If files are missing or malformed, if the net has no head that fits, or if x_k
        does not tell f'.
    """
    net = read_net(spec.prototxt)
    layers, inner_products = prepare_head(net.layer, spec.blobs)
    caffemodel = weights_path(spec)
    found = read_weights(caffemodel)
    steps = []
    for k in (1, 0):
        above, below = inner_products[k + 1], inner_products[k]
        d_above, d = (widths[f"forward/{_LAYERS[i]}"] for i in (k + 1, k))
        p = above.inner_product_param
        shapes = [[d, d_above] if p.transpose else [d_above, d], [d_above]]
        expected = {above.name: shapes[: 1 + p.bias_term]}
        W = fit_weights(caffemodel, found, expected)[above.name][0]
        # Those in a file may lie at odd addresses, which BLAS does not take.
        W = np.require(W.T if p.transpose else W, requirements=["C", "A"])
        between = layers[layers.index(above) + 1 : layers.index(below)]
        steps.append(Step(_LAYERS[k], W, _derivative(between)))
    return steps


def _derivative(between: Sequence[Any]) -> Callable[[_Array], _Array]:
    """Find f' of the layers between two inner products."""
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
    """1[y > 0], and the slope elsewhere."""
    slope = _not_negative(layer, "negative_slope", layer.relu_param.negative_slope)
    return lambda x: np.where(x > 0, np.float32(1), slope)


def _elu(layer: Any) -> Callable[[_Array], _Array]:
    """1[y > 0], and alpha + x elsewhere."""
    alpha = _not_negative(layer, "alpha", layer.elu_param.alpha)
    return lambda x: np.where(x > 0, np.float32(1), alpha + x)


def _sigmoid(layer: Any) -> Callable[[_Array], _Array]:
    return lambda x: x * (1 - x)


def _tanh(layer: Any) -> Callable[[_Array], _Array]:
    return lambda x: 1 - x * x


def _not_negative(layer: Any, name: str, value: float) -> np.float32:
    """Refuse a setting under which x > 0 does not say that y > 0."""
    if not value >= 0:
        raise NetError(
            f"layer '{layer.name}' ({layer.type}): expected a {name} of 0 or more, "
            f"found {value:g}: the sign of x then does not tell that of y; extract "
            "anew with --temperature"
        )
    return np.float32(value)


_DERIVATIVES: dict[str, Callable[[Any], Callable[[_Array], _Array]]] = {
    "ELU": _elu,
    "ReLU": _relu,
    "Sigmoid": _sigmoid,
    "TanH": _tanh,
}
