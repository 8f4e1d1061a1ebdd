"""The shapes of tops of layers that work on maps: channels, height and width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fishing.nets.axes import Shape, canonical_axis, crop_offsets
from fishing.nets.layers import refusal
from fishing.nets.windows import convolution_windows, pooling_windows


def axpy(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    """Check that the first bottom has a factor for each channel of the second."""
    factors, x, y = bottoms
    channels = _planes(layer, x)[0]
    if x != y or factors not in ((channels,), (channels, 1, 1)):
        found = " ".join(map(str, bottoms))
        raise refusal(layer, "a factor for each channel of two equal shapes", found)
    return [x]


def convolution(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    """Take windows with weights, in groups of channels."""
    p = layer.convolution_param
    counts = convolution_windows(layer, _convolved(layer, bottoms[0])).counts
    if min(counts) < 1:
        raise refusal(layer, "an output", f"one of {[p.num_output, *counts]}")
    return [(p.num_output, *counts)]


def crop(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    """Cut the first bottom down to the size of the second."""
    x, like = bottoms
    if len(x) != len(like):
        raise refusal(layer, "two bottoms of as many axes", f"{x} and {like}")
    offsets = crop_offsets(layer, x)
    kept = len(x) - len(offsets)
    ends = [o + n for o, n in zip(offsets, like[kept:], strict=True)]
    if any(end > n for end, n in zip(ends, x[kept:], strict=True)):
        raise refusal(layer, f"a cut within {x}", f"{like} from {offsets}")
    return [x[:kept] + like[kept:]]


def deconvolution(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    """Spread each value over a window: the transpose of a convolution."""
    p = layer.convolution_param
    size = _convolved(layer, bottoms[0])
    kernel, stride, pad, dilation, _ = convolution_windows(layer, size)
    out = [
        s * (n - 1) + d * (k - 1) + 1 - 2 * before
        for n, k, s, before, d in zip(size, kernel, stride, pad, dilation, strict=True)
    ]
    if min(out) < 1:
        raise refusal(layer, "an output", f"one of {[p.num_output, *out]}")
    return [(p.num_output, *out)]


def lrn(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    """Divide by a sum over neighbours."""
    _planes(layer, bottoms[0])
    size = layer.lrn_param.local_size
    if size < 1 or size % 2 == 0:
        raise refusal(layer, "an odd local_size", str(size))
    return [bottoms[0]]


def pooling(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    """Take the maximum or the mean of windows."""
    channels, *size = _planes(layer, bottoms[0])
    return [(channels, *pooling_windows(layer, size).counts)]


def shuffle_channel(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    """Mix the channels of groups."""
    channels, group = _planes(layer, bottoms[0])[0], layer.shuffle_channel_param.group
    if group < 1 or channels % group:
        raise refusal(layer, f"channels in {group} groups", str(channels))
    return [bottoms[0]]


def spatial_pyramid(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    """Pool over the whole map, its quarters, their quarters and so on."""
    height = layer.spp_param.pyramid_height
    if not 1 <= height <= 8:
        raise refusal(layer, "a pyramid_height from 1 to 8", str(height))
    return [(_planes(layer, bottoms[0])[0] * (4**height - 1) // 3,)]


def _convolved(layer: Any, shape: Shape) -> Sequence[int]:
    """Check the channels of a convolution, and return the size of its bottom."""
    p = layer.convolution_param
    channels, *size = _planes(layer, shape)
    if canonical_axis(layer, p.axis, shape) != 1:
        raise refusal(layer, "channels on axis 1", f"axis {p.axis}")
    if p.group < 1 or channels % p.group or p.num_output % p.group:
        found = f"{channels} of the bottom and {p.num_output} of the top"
        raise refusal(layer, f"channels in {p.group} groups", found)
    if p.num_output < 1:
        raise refusal(layer, "a num_output of 1 or more", str(p.num_output))
    return size


def _planes(layer: Any, shape: Shape) -> Shape:
    """Check that a bottom has channels, height and width, and return its shape."""
    if len(shape) != 3:
        raise refusal(layer, "a bottom of 4 axes", f"{len(shape) + 1}")
    return shape
