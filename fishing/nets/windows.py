"""The windows of convolutions and poolings: their settings, and how many there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from fishing.nets.caffe_messages import PoolingParameter
from fishing.nets.layers import refusal

Sides = list[int]  # along height and width


class Windows(NamedTuple):
    """Windows over a map, along height and width."""

    kernel: Sides
    stride: Sides
    pad: Sides  # at either end
    dilation: Sides
    counts: Sides  # how many windows: the size of the top


def convolution_windows(layer: Any, size: Sequence[int]) -> Windows:
    """Read a convolution's windows over a map of this height and width.

    Along a side of n pixels with a padding of p at either end, there are
    floor((n + 2p - d (k - 1) - 1) / s) + 1 windows of k pixels that stand d apart.
    """
    p = layer.convolution_param
    kernel = _sides(layer, p, "kernel", p.kernel_size, None)
    stride = _sides(layer, p, "stride", p.stride, 1)
    pad = _sides(layer, p, "pad", p.pad, 0)
    dilation = _sides(layer, p, "dilation", p.dilation, 1)
    counts = [
        (n + 2 * before - d * (k - 1) - 1) // s + 1
        for n, k, s, before, d in zip(size, kernel, stride, pad, dilation, strict=True)
    ]
    return Windows(kernel, stride, pad, dilation, counts)


def pooling_windows(layer: Any, size: Sequence[int]) -> Windows:
    """Read a pooling's windows over a map of this height and width.

    Along a side of n pixels with a padding of p at either end, there are
    ceil((n + 2p - k) / s) + 1 windows of k pixels at a stride of s, without one that
    would begin in the padding at the end. ``round_mode: FLOOR`` rounds down.
    """
    p = layer.pooling_param
    if p.pool not in (PoolingParameter.MAX, PoolingParameter.AVE):
        raise refusal(layer, "pool MAX or AVE", "STOCHASTIC")
    kernel = list(size) if p.global_pooling else _pooling_sides(layer, p, "kernel", 1)
    stride = _pooling_sides(layer, p, "stride", 1)
    pad = _pooling_sides(layer, p, "pad", 0)
    if p.global_pooling and (stride != [1, 1] or pad != [0, 0]):
        raise refusal(layer, "stride 1 and pad 0", f"{stride} and {pad}")
    if any(before >= k for before, k in zip(pad, kernel, strict=True)):
        raise refusal(layer, "a pad smaller than the kernel", f"{pad} and {kernel}")
    rounded = math.ceil if p.round_mode == PoolingParameter.CEIL else math.floor
    counts = []
    for n, k, s, before in zip(size, kernel, stride, pad, strict=True):
        length = rounded((n + 2 * before - k) / s) + 1
        if any(pad) and (length - 1) * s >= n + before:
            length -= 1
        if length < 1 or (length - 1) * s - before >= n:
            found = f"{length} of {k} at a stride of {s} over {n}"
            raise refusal(layer, "windows that all hold pixels", found)
        counts.append(length)
    return Windows(kernel, stride, pad, [1, 1], counts)


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
