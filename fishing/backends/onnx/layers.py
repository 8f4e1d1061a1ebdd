"""Caffe's layers as ONNX operators, with the values that they have in the TEST phase.

A layer that ONNX cannot compute exactly as Caffe does is refused by its name and type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.backends.onnx.builder import Builder, Value
from fishing.backends.onnx.spatial_layers import convolution, lrn, pooling
from fishing.nets import (
    CAFFE_ALONE,
    Shape,
    canonical_axis,
    concat_axis,
    crop_offsets,
    factor_axes,
    layer_shapes,
    refusal,
)
from fishing.nets.caffe_messages import EltwiseParameter


def convert(build: Builder, layer: Any, bottoms: Sequence[Value]) -> list[Value]:
    """Add a layer to the graph, and return its tops.

    A NetError says that its type or its settings cannot be converted, or that its
    parameters are missing or have other shapes.
    """
    if layer.type in CAFFE_ALONE:
        known = " ".join(sorted([*_ONE_BOTTOM, *_MANY_BOTTOMS, *_MANY_TOPS]))
        found = f"'{layer.type}'; --backend caffe runs it"
        raise refusal(layer, f"a type of: {known}", found)
    shapes = layer_shapes(layer, [bottom.shape for bottom in bottoms])
    if layer.type in _MANY_TOPS:
        return _MANY_TOPS[layer.type](build, layer, bottoms[0], shapes)
    if layer.type in _MANY_BOTTOMS:
        return [_MANY_BOTTOMS[layer.type](build, layer, bottoms, shapes[0])]
    return [_ONE_BOTTOM[layer.type](build, layer, bottoms[0], shapes[0])]


def prelu_slopes(build: Builder, layer: Any, x: Value) -> NDArray[np.float32]:
    """Return a PReLU's slopes in the shape (channels, 1, ..., 1), or (1,) if shared."""
    is_shared = layer.prelu_param.channel_shared
    (slopes,) = build.parameters(layer, x)
    return slopes.reshape([1] if is_shared else [-1, *[1] * (len(x.shape) - 1)])


def batch_norm_statistics(
    build: Builder, layer: Any, x: Value
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean and the variance, which are stored times a factor."""
    mean, variance, factor = build.parameters(layer, x)
    scale = np.float32(0 if factor[0] == 0 else 1 / factor[0])
    return scale * mean, scale * variance


def scale_factors(
    build: Builder, layer: Any, x: Value
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return a Scale's factors and bias, if any, in shapes that broadcast to images."""
    factors, *bias = _of_some_axes(build, layer, x)
    return factors, bias[0] if bias else None


def _of_some_axes(build: Builder, layer: Any, x: Value) -> list[NDArray[np.float32]]:
    """Return the parameters of a Scale or a Bias in shapes that broadcast."""
    _, end = factor_axes(layer, x.shape)
    ones = [1] * (len(x.shape) - end)
    return [a.reshape([*a.shape, *ones]) for a in build.parameters(layer, x)]


def _inner_product(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    """Multiply by the weights, of shape (num_output, K) or transposed."""
    p, name = layer.inner_product_param, layer.top[0]
    *lead, n_out = shape
    width = math.prod(x.shape[len(lead) :])
    weights = build.weights(layer, x)
    settings = {"transB": int(not p.transpose)}
    if not lead:
        flat = build.reshape(x, [width], f"{layer.name}/flat")
        return build.node("Gemm", [flat, *weights], name, shape, **settings)
    # There are several products for each image.
    flat_shape = build.constant([-1, width], f"{layer.name}/rows/shape")
    rows = build.node("Reshape", [x, flat_shape], f"{layer.name}/rows", [width])
    product = f"{layer.name}/product"
    y = build.node("Gemm", [rows, *weights], product, [n_out], **settings)
    target = build.constant([-1, *shape], f"{layer.name}/shape")
    return build.node("Reshape", [y, target], name, shape)


def _relu(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    slope = float(layer.relu_param.negative_slope)
    if slope == 0:
        return build.node("Relu", [x], layer.top[0], shape)
    return build.node("LeakyRelu", [x], layer.top[0], shape, alpha=slope)


def _prelu(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    slopes = build.constant(prelu_slopes(build, layer, x), f"{layer.name}/slopes")
    return build.node("PRelu", [x, slopes], layer.top[0], shape)


def _elu(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    alpha = float(layer.elu_param.alpha)
    return build.node("Elu", [x], layer.top[0], shape, alpha=alpha)


def _sigmoid(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    return build.node("Sigmoid", [x], layer.top[0], shape)


def _tanh(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    return build.node("Tanh", [x], layer.top[0], shape)


def _dropout(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    return x  # Caffe scales the values in the TRAIN phase alone


def _softmax(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    p = layer.softmax_param
    axis = canonical_axis(layer, p.axis, shape)
    if p.temperature != 1:
        tau = build.constant(float(p.temperature), f"{layer.name}/tau")
        x = build.node("Div", [x, tau], f"{layer.name}/tempered", shape)
    return build.node("Softmax", [x], layer.top[0], shape, axis=axis)


def _batch_norm(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    mean, variance = batch_norm_statistics(build, layer, x)
    one, zero = np.ones_like(mean), np.zeros_like(mean)
    numbers = {"scale": one, "shift": zero, "mean": mean, "variance": variance}
    names = [build.constant(v, f"{layer.name}/{key}") for key, v in numbers.items()]
    return build.node(
        "BatchNormalization",
        [x, *names],
        layer.top[0],
        shape,
        epsilon=float(layer.batch_norm_param.eps),
    )


def _power(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    """Compute (shift + scale x)^power."""
    p, name = layer.power_param, layer.name
    scale = build.constant(float(p.scale), f"{name}/scale")
    scaled = build.node("Mul", [x, scale], f"{name}/scaled", shape)
    shift = build.constant(float(p.shift), f"{name}/shift")
    if p.power == 1:
        return build.node("Add", [scaled, shift], layer.top[0], shape)
    base = build.node("Add", [scaled, shift], f"{name}/base", shape)
    power = build.constant(float(p.power), f"{name}/power")
    return build.node("Pow", [base, power], layer.top[0], shape)


def _reshape(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    return build.reshape(x, shape, layer.top[0])


def _shuffle_channel(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    """Take the first channel of each group, then the second of each, and so on."""
    group = layer.shuffle_channel_param.group
    parts = (group, shape[0] // group, *shape[1:])
    groups = build.reshape(x, parts, f"{layer.name}/groups")
    turned_shape = (parts[1], group, *shape[1:])
    turned = build.node(
        "Transpose",
        [groups],
        f"{layer.name}/turned",
        turned_shape,
        perm=[0, 2, 1, 3, 4],
    )
    return build.reshape(turned, shape, layer.top[0])


def _scale(build: Builder, layer: Any, xs: Sequence[Value], shape: Shape) -> Value:
    """Multiply by stored factors and add a bias, or multiply by the second bottom."""
    if len(xs) == 2:
        factors = _spread(build, layer, xs[1], shape)
        return build.node("Mul", [xs[0], factors], layer.top[0], shape)
    stored, bias = scale_factors(build, layer, xs[0])
    name = layer.top[0] if bias is None else f"{layer.name}/product"
    factors_name = build.constant(stored, f"{layer.name}/factors")
    y = build.node("Mul", [xs[0], factors_name], name, shape)
    if bias is None:
        return y
    bias_name = build.constant(bias, f"{layer.name}/bias")
    return build.node("Add", [y, bias_name], layer.top[0], shape)


def _bias(build: Builder, layer: Any, xs: Sequence[Value], shape: Shape) -> Value:
    """Add stored values, or the second bottom."""
    if len(xs) == 2:
        bias: Value | str = _spread(build, layer, xs[1], shape)
    else:
        (stored,) = _of_some_axes(build, layer, xs[0])
        bias = build.constant(stored, f"{layer.name}/bias")
    return build.node("Add", [xs[0], bias], layer.top[0], shape)


def _axpy(build: Builder, layer: Any, xs: Sequence[Value], shape: Shape) -> Value:
    """Multiply the second bottom by a factor for each channel, and add the third."""
    factors = build.reshape(xs[0], [shape[0], 1, 1], f"{layer.name}/factors")
    product = build.node("Mul", [xs[1], factors], f"{layer.name}/product", shape)
    return build.node("Add", [product, xs[2]], layer.top[0], shape)


def _spread(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    """Give a blob axes of length 1 at the end, so that it broadcasts to `shape`."""
    ones = [1] * (len(shape) - len(x.shape))
    return build.reshape(x, [*x.shape, *ones], f"{layer.name}/spread")


def _concat(build: Builder, layer: Any, xs: Sequence[Value], shape: Shape) -> Value:
    if len(xs) == 1:
        return xs[0]
    axis = concat_axis(layer, shape)
    return build.node("Concat", xs, layer.top[0], shape, axis=axis)


def _crop(build: Builder, layer: Any, xs: Sequence[Value], shape: Shape) -> Value:
    offsets = crop_offsets(layer, shape)
    first = len(shape) - len(offsets)
    return _cut(build, xs[0], layer.top[0], first + 1, offsets, shape)


def _cut(
    build: Builder,
    x: Value,
    name: str,
    axis: int,
    offsets: Sequence[int],
    shape: Shape,
) -> Value:
    """Cut a blob of this shape out of x, along the axes from `axis` on."""
    axes = list(range(axis, axis + len(offsets)))
    ends = [o + shape[a - 1] for o, a in zip(offsets, axes, strict=True)]
    numbers = {"starts": list(offsets), "ends": ends, "axes": axes}
    places = [build.constant(v, f"{name}/{key}") for key, v in numbers.items()]
    return build.node("Slice", [x, *places], name, shape)


def _slice(
    build: Builder, layer: Any, x: Value, shapes: Sequence[Shape]
) -> list[Value]:
    axis, start, found = concat_axis(layer, x.shape), 0, []
    for top, shape in zip(layer.top, shapes, strict=True):
        found.append(_cut(build, x, top, axis, [start], shape))
        start += shape[axis - 1]
    return found


def _split(
    build: Builder, layer: Any, x: Value, shapes: Sequence[Shape]
) -> list[Value]:
    return [x] * len(shapes)


def _eltwise(build: Builder, layer: Any, xs: Sequence[Value], shape: Shape) -> Value:
    p, name = layer.eltwise_param, layer.name
    terms = list(xs)
    for i, factor in enumerate(p.coeff):
        if factor != 1:
            c = build.constant(float(factor), f"{name}/coeff{i}")
            terms[i] = build.node("Mul", [xs[i], c], f"{name}/term{i}", shape)
    kind = EltwiseParameter.EltwiseOp.Name(p.operation)
    operator = {"PROD": "Mul", "SUM": "Add", "MAX": "Max"}[kind]
    total = terms[0]
    for i, term in enumerate(terms[1:], start=2):
        top = layer.top[0] if i == len(terms) else f"{name}/{i}"
        total = build.node(operator, [total, term], top, shape)
    return total


_ONE_BOTTOM: dict[str, Callable[[Builder, Any, Value, Shape], Value]] = {
    "BatchNorm": _batch_norm,
    "Convolution": convolution,
    "Dropout": _dropout,
    "ELU": _elu,
    "Flatten": _reshape,
    "InnerProduct": _inner_product,
    "LRN": lrn,
    "PReLU": _prelu,
    "Pooling": pooling,
    "Power": _power,
    "ReLU": _relu,
    "Reshape": _reshape,
    "ShuffleChannel": _shuffle_channel,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "TanH": _tanh,
}
_MANY_BOTTOMS: dict[str, Callable[[Builder, Any, Sequence[Value], Shape], Value]] = {
    "Axpy": _axpy,
    "Bias": _bias,
    "Concat": _concat,
    "Crop": _crop,
    "Eltwise": _eltwise,
    "Scale": _scale,
}
_MANY_TOPS: dict[str, Callable[[Builder, Any, Value, Sequence[Shape]], list[Value]]] = {
    "Slice": _slice,
    "Split": _split,
}
