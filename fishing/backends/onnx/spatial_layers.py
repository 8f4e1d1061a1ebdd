"""Caffe's convolution, pooling and LRN as ONNX operators.

The tops have exactly the sizes that Caffe gives them, and the same values.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fishing.backends.onnx.builder import Builder, Value
from fishing.nets import Shape, Windows, convolution_windows, pooling_windows
from fishing.nets.caffe_messages import LRNParameter, PoolingParameter


def convolution(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    """Convolve with weights (num_output, channels / group, kernel_h, kernel_w)."""
    windows = convolution_windows(layer, x.shape[1:])
    return build.node(
        "Conv",
        [x, *build.weights(layer, x)],
        layer.top[0],
        shape,
        kernel_shape=windows.kernel,
        strides=windows.stride,
        pads=[*windows.pad, *windows.pad],
        dilations=windows.dilation,
        group=layer.convolution_param.group,
    )


def pooling(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    """Take the maximum or the mean of windows, the last of which may exceed the edge.

    The mean is over the part of a window within the image and its padding, where the
    padding is zero. The maximum ignores the padding.
    """
    windows = pooling_windows(layer, x.shape[1:])
    if layer.pooling_param.pool == PoolingParameter.AVE:
        return _average(build, layer.top[0], x, windows)
    return build.node(
        "MaxPool",
        [x],
        layer.top[0],
        shape,
        kernel_shape=windows.kernel,
        strides=windows.stride,
        pads=[*windows.pad, *_end_pad(x, windows)],
    )


def lrn(build: Builder, layer: Any, x: Value, shape: Shape) -> Value:
    """Divide each value by (k + alpha * mean of the squares around it)^beta.

    The mean is over local_size channels, or over a square of that side within a
    channel, where k is always 1. Values outside the image count as zero.
    """
    p, name = layer.lrn_param, layer.name
    if p.norm_region == LRNParameter.ACROSS_CHANNELS:
        if p.beta == 0.75 and not build.native_lrn:
            return _lrn_by_pooling(build, layer, x)
        settings = {"alpha": p.alpha, "beta": p.beta, "bias": p.k, "size": p.local_size}
        return build.node("LRN", [x], layer.top[0], shape, **settings)
    side, half = [p.local_size] * 2, [(p.local_size - 1) // 2] * 2
    square = build.node("Mul", [x, x], f"{name}/square", shape)
    windows = Windows(side, [1, 1], half, [1, 1], list(shape[1:]))
    mean = _average(build, f"{name}/mean", square, windows)
    alpha = build.constant(float(p.alpha), f"{name}/alpha")
    scaled = build.node("Mul", [mean, alpha], f"{name}/scaled", shape)
    one = build.constant(1.0, f"{name}/one")
    base = build.node("Add", [scaled, one], f"{name}/base", shape)
    beta = build.constant(-float(p.beta), f"{name}/-beta")
    factor = build.node("Pow", [base, beta], f"{name}/factor", shape)
    return build.node("Mul", [x, factor], layer.top[0], shape)


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


def _average(build: Builder, name: str, x: Value, windows: Windows) -> Value:
    """Take means as Caffe does: over windows that are clipped where padding ends."""
    kernel, stride, pad, _, counts = windows
    shape = (x.shape[0], *counts)
    lengths = []  # of the clipped windows along each side
    for n, k, s, before, m in zip(
        x.shape[1:], kernel, stride, pad, counts, strict=True
    ):
        starts = np.arange(m) * s - before
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
        pads=[*pad, *_end_pad(x, windows)],
        count_include_pad=int(with_pad),
    )
    if is_full:
        return pooled
    factors = build.constant(factor, f"{name}/clipped")
    return build.node("Mul", [pooled, factors], name, shape)


def _end_pad(x: Value, windows: Windows) -> list[int]:
    """Find the padding at the end of each side, up to which the last window reaches."""
    kernel, stride, pad, _, counts = windows
    sides = zip(x.shape[1:], kernel, stride, pad, counts, strict=True)
    return [max(0, (m - 1) * s + k - n - before) for n, k, s, before, m in sides]
