"""The one way from a net's files to what is run, for all backends and `fishing temper`.

Layers that no blob depends on are left out, in-place layers of the head get blobs of
their own, convolutions that are inner products become InnerProduct layers, and what the
net lacks is added: the softmax of the logits, and the mean over the positions of maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fishing.errors import NetError
from fishing.nets.caffe_files import read_net
from fishing.nets.caffe_messages import LayerParameter, PoolingParameter
from fishing.nets.caffe_weights import LayerWeights, fit_weights, read_weights
from fishing.nets.head import SAME_VALUES, Head, find_head
from fishing.nets.inner_products import (
    Kernel,
    Shapes,
    as_inner_products,
    n_positions,
    product_weights,
)
from fishing.nets.layer_shapes import canonical_axis
from fishing.nets.layers import (
    ancestors,
    place,
    producer,
    separate_in_place,
)
from fishing.nets.parameter_shapes import parameter_shapes
from fishing.nets.shapes import blob_shapes, check_layers
from fishing.nets.spec import NetSpec
from fishing.nets.weights import weights_path


class PreparedNet(NamedTuple):
    """A net as it is run.

    Attributes
    ----------
    layers : list of LayerParameter
        The layers that its blobs depend on. The first is the one Input.
    head : Head
    shapes : mapping of str to tuple of int
        The shapes of the blobs, as `blob_shapes` returns them.
    weights : dict of str to list of ndarray
        What `read_weights` returns, in the shapes that `layers` need.
    caffemodel : Path
        The file of the weights, which messages name.
    """

    layers: list[Any]
    head: Head
    shapes: Shapes
    weights: LayerWeights
    caffemodel: Path


def prepare_net(spec: NetSpec) -> PreparedNet:
    """Read a net and its weights, and find its head.

    Parameters
    ----------
    spec : NetSpec

    Returns
    -------
    PreparedNet

    Raises
    ------
    NetError
        If a file is missing or malformed, if the net has a layer that cannot be run, or
        if it has no head that fits the blobs of `spec`.

    Examples
    --------
    >>> from fishing.nets import load_net
    >>> prepare_net(load_net("tinyalexnet")).head.describe()
    '3 inner products, fc6, fc7 and fc8 over pool5'
    """
    caffemodel = weights_path(spec)
    layers = read_net(spec.model).layer
    layers, head, shapes, kernels = prepare_layers(
        layers, spec.blobs, spec.preprocess.shape
    )
    weights = product_weights(read_weights(caffemodel), kernels)
    weights |= fit_weights(caffemodel, weights, _parameter_shapes(layers, shapes))
    return PreparedNet(layers, head, shapes, weights, caffemodel)


def prepare_layers(
    layers: Sequence[Any], blobs: Mapping[str, str], input_shape: Sequence[int]
) -> tuple[list[Any], Head, Shapes, dict[str, Kernel]]:
    """Prepare the layers of a net, whose messages may be changed in place.

    The kernels are those of convolutions that became inner products; `product_weights`
    needs them.
    """
    for blob in blobs.values():
        producer(layers, blob)
    used = ancestors(layers, list(blobs.values()))
    if any(layer.type == "Input" for layer in used):
        check_layers(used, input_shape)  # without an Input, it names what is missing
    for layer in used:  # `read_net` has chosen the layers of the TEST phase
        layer.ClearField("include")
        layer.ClearField("exclude")
    _put_input_first(used)
    separate_in_place(used, _first(used, blobs))
    found, kernels = as_inner_products(used, blob_shapes(used, input_shape))
    shapes = blob_shapes(found, input_shape)
    head = find_head(found, blobs, shapes)
    if "x8" in blobs:
        _check_softmax(found, blobs, shapes)
    else:
        head.blobs["x8"] = _add_softmax(found, head)
    for name in head.activations():
        head.blobs[name] = _add_mean(found, name, head.blobs[name], shapes)
    found = ancestors(found, list(head.blobs.values()))
    return found, head, blob_shapes(found, input_shape), kernels


def _parameter_shapes(
    layers: Sequence[Any], shapes: Shapes
) -> dict[str, list[tuple[int, ...]]]:
    """Find the shapes of all parameters but those of layers that Caffe alone has."""
    found = {
        layer.name: parameter_shapes(layer, [shapes[b] for b in layer.bottom])
        for layer in layers
        if all(bottom in shapes for bottom in layer.bottom)
    }
    return {name: of_layer for name, of_layer in found.items() if of_layer}


def _put_input_first(layers: list[Any]) -> None:
    layers.sort(key=lambda layer: layer.type != "Input")


def _first(layers: Sequence[Any], blobs: Mapping[str, str]) -> str:
    """Find the blob that is written first; all layers of the head come after it."""
    return min(blobs.values(), key=lambda blob: place(layers, producer(layers, blob)))


def _check_softmax(
    layers: Sequence[Any], blobs: Mapping[str, str], shapes: Shapes
) -> None:
    """Check that x8 is the softmax of y8 over the classes."""
    softmax = producer(layers, blobs["x8"])
    bottom = softmax.bottom[0] if softmax.type == "Softmax" else ""
    below = bottom
    while below and below != blobs["y8"]:
        layer = producer(layers, below)
        below = layer.bottom[0] if layer.type in SAME_VALUES else ""
    if not below:
        raise NetError(
            f"expected x8 '{blobs['x8']}' to be the Softmax of y8 '{blobs['y8']}', "
            f"found the {softmax.type} of {' '.join(softmax.bottom) or 'nothing'}"
        )
    shape, axis = shapes[bottom], softmax.softmax_param.axis
    if shape[canonical_axis(softmax, axis, shape) - 1] != math.prod(shape):
        raise NetError(
            f"expected '{softmax.name}' to take the softmax over the classes, found it "
            f"along axis {axis}"
        )


def _add_softmax(layers: list[Any], head: Head) -> str:
    """Put a softmax on the logits, and return its blob."""
    name = "x8@softmax"
    logits = head.inner_products[-1].top[0]
    layers.append(
        LayerParameter(name=name, type="Softmax", bottom=[logits], top=[name])
    )
    return name


def _add_mean(layers: list[Any], name: str, blob: str, shapes: Shapes) -> str:
    """Take the mean over the positions of an activation, if it is a map."""
    shape = shapes.get(blob, ())
    if n_positions(shape) == 1:
        return blob
    if len(shape) != 3:
        raise NetError(
            f"expected {name} '{blob}' to be a vector or a map of an image, found a "
            f"blob of shape {list(shape) or 'unknown'}"
        )
    mean = f"{name}@mean"
    pooling = LayerParameter(name=mean, type="Pooling", bottom=[blob], top=[mean])
    pooling.pooling_param.pool = PoolingParameter.AVE
    pooling.pooling_param.global_pooling = True
    layers.append(pooling)
    return mean
