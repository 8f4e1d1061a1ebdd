"""Eq. 10 as ONNX operators: the backward pass of the head.

It computes the gradients of the cross-entropy with the uniform label with respect to
the outputs of the inner products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fishing.backends.onnx.builder import Builder, Value
from fishing.backends.onnx.layers import (
    batch_norm_statistics,
    prelu_slopes,
    scale_factors,
)
from fishing.nets import Head, concat_axis


class _Step(NamedTuple):
    """A step of the backward pass: a layer, its bottom, its top and dE/dtop."""

    layer: Any
    bottom: Value
    top: Value
    gradient: Value


def backward(
    build: Builder, head: Head, blobs: Mapping[str, Value], tau: Value
) -> list[Value]:
    r"""Add the backward pass of the head.

    .. math::
        \partial E / \partial y_L = (\mathrm{softmax}(y_L / \tau) - 1/P) / \tau, \quad
        \partial E / \partial y_k =
        [W_{k+1} \, \partial E / \partial y_{k+1}] \circ f'(y_k)

    `blobs` holds the blobs that layers of the head read and write, by their names in
    the net, and `tau` the temperature. The gradients dE/dy of the inner products are
    returned from the lowest up.
    """
    found: list[Value] = []
    gradient = _at_logits(build, head.layers[0], blobs, tau)
    parts: dict[str, Value] = {}
    for layer in head.layers:
        if layer.type == "InnerProduct":
            found.append(gradient)
            if layer is head.inner_products[0]:
                break
        if layer.type == "Eltwise":
            parts = _maxout(build, layer, blobs, gradient)
        elif layer.type == "Slice":
            gradient = _joined(build, layer, blobs[layer.bottom[0]], parts)
        else:
            bottom, top = blobs[layer.bottom[0]], blobs[layer.top[0]]
            step = _Step(layer, bottom, top, gradient)
            gradient = _BACKWARD[layer.type](build, step)
    return found[::-1]


def _at_logits(
    build: Builder, layer: Any, blobs: Mapping[str, Value], tau: Value
) -> Value:
    """Take the gradient of the loss: (softmax(y / tau) - 1/P) / tau."""
    y = blobs[layer.top[0]]
    scaled = build.node("Div", [y, tau], "y/tau", y.shape)
    tempered = build.node("Softmax", [scaled], "softmax(y/tau)", y.shape, axis=1)
    uniform = build.constant(1 / y.shape[0], "1/P")
    difference = build.node("Sub", [tempered, uniform], "softmax(y/tau)-1/P", y.shape)
    return build.node("Div", [difference, tau], f"d{layer.top[0]}", y.shape)


def _inner_product(build: Builder, step: _Step) -> Value:
    """Multiply by the transposed weights of the forward pass."""
    layer, shape = step.layer, step.bottom.shape
    product = build.node(
        "Gemm",
        [step.gradient, build.weight_names[layer.name][0]],
        f"d{layer.bottom[0]}",
        [math.prod(shape)],
        transB=int(layer.inner_product_param.transpose),
    )
    return build.reshape(product, shape, f"d{layer.name}/bottom")


def _relu(build: Builder, step: _Step) -> Value:
    """Multiply by 1[y > 0], and by the slope elsewhere."""
    slope = float(step.layer.relu_param.negative_slope)
    # x > 0 where y > 0, unless the slope is negative. x is an output anyway, y is not.
    sign = _is_positive(build, step, step.top if slope >= 0 else step.bottom)
    if slope == 0:
        zero = build.constant(0.0, f"{step.layer.name}/zero")
        return _down(build, step, "Where", [sign, step.gradient, zero])
    return _times(build, step, _choose(build, step, sign, slope))


def _prelu(build: Builder, step: _Step) -> Value:
    slopes = prelu_slopes(build, step.layer, step.bottom)
    sign = _is_positive(build, step, step.bottom)
    return _times(build, step, _choose(build, step, sign, slopes))


def _elu(build: Builder, step: _Step) -> Value:
    """Multiply by 1 where y > 0, and by alpha + x elsewhere."""
    name, shape = step.layer.name, step.top.shape
    alpha = build.constant(float(step.layer.elu_param.alpha), f"{name}/alpha")
    slope = build.node("Add", [step.top, alpha], f"{name}/slope", shape)
    sign = _is_positive(build, step, step.bottom)
    return _times(build, step, _choose(build, step, sign, slope))


def _sigmoid(build: Builder, step: _Step) -> Value:
    """Multiply by x (1 - x)."""
    name, shape = step.layer.name, step.top.shape
    one = build.constant(1.0, f"{name}/one")
    rest = build.node("Sub", [one, step.top], f"{name}/1-x", shape)
    return _times(build, step, build.node("Mul", [step.top, rest], f"{name}/f'", shape))


def _tanh(build: Builder, step: _Step) -> Value:
    """Multiply by 1 - x^2."""
    name, shape = step.layer.name, step.top.shape
    one = build.constant(1.0, f"{name}/one")
    square = build.node("Mul", [step.top, step.top], f"{name}/x^2", shape)
    return _times(build, step, build.node("Sub", [one, square], f"{name}/f'", shape))


def _batch_norm(build: Builder, step: _Step) -> Value:
    """Multiply by 1 / sqrt(variance + eps)."""
    _, variance = batch_norm_statistics(build, step.layer, step.bottom)
    factors = 1 / np.sqrt(variance + np.float32(step.layer.batch_norm_param.eps))
    factors = factors.reshape([-1, *[1] * (len(step.bottom.shape) - 1)])
    return _times(build, step, build.constant(factors, f"{step.layer.name}/f'"))


def _scale(build: Builder, step: _Step) -> Value:
    factors, _ = scale_factors(build, step.layer, step.bottom)
    return _times(build, step, build.constant(factors, f"{step.layer.name}/f'"))


def _power(build: Builder, step: _Step) -> Value:
    """Multiply by power * scale * (shift + scale y)^(power - 1)."""
    p, name, shape = step.layer.power_param, step.layer.name, step.bottom.shape
    factor = build.constant(float(p.power * p.scale), f"{name}/power*scale")
    scaled = _times(build, step, factor)
    if p.power in (0, 1):
        return scaled
    scale = build.constant(float(p.scale), f"{name}/scale")
    shift = build.constant(float(p.shift), f"{name}/shift")
    power = build.constant(float(p.power - 1), f"{name}/power-1")
    product = build.node("Mul", [step.bottom, scale], f"{name}/scale*y", shape)
    base = build.node("Add", [product, shift], f"{name}/shift+scale*y", shape)
    slope = build.node("Pow", [base, power], f"{name}/f'", shape)
    return _down(build, step, "Mul", [scaled, slope])


def _maxout(
    build: Builder, layer: Any, blobs: Mapping[str, Value], gradient: Value
) -> dict[str, Value]:
    """Give the gradient to the part that is the largest; of equal ones, as Caffe does.

    Of the first two the second counts as larger, and then the part that came first.
    """
    name, shape = layer.name, gradient.shape
    zero = build.constant(0.0, f"{name}/zero")
    xs = [blobs[bottom] for bottom in layer.bottom]
    largest = xs[:1]  # of the parts up to each
    for x in xs[1:-1]:
        largest.append(build.node("Max", [largest[-1], x], f"{name}/largest", shape))
    found: dict[str, Value] = {}
    for i in reversed(range(1, len(xs))):
        pair = [largest[i - 1], xs[i]] if i == 1 else [xs[i], largest[i - 1]]
        first = build.node("Greater", pair, f"{name}/first", shape)
        to_first = build.node("Where", [first, gradient, zero], f"{name}/one", shape)
        to_other = build.node("Where", [first, zero, gradient], f"{name}/other", shape)
        here, gradient = (to_other, to_first) if i == 1 else (to_first, to_other)
        found[layer.bottom[i]] = here
    return {**found, layer.bottom[0]: gradient}


def _joined(
    build: Builder, layer: Any, bottom: Value, parts: Mapping[str, Value]
) -> Value:
    """Join the gradients of a Slice's tops."""
    return build.node(
        "Concat",
        [parts[top] for top in layer.top],
        f"d{layer.bottom[0]}",
        bottom.shape,
        axis=concat_axis(layer, bottom.shape),
    )


def _same_values(build: Builder, step: _Step) -> Value:
    name = f"d{step.layer.bottom[0]}"
    return build.reshape(step.gradient, step.bottom.shape, name)


def _is_positive(build: Builder, step: _Step, value: Value) -> Value:
    name = step.layer.name
    zero = build.constant(0.0, f"{name}/0")
    return build.node("Greater", [value, zero], f"{name}/positive", value.shape)


def _choose(build: Builder, step: _Step, sign: Value, slope: Any) -> Value:
    """Take 1 where y > 0 and the slope elsewhere."""
    name = step.layer.name
    if not isinstance(slope, Value):
        slope = build.constant(slope, f"{name}/slope")
    one = build.constant(1.0, f"{name}/1")
    return build.node("Where", [sign, one, slope], f"{name}/f'", step.top.shape)


def _times(build: Builder, step: _Step, factor: Value | str) -> Value:
    return _down(build, step, "Mul", [step.gradient, factor])


def _down(
    build: Builder, step: _Step, operator: str, inputs: list[Value | str]
) -> Value:
    name = f"d{step.layer.bottom[0]}"
    return build.node(operator, inputs, name, step.bottom.shape)


_BACKWARD: dict[str, Callable[[Builder, _Step], Value]] = {
    "BatchNorm": _batch_norm,
    "Bias": _same_values,
    "Dropout": _same_values,
    "ELU": _elu,
    "Flatten": _same_values,
    "InnerProduct": _inner_product,
    "PReLU": _prelu,
    "Power": _power,
    "ReLU": _relu,
    "Reshape": _same_values,
    "Scale": _scale,
    "Sigmoid": _sigmoid,
    "Split": _same_values,
    "TanH": _tanh,
}
