"""The shapes of a layer's parameters, which its settings and its bottom tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fishing.nets.layer_shapes import Shape, canonical_axis, factor_axes
from fishing.nets.windows import convolution_windows


def parameter_shapes(layer: Any, bottoms: Sequence[Shape]) -> list[Shape]:
    """List the shapes of a layer's parameters, in Caffe's order.

    Parameters
    ----------
    layer : LayerParameter
        One that `layer_shapes` accepts.
    bottoms : sequence of tuple of int
        The shapes of its bottoms for one image.

    Returns
    -------
    list of tuple of int
        Empty for layers without parameters.

    Examples
    --------
    >>> from fishing.nets import load_net, read_net
    >>> net = read_net(load_net("tinyalexnet").model)
    >>> parameter_shapes(net.layer[1], [(3, 64, 64)])
    [(48, 3, 5, 5), (48,)]
    """
    x = bottoms[0] if bottoms else ()
    if layer.type == "Convolution":
        p = layer.convolution_param
        kernel = convolution_windows(layer, x[1:]).kernel
        bias = [(p.num_output,)] if p.bias_term else []
        return [(p.num_output, x[0] // p.group, *kernel), *bias]
    if layer.type == "InnerProduct":
        p = layer.inner_product_param
        width = math.prod(x[canonical_axis(layer, p.axis, x) - 1 :])
        bias = [(p.num_output,)] if p.bias_term else []
        weights = (width, p.num_output) if p.transpose else (p.num_output, width)
        return [weights, *bias]
    if layer.type == "BatchNorm":  # mean, variance, and the factor of both
        return [x[:1], x[:1], (1,)]
    if layer.type == "PReLU":
        return [() if layer.prelu_param.channel_shared else x[:1]]
    if layer.type in ("Scale", "Bias") and len(bottoms) == 1:
        start, end = factor_axes(layer, x)
        has_both = layer.type == "Scale" and layer.scale_param.bias_term
        return [x[start:end]] * (1 + has_both)
    return []
