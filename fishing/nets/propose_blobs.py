"""Propose the table [blobs] of net.toml for a net that nobody has described yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fishing.errors import NetError
from fishing.nets.blobs import LAST, head_names
from fishing.nets.caffe_messages import LayerParameter
from fishing.nets.head import ELEMENT_WISE, SAME_VALUES, Walk
from fishing.nets.inner_products import Shapes, as_inner_products, is_mean
from fishing.nets.layers import ancestors, producer, separate_in_place
from fishing.nets.prepare_net import prepare_layers
from fishing.nets.shapes import blob_shapes, check_layers

# What may read the softmax of a classifier.
_READERS = {"Accuracy", "ArgMax", "Silence"}
# Layers that join the branches of a block; so do activations.
_JOINS = {"Axpy", "Concat", "Eltwise"} | (ELEMENT_WISE - SAME_VALUES)
# A net without a softmax that ends in 2^k values, and in this many at least, ends in an
# embedding rather than in logits.
_LEAST_EMBEDDING = 64


def propose_blobs(layers: Sequence[Any]) -> dict[str, str]:
    """Find the blobs of a net's head by its layers.

    The logits y8 are what the last Softmax reads or, without one, what the last layer
    writes. The chain x7, x6 ... goes down as far as inner products follow. Below a
    single inner product, the input of the last block is named too: the last map through
    which all paths lead, before convolutions, whose shape is not that of the last map.
    The kernels of such an activation and of x7 multiply to one that is better than dW8.

    Parameters
    ----------
    layers : sequence of LayerParameter
        What `read_net` returns in ``layer``. They are not changed.

    Returns
    -------
    dict of str to str
        From the lowest blob up; x8 only if the net has a softmax.

    Raises
    ------
    NetError
        If the net has another number of inputs than one, or no logits: it ends in a
        map, in an embedding, or in the mean of many products.

    Examples
    --------
    >>> from fishing.nets import load_net, read_net
    >>> propose_blobs(read_net(load_net("tinyalexnet").model).layer)
    {'x5': 'pool5', 'x6': 'fc6', 'x7': 'fc7', 'y8': 'fc8', 'x8': 'prob'}
    """
    published = {top for layer in layers for top in layer.top}
    copies = _separated(layers)
    softmax = _softmax(copies)
    y8 = softmax.bottom[0] if softmax else _last_blob(copies)
    used = ancestors(copies, [y8])
    input_shape = image_shape(used)
    check_layers(used, input_shape)
    found = {"y8": y8, **({"x8": softmax.top[0]} if softmax else {})}
    found |= _chain(used, y8, published, input_shape, has_softmax=bool(softmax))
    if "x6" not in found:
        block = _last_block_input(used, found["x7"], input_shape)
        with_block = {**found, "x6": block}
        if block in published and _fits(layers, with_block, input_shape):
            found = with_block
    return {name: found[name] for name in head_names(LAST) if name in found}


def _separated(layers: Sequence[Any]) -> list[Any]:
    """Copy layers, the inputs first, and let each write a blob of its own."""
    copies = _copied(layers)
    copies.sort(key=lambda layer: layer.type != "Input")
    if not copies or copies[0].type != "Input":
        raise NetError("expected an input of images, found a net without Input layers")
    separate_in_place(copies, copies[0].top[0])
    return copies


def _softmax(layers: Sequence[Any]) -> Any | None:
    """Find the last Softmax whose values no further layer changes."""
    outputs = _outputs(layers)
    found = [layer for layer in outputs if layer.type == "Softmax"]
    return found[-1] if found else None


def _last_blob(layers: Sequence[Any]) -> str:
    """Find the blob that the last layer writes, of those that nothing reads."""
    return str(_outputs(layers)[-1].top[0])


def _outputs(layers: Sequence[Any]) -> list[Any]:
    """List the layers whose values no further layer changes."""
    others = [layer for layer in layers if layer.type not in _READERS]
    read = {bottom for layer in others for bottom in layer.bottom}
    return [layer for layer in others if layer.top and not read.intersection(layer.top)]


def image_shape(layers: Sequence[Any]) -> list[int]:
    """Return the (channels, height, width) of the one input."""
    images = [layer for layer in layers if layer.type == "Input"]
    inputs = [top for layer in images for top in layer.top]
    shapes = [list(s.dim) for layer in images for s in layer.input_param.shape]
    if len(inputs) != 1 or len(shapes) != 1 or len(shapes[0]) != 4:
        raise NetError(
            "expected one input of images, of shape (N, channels, height, width), "
            f"found {dict(zip(inputs, shapes, strict=False)) or 'none'}"
        )
    return shapes[0][1:]


def _chain(
    layers: Sequence[Any],
    y8: str,
    published: set[str],
    input_shape: Sequence[int],
    *,
    has_softmax: bool,
) -> dict[str, str]:
    """Name the inputs of inner products from the logits down."""
    products, _ = as_inner_products(layers, blob_shapes(layers, input_shape))
    shapes = blob_shapes(products, input_shape)
    walk = Walk(products, shapes)
    if not has_softmax:
        _check_no_embedding(products, y8, shapes)
    product = walk.logits(y8)
    found: dict[str, str] = {}
    for name in reversed(head_names(LAST)[:-2]):
        blob = str(product.bottom[0])
        layer = producer(products, blob)
        if is_mean(layer, shapes) and blob == f"{layer.bottom[0]}@{layer.name}":
            blob = layer.bottom[0]
        if blob not in published:
            break
        found[name] = blob
        product = walk.next_product(walk.input(product, blob, name))
        if product is None:
            break
    if not found:
        raise NetError(
            f"expected a name for the input of '{product.name}' ({product.type}), "
            "found that a later layer writes to it in place; give that a top of its own"
        )
    return found


def _check_no_embedding(layers: Sequence[Any], y8: str, shapes: Shapes) -> None:
    """Refuse a net without a softmax that ends in anything but logits."""
    last = producer(layers, y8)
    product = Walk(layers, shapes).next_product(y8)
    if product is None:
        return
    n = product.inner_product_param.num_output
    is_power = n >= _LEAST_EMBEDDING and n & (n - 1) == 0
    if is_power or last.type in ELEMENT_WISE - SAME_VALUES:
        raise NetError(
            f"expected logits, found '{last.name}' ({last.type}) of {n} values without "
            "a softmax: an embedding, for which there is no label to be uniform about; "
            "if these are logits, name them as y8 in a net.toml of your own"
        )


def _last_block_input(
    layers: Sequence[Any], x7: str, input_shape: Sequence[int]
) -> str:
    """Find the last map through which all paths lead before the last block.

    A concatenation, an addition or an activation writes it, at least one convolution
    reads it or what is made of it, and its shape is not that of the last map. "" stands
    for none.
    """
    below = ancestors(layers, [x7])
    shapes = blob_shapes(below, input_shape)
    cuts = [
        (place, layer)
        for place, layer in _cuts(below, x7)
        if len(shapes.get(layer.top[0], ())) == 3
    ]
    maps = [shapes[layer.top[0]] for _, layer in cuts]
    large = [shape for shape in maps if math.prod(shape[1:]) > 1]
    last_convolution = max(
        (i for i, layer in enumerate(below) if layer.type == "Convolution"), default=0
    )
    found = [
        layer.top[0]
        for place, layer in cuts
        if layer.type in _JOINS and place < last_convolution
    ]
    other = [blob for blob in found if shapes[blob] != large[-1]] if large else []
    return str((other or found)[-1]) if found else ""


def _cuts(layers: Sequence[Any], last: str) -> list[tuple[int, Any]]:
    """List the layers through whose top all paths to the blob `last` lead."""
    read_until = {
        bottom: i for i, layer in enumerate(layers) for bottom in layer.bottom
    }
    read_until[last] = len(layers)
    unread: set[str] = set()
    found = []
    for i, layer in enumerate(layers):
        unread.update(layer.top)
        unread = {blob for blob in unread if read_until.get(blob, 0) > i}
        if unread == {layer.top[0]}:
            found.append((i, layer))
    return found


def _fits(
    layers: Sequence[Any], blobs: dict[str, str], input_shape: Sequence[int]
) -> bool:
    """Tell whether a net has a head that fits these blobs."""
    try:
        prepare_layers(_copied(layers), blobs, input_shape)
    except NetError:
        return False
    return True


def _copied(layers: Sequence[Any]) -> list[Any]:
    return [LayerParameter.FromString(layer.SerializeToString()) for layer in layers]
