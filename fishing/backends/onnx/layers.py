"""Caffe's layers as ONNX operators, with the values that they have in the TEST phase.

A layer that ONNX cannot compute exactly as Caffe does is refused by its name and type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.backends.onnx.builder import Builder, Value, canonical_axis, refusal
from fishing.backends.onnx.spatial_layers import convolution, lrn, pooling
from fishing.nets import check_settings
from fishing.nets.caffe_messages import TEST, EltwiseParameter


def convert(build: Builder, layer: Any, bottoms: Sequence[Value]) -> Value:
    """Add a layer to the graph, and return its top.

    A NetError says that its type or its settings cannot be converted, or that its
    parameters are missing or have other shapes.
    """
    if layer.type not in _ONE_BOTTOM and layer.type not in _MANY_BOTTOMS:
        known = " ".join(sorted([*_ONE_BOTTOM, *_MANY_BOTTOMS]))
        raise refusal(layer, f"a type of: {known}", f"'{layer.type}'")
    check_settings(layer)
    if layer.HasField("phase") and layer.phase != TEST:
        raise refusal(layer, "a layer of the TEST phase", "phase TRAIN")
    is_many = layer.type in _MANY_BOTTOMS
    if len(layer.top) != 1 or not (len(bottoms) == 1 or (is_many and bottoms)):
        wanted = f"{'bottoms' if is_many else 'one bottom'} and one top"
        found = f"{len(bottoms)} and {len(layer.top)}"
        raise refusal(layer, wanted, found)
    if is_many:
        return _MANY_BOTTOMS[layer.type](build, layer, bottoms)
    return _ONE_BOTTOM[layer.type](build, layer, bottoms[0])


def prelu_slopes(build: Builder, layer: Any, x: Value) -> NDArray[np.float32]:
    """Return a PReLU's slopes in the shape (channels, 1, ..., 1), or (1,) if shared."""
    is_shared = layer.prelu_param.channel_shared
    (slopes,) = build.parameters(layer, [[] if is_shared else x.shape[:1]])
    return slopes.reshape([1] if is_shared else [-1, *[1] * (len(x.shape) - 1)])


def batch_norm_statistics(
    build: Builder, layer: Any, x: Value
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean and the variance, which are stored times a factor."""
    p, n = layer.batch_norm_param, x.shape[0]
    if p.HasField("use_global_stats") and not p.use_global_stats:
        raise refusal(layer, "stored statistics", "use_global_stats: false")
    mean, variance, factor = build.parameters(layer, [[n], [n], [1]])
    scale = np.float32(0 if factor[0] == 0 else 1 / factor[0])
    return scale * mean, scale * variance


def scale_factors(
    build: Builder, layer: Any, x: Value
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return a Scale's factors and bias, if any, in shapes that broadcast to images."""
    p, n_axes = layer.scale_param, len(x.shape)
    start = canonical_axis(layer, p.axis, x) - 1
    end = n_axes if p.num_axes == -1 else start + p.num_axes
    if p.num_axes < -1 or end > n_axes:
        found = f"axis {p.axis} and num_axes {p.num_axes}"
        raise refusal(layer, f"axes of a blob of {n_axes + 1}", found)
    shape = x.shape[start:end]
    arrays = build.parameters(layer, [shape] * (1 + p.bias_term))
    arrays = [array.reshape([*shape, *[1] * (n_axes - end)]) for array in arrays]
    return arrays[0], arrays[1] if p.bias_term else None


def _inner_product(build: Builder, layer: Any, x: Value) -> Value:
    """Multiply by the weights, of shape (num_output, K) or transposed."""
    p, name = layer.inner_product_param, layer.top[0]
    axis = canonical_axis(layer, p.axis, x)
    lead, width = x.shape[: axis - 1], math.prod(x.shape[axis - 1 :])
    if p.num_output < 1:
        raise refusal(layer, "a num_output of 1 or more", str(p.num_output))
    shapes = [[width, p.num_output] if p.transpose else [p.num_output, width]]
    shapes += [[p.num_output]] if p.bias_term else []
    weights = build.weights(layer, shapes)
    settings = {"transB": int(not p.transpose)}
    if not lead:
        flat = build.reshape(x, [width], f"{layer.name}/flat")
        return build.node("Gemm", [flat, *weights], name, [p.num_output], **settings)
    # There are several products for each image.
    flat_shape = build.constant([-1, width], f"{layer.name}/rows/shape")
    rows = build.node("Reshape", [x, flat_shape], f"{layer.name}/rows", [width])
    product = f"{layer.name}/product"
    y = build.node("Gemm", [rows, *weights], product, [p.num_output], **settings)
    shape = build.constant([-1, *lead, p.num_output], f"{layer.name}/shape")
    return build.node("Reshape", [y, shape], name, [*lead, p.num_output])


def _relu(build: Builder, layer: Any, x: Value) -> Value:
    slope = float(layer.relu_param.negative_slope)
    if slope == 0:
        return build.node("Relu", [x], layer.top[0], x.shape)
    return build.node("LeakyRelu", [x], layer.top[0], x.shape, alpha=slope)


def _prelu(build: Builder, layer: Any, x: Value) -> Value:
    slopes = build.constant(prelu_slopes(build, layer, x), f"{layer.name}/slopes")
    return build.node("PRelu", [x, slopes], layer.top[0], x.shape)


def _elu(build: Builder, layer: Any, x: Value) -> Value:
    alpha = float(layer.elu_param.alpha)
    return build.node("Elu", [x], layer.top[0], x.shape, alpha=alpha)


def _sigmoid(build: Builder, layer: Any, x: Value) -> Value:
    return build.node("Sigmoid", [x], layer.top[0], x.shape)


def _tanh(build: Builder, layer: Any, x: Value) -> Value:
    return build.node("Tanh", [x], layer.top[0], x.shape)


def _dropout(build: Builder, layer: Any, x: Value) -> Value:
    return x  # Caffe scales the values in the TRAIN phase alone


def _softmax(build: Builder, layer: Any, x: Value) -> Value:
    p = layer.softmax_param
    axis = canonical_axis(layer, p.axis, x)
    if not p.temperature > 0:
        raise refusal(layer, "a positive temperature", str(p.temperature))
    if p.temperature != 1:
        tau = build.constant(float(p.temperature), f"{layer.name}/tau")
        x = build.node("Div", [x, tau], f"{layer.name}/tempered", x.shape)
    return build.node("Softmax", [x], layer.top[0], x.shape, axis=axis)


def _batch_norm(build: Builder, layer: Any, x: Value) -> Value:
    mean, variance = batch_norm_statistics(build, layer, x)
    one, zero = np.ones_like(mean), np.zeros_like(mean)
    numbers = {"scale": one, "shift": zero, "mean": mean, "variance": variance}
    names = [build.constant(v, f"{layer.name}/{key}") for key, v in numbers.items()]
    return build.node(
        "BatchNormalization",
        [x, *names],
        layer.top[0],
        x.shape,
        epsilon=float(layer.batch_norm_param.eps),
    )


def _scale(build: Builder, layer: Any, x: Value) -> Value:
    factors, bias = scale_factors(build, layer, x)
    name = layer.top[0] if bias is None else f"{layer.name}/product"
    factors_name = build.constant(factors, f"{layer.name}/factors")
    y = build.node("Mul", [x, factors_name], name, x.shape)
    if bias is None:
        return y
    bias_name = build.constant(bias, f"{layer.name}/bias")
    return build.node("Add", [y, bias_name], layer.top[0], x.shape)


def _flatten(build: Builder, layer: Any, x: Value) -> Value:
    p = layer.flatten_param
    start, end = (canonical_axis(layer, axis, x) for axis in (p.axis, p.end_axis))
    if end < start:
        raise refusal(layer, f"an end_axis of {start} or more", str(p.end_axis))
    flat = math.prod(x.shape[start - 1 : end])
    shape = [*x.shape[: start - 1], flat, *x.shape[end:]]
    return build.reshape(x, shape, layer.top[0])


def _reshape(build: Builder, layer: Any, x: Value) -> Value:
    """Replace axes by those of `shape`; 0 copies an axis, and -1 takes what is left."""
    p, n_axes = layer.reshape_param, len(x.shape) + 1
    dims = list(p.shape.dim)
    start = p.axis if p.axis >= 0 else p.axis + n_axes + 1
    end = n_axes if p.num_axes == -1 else start + p.num_axes
    batch = -2  # stands for the length of the batch axis, which is open
    bottom, count = [batch, *x.shape], math.prod(x.shape)
    found = f"axis {p.axis}, num_axes {p.num_axes} and shape {dims}"
    copies = [start + i for i, dim in enumerate(dims) if dim == 0]
    if not 0 <= start <= end <= n_axes or any(i >= n_axes for i in copies):
        raise refusal(layer, f"axes of a blob of {n_axes}", found)
    if min(dims, default=0) < -1 or dims.count(-1) > 1:
        raise refusal(layer, "lengths, 0, and -1 once at most", found)
    dims = [bottom[start + i] if dim == 0 else dim for i, dim in enumerate(dims)]
    shape = [*bottom[:start], *dims, *bottom[end:]]
    if -1 in shape:
        rest = math.prod(dim for dim in shape if dim > 0)
        is_batch = batch not in shape and rest == count
        shape[shape.index(-1)] = batch if is_batch else count // max(rest, 1)
    kept, *rest_of = shape
    if kept != batch or math.prod(rest_of) != count or min(rest_of, default=0) < 1:
        wanted = f"{count} values an image and a batch axis that stays the first"
        raise refusal(layer, wanted, found)
    return build.reshape(x, rest_of, layer.top[0])


def _concat(build: Builder, layer: Any, xs: Sequence[Value]) -> Value:
    p = layer.concat_param
    axis = p.concat_dim if p.HasField("concat_dim") else p.axis
    axis = canonical_axis(layer, axis, xs[0])
    if len({(*x.shape[: axis - 1], "", *x.shape[axis:]) for x in xs}) > 1:
        found = " ".join(str(x.shape) for x in xs)
        raise refusal(layer, f"bottoms that differ along axis {axis} alone", found)
    if len(xs) == 1:
        return xs[0]
    shape = list(xs[0].shape)
    shape[axis - 1] = sum(x.shape[axis - 1] for x in xs)
    return build.node("Concat", xs, layer.top[0], shape, axis=axis)


def _eltwise(build: Builder, layer: Any, xs: Sequence[Value]) -> Value:
    p, name, shape = layer.eltwise_param, layer.name, xs[0].shape
    coeff = [float(factor) for factor in p.coeff]
    if len(xs) < 2 or {x.shape for x in xs} != {shape}:
        found = " ".join(str(x.shape) for x in xs)
        raise refusal(layer, "two bottoms or more of one shape", found)
    kind = EltwiseParameter.EltwiseOp.Name(p.operation)
    if coeff and (kind != "SUM" or len(coeff) != len(xs)):
        found = f"{len(coeff)} for the {kind} of {len(xs)}"
        raise refusal(layer, "one coeff for each bottom of a SUM", found)
    terms = list(xs)
    for i, factor in enumerate(coeff):
        if factor != 1:
            c = build.constant(factor, f"{name}/coeff{i}")
            terms[i] = build.node("Mul", [xs[i], c], f"{name}/term{i}", shape)
    operator = {"PROD": "Mul", "SUM": "Add", "MAX": "Max"}[kind]
    total = terms[0]
    for i, term in enumerate(terms[1:], start=2):
        top = layer.top[0] if i == len(terms) else f"{name}/{i}"
        total = build.node(operator, [total, term], top, shape)
    return total


_ONE_BOTTOM: dict[str, Callable[[Builder, Any, Value], Value]] = {
    "BatchNorm": _batch_norm,
    "Convolution": convolution,
    "Dropout": _dropout,
    "ELU": _elu,
    "Flatten": _flatten,
    "InnerProduct": _inner_product,
    "LRN": lrn,
    "PReLU": _prelu,
    "Pooling": pooling,
    "ReLU": _relu,
    "Reshape": _reshape,
    "Scale": _scale,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "TanH": _tanh,
}
_MANY_BOTTOMS: dict[str, Callable[[Builder, Any, Sequence[Value]], Value]] = {
    "Concat": _concat,
    "Eltwise": _eltwise,
}
