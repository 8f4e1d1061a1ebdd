"""Caffe's convolution, pooling and LRN as ONNX operators.

The tops have exactly the sizes that Caffe gives them, and the same values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fishing.backends.onnx.builder import (
    Builder,
    Value,
    canonical_axis,
    check_size,
    refusal,
)
from fishing.nets.caffe_messages import LRNParameter, PoolingParameter

Sides = list[int]  # along height and width


def convolution(build: Builder, layer: Any, x: Value) -> Value:
    """Convolve with weights (num_output, channels / group, kernel_h, kernel_w)."""
    p = layer.convolution_param
    channels, *size = _planes(layer, x)
    if canonical_axis(layer, p.axis, x) != 1:
        raise refusal(layer, "channels on axis 1", f"axis {p.axis}")
    kernel = _sides(layer, p, "kernel", p.kernel_size, None)
    stride = _sides(layer, p, "stride", p.stride, 1)
    pad = _sides(layer, p, "pad", p.pad, 0)
    dilation = _sides(layer, p, "dilation", p.dilation, 1)
    out = [
        (n + 2 * before - d * (k - 1) - 1) // s + 1
        for n, k, s, before, d in zip(size, kernel, stride, pad, dilation, strict=True)
    ]
    if p.group < 1 or channels % p.group or p.num_output % p.group:
        found = f"{channels} of the bottom and {p.num_output} of the top"
        raise refusal(layer, f"channels in {p.group} groups", found)
    if p.num_output < 1 or min(out) < 1:
        raise refusal(layer, "an output", f"one of {[p.num_output, *out]}")
    shapes = [[p.num_output, channels // p.group, *kernel]]
    shapes += [[p.num_output]] if p.bias_term else []
    return build.node(
        "Conv",
        [x, *build.weights(layer, shapes)],
        layer.top[0],
        [p.num_output, *out],
        kernel_shape=kernel,
        strides=stride,
        pads=[*pad, *pad],
        dilations=dilation,
        group=p.group,
    )


def pooling(build: Builder, layer: Any, x: Value) -> Value:
    """Take the maximum or the mean of windows, the last of which may exceed the edge.

    Along a side of n pixels with a padding of p at either end, there are
    ceil((n + 2p - k) / s) + 1 windows of k pixels at a stride of s, without one that
    would begin in the padding at the end. The mean is over the part of a window within
    the n + 2p pixels, where the padding is zero. The maximum ignores the padding.
    """
    p = layer.pooling_param
    _planes(layer, x)
    if p.pool not in (PoolingParameter.MAX, PoolingParameter.AVE):
        raise refusal(layer, "pool MAX or AVE", "STOCHASTIC")
    size = list(x.shape[1:])
    kernel = size if p.global_pooling else _pooling_sides(layer, p, "kernel", 1)
    stride = _pooling_sides(layer, p, "stride", 1)
    pad = _pooling_sides(layer, p, "pad", 0)
    if p.global_pooling and (stride != [1, 1] or pad != [0, 0]):
        raise refusal(layer, "stride 1 and pad 0", f"{stride} and {pad}")
    if any(before >= k for before, k in zip(pad, kernel, strict=True)):
        raise refusal(layer, "a pad smaller than the kernel", f"{pad} and {kernel}")
    rounded = math.ceil if p.round_mode == PoolingParameter.CEIL else math.floor
    out = []
    for n, k, s, before in zip(size, kernel, stride, pad, strict=True):
        length = rounded((n + 2 * before - k) / s) + 1
        if any(pad) and (length - 1) * s >= n + before:
            length -= 1
        if length < 1 or (length - 1) * s - before >= n:
            found = f"{length} of {k} at a stride of {s} over {n}"
            raise refusal(layer, "windows that all hold pixels", found)
        out.append(length)
    if p.pool == PoolingParameter.AVE:
        return _average(build, layer.top[0], x, kernel, stride, pad, out)
    return build.node(
        "MaxPool",
        [x],
        layer.top[0],
        [x.shape[0], *out],
        kernel_shape=kernel,
        strides=stride,
        pads=[*pad, *_end_pad(size, kernel, stride, pad, out)],
    )


def lrn(build: Builder, layer: Any, x: Value) -> Value:
    """Divide each value by (k + alpha * mean of the squares around it)^beta.

    The mean is over local_size channels, or over a square of that side within a
    channel, where k is always 1. Values outside the image count as zero.
    """
    p, name = layer.lrn_param, layer.name
    _planes(layer, x)
    if p.local_size < 1 or p.local_size % 2 == 0:
        raise refusal(layer, "an odd local_size", str(p.local_size))
    if p.norm_region == LRNParameter.ACROSS_CHANNELS:
        if p.beta == 0.75 and not build.native_lrn:
            return _lrn_by_pooling(build, layer, x)
        settings = {"alpha": p.alpha, "beta": p.beta, "bias": p.k, "size": p.local_size}
        return build.node("LRN", [x], layer.top[0], x.shape, **settings)
    window, pad = [p.local_size] * 2, [(p.local_size - 1) // 2] * 2
    square = build.node("Mul", [x, x], f"{name}/square", x.shape)
    mean = _average(
        build, f"{name}/mean", square, window, [1, 1], pad, list(x.shape[1:])
    )
    alpha = build.constant(float(p.alpha), f"{name}/alpha")
    scaled = build.node("Mul", [mean, alpha], f"{name}/scaled", x.shape)
    one = build.constant(1.0, f"{name}/one")
    base = build.node("Add", [scaled, one], f"{name}/base", x.shape)
    beta = build.constant(-float(p.beta), f"{name}/-beta")
    factor = build.node("Pow", [base, beta], f"{name}/factor", x.shape)
    return build.node("Mul", [x, factor], layer.top[0], x.shape)


def _lrn_by_pooling(build: Builder, layer: Any, x: Value) -> Value:
    """Average the squares of neighbouring channels by pooling, for a beta of 3/4.

    ONNX Runtime's LRN uses one thread and computes a power of each value, which takes
    half of AlexNet's time. Its pooling is fast, and b^(3/4) is sqrt(b) sqrt(sqrt(b)).
    """
    p, name, size = layer.lrn_param, layer.name, layer.lrn_param.local_size
    shape = (1, *x.shape)  # a volume of one channel, whose depth axis is the channels
    volume = build.reshape(x, shape, f"{name}/volume")
    square = build.node("Mul", [volume, volume], f"{name}/square", shape)
    half = [size // 2, 0, 0]
    mean = build.node(
        "AveragePool",
        [square],
        f"{name}/mean",
        shape,
        kernel_shape=[size, 1, 1],
        pads=[*half, *half],
        count_include_pad=1,
    )
    alpha = build.constant(float(p.alpha), f"{name}/alpha")
    scaled = build.node("Mul", [mean, alpha], f"{name}/scaled", shape)
    k = build.constant(float(p.k), f"{name}/k")
    base = build.node("Add", [scaled, k], f"{name}/base", shape)
    root = build.node("Sqrt", [base], f"{name}/root", shape)
    fourth = build.node("Sqrt", [root], f"{name}/fourth", shape)
    divisor = build.node("Mul", [root, fourth], f"{name}/divisor", shape)
    quotient = build.node("Div", [volume, divisor], f"{name}/quotient", shape)
    return build.reshape(quotient, x.shape, layer.top[0])


def _average(
    build: Builder,
    name: str,
    x: Value,
    kernel: Sides,
    stride: Sides,
    pad: Sides,
    out: Sides,
) -> Value:
    """Take means as Caffe does: over windows that are clipped where padding ends."""
    size, shape = list(x.shape[1:]), [x.shape[0], *out]
    check_size(name, shape)
    end = _end_pad(size, kernel, stride, pad, out)
    lengths = []  # of the clipped windows along each side
    for n, k, s, before, length in zip(size, kernel, stride, pad, out, strict=True):
        starts = np.arange(length) * s - before
        lengths.append(np.minimum(starts + k, n + before) - starts)
    # ONNX divides by the size of the full window, or by the image pixels in it.
    factor = math.prod(kernel) / np.outer(*lengths)
    with_pad = any(pad)
    is_full = not with_pad or bool((factor == 1).all())
    pooled = build.node(
        "AveragePool",
        [x],
        name if is_full else f"{name}/full",
        shape,
        kernel_shape=kernel,
        strides=stride,
        pads=[*pad, *end],
        count_include_pad=int(with_pad),
    )
    if is_full:
        return pooled
    factors = build.constant(factor, f"{name}/clipped")
    return build.node("Mul", [pooled, factors], name, shape)


def _end_pad(
    size: Sides, kernel: Sides, stride: Sides, pad: Sides, out: Sides
) -> Sides:
    """Find the padding at the end of each side, up to which the last window reaches."""
    sides = zip(size, kernel, stride, pad, out, strict=True)
    return [max(0, (m - 1) * s + k - n - before) for n, k, s, before, m in sides]


def _planes(layer: Any, x: Value) -> tuple[int, ...]:
    """Check that a bottom has channels, height and width, and return its shape."""
    if len(x.shape) != 3:
        raise refusal(layer, "a bottom of 4 axes", f"{len(x.shape) + 1}")
    return x.shape


def _sides(
    layer: Any, p: Any, name: str, both: Sequence[int], default: int | None
) -> Sides:
    """Read a convolution's setting for height and width, however it is written."""
    present = {field.name: value for field, value in p.ListFields()}
    apart = [present[key] for key in (f"{name}_h", f"{name}_w") if key in present]
    found = list(both) or apart or ([] if default is None else [default])
    if len(found) == 1 and not apart:
        found *= 2
    least = 0 if name == "pad" else 1
    if len(found) != 2 or (both and apart) or min(found) < least:
        raise refusal(layer, f"one {name} or two", f"{[*both, *apart]}")
    return found


def _pooling_sides(layer: Any, p: Any, name: str, least: int) -> Sides:
    """Read a pooling's setting for height and width, however it is written."""
    both = "kernel_size" if name == "kernel" else name
    apart = [f"{name}_h", f"{name}_w"]
    keys = [key for key in (both, *apart) if p.HasField(key)]
    if keys not in ([], [both], apart):
        raise refusal(layer, f"{both}, or {name}_h and {name}_w", " ".join(keys))
    found = [getattr(p, key) for key in (apart if keys == apart else [both, both])]
    if min(found) < least:
        raise refusal(layer, f"a {both} of {least} or more", f"{found}")
    return found
