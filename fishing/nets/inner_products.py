"""Convolutions that are inner products, written as InnerProduct layers.

A convolution whose kernel covers its whole bottom makes a map of one position: an inner
product with the bottom, flattened in Caffe's order (channels, height, width). A 1 x 1
convolution commutes with the mean over all positions, so that one before a global
average pooling is an inner product with the mean of its bottom. After the rewriting,
eq. 10 has one kind of product everywhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fishing.errors import NetError
from fishing.nets.caffe_messages import LayerParameter, PoolingParameter
from fishing.nets.caffe_weights import LayerWeights
from fishing.nets.layers import ancestors
from fishing.nets.shapes import blob_shapes
from fishing.nets.windows import convolution_windows, pooling_windows

Shapes = Mapping[str, tuple[int, ...]]


class Kernel(NamedTuple):
    """The part of a convolution's kernel that lies on its bottom."""

    size: tuple[int, int]  # of the whole kernel
    rows: slice
    columns: slice


def as_inner_products(
    layers: Sequence[Any], shapes: Shapes
) -> tuple[list[Any], dict[str, Kernel]]:
    """Write the convolutions of a net that are inner products as InnerProduct layers.

    A Reshape gives the top the axes and the name that it had, so that all other layers
    remain as they are.

    Parameters
    ----------
    layers : sequence of LayerParameter
        They are not changed.
    shapes : mapping of str to tuple of int
        What `blob_shapes` returns.

    Returns
    -------
    list of LayerParameter
    dict of str to Kernel
        The kernels of the convolutions that were replaced, by the name of the layer.
    """
    found: list[Any] = []
    kernels: dict[str, Kernel] = {}
    done: set[str] = set()
    readers: dict[str, list[Any]] = {}
    for layer in layers:
        for bottom in layer.bottom:
            readers.setdefault(bottom, []).append(layer)
    for layer in layers:
        if layer.name in done:
            continue
        mean = _mean_above(layer, readers, shapes)
        if mean is not None:
            bottom = f"{layer.bottom[0]}@{mean.name}"
            done.add(mean.name)
            found.append(_changed(mean, layer.bottom[0], bottom))
            kernels[layer.name] = Kernel((1, 1), slice(1), slice(1))
            found += _product(layer, bottom, mean.top[0])
            continue
        kernel = _covering_kernel(layer, shapes)
        if kernel is None:
            found.append(layer)
            continue
        kernels[layer.name] = kernel
        found += _product(layer, layer.bottom[0], layer.top[0])
    return found, kernels


def product_weights(
    weights: LayerWeights, kernels: Mapping[str, Kernel]
) -> LayerWeights:
    """Give the weights of replaced convolutions the shape (outputs, inputs).

    Parameters of other shapes than the convolution's are left as they are, for
    `fit_weights` to refuse.
    """
    found = dict(weights)
    for name, kernel in kernels.items():
        arrays = found.get(name, [])
        if arrays and arrays[0].ndim == 4 and arrays[0].shape[2:] == kernel.size:
            part = arrays[0][:, :, kernel.rows, kernel.columns]
            found[name] = [part.reshape(len(part), -1), *arrays[1:]]
    return found


def fitting_input(
    layers: Sequence[Any], blob: str, shapes: Shapes
) -> tuple[int, int] | None:
    """Find the height and width of images of which a blob makes one position.

    Of all sizes that do, this is the smallest with which all maps are as large as with
    the largest: the one for which the net was most likely made. It is None if no
    smaller image does.
    """
    used = ancestors(layers, [blob])
    channels, *size = shapes[used[0].top[0]]
    found = [_fitting_side(used, blob, channels, max(size), axis) for axis in (1, 2)]
    return (found[0], found[1]) if all(found) else None


def is_mean(layer: Any, shapes: Shapes) -> bool:
    """Tell whether a layer takes the mean over all positions of a map."""
    if layer.type != "Pooling" or layer.pooling_param.pool != PoolingParameter.AVE:
        return False
    shape = shapes.get(layer.bottom[0], ())
    if len(shape) != 3 or n_positions(shapes.get(layer.top[0])) != 1:
        return False
    windows = pooling_windows(layer, shape[1:])
    return windows.kernel == [*shape[1:]] and windows.pad == [0, 0]


def n_positions(shape: Sequence[int] | None) -> int:
    """Count the positions of a blob that has channels; 0 if its shape is not known."""
    if not shape:
        return 0
    count = 1
    for length in shape[1:]:
        count *= length
    return count


def _fitting_side(
    layers: Sequence[Any], blob: str, channels: int, most: int, axis: int
) -> int:
    """Find one side of such an image; 0 if there is none."""

    def sides(n: int) -> list[int]:
        """List the sides of all maps but the input's; that of `blob` is the last."""
        found = blob_shapes(layers, (channels, n, n))
        maps = [found.get(layer.top[0], ()) for layer in layers[1:]]
        return [shape[axis] if len(shape) == 3 else 0 for shape in maps]

    side = bisect_right(range(1, most + 1), 1, key=lambda n: sides(n)[-1])
    maps = sides(side) if side else [0]
    if maps[-1] != 1:
        return 0
    while side > 1 and sides(side - 1) == maps:
        side -= 1
    return side


def _mean_above(
    layer: Any, readers: Mapping[str, Sequence[Any]], shapes: Shapes
) -> Any | None:
    """Find the global average pooling that alone reads a 1 x 1 convolution."""
    windows = _windows(layer, shapes)
    if windows is None or (windows.kernel, windows.stride, windows.pad) != (
        [1, 1],
        [1, 1],
        [0, 0],
    ):
        return None
    above = readers.get(layer.top[0], [])
    return above[0] if len(above) == 1 and is_mean(above[0], shapes) else None


def _covering_kernel(layer: Any, shapes: Shapes) -> Kernel | None:
    """Find the part of a kernel that meets each pixel of the bottom exactly once."""
    windows = _windows(layer, shapes)
    if windows is None or windows.counts != [1, 1]:
        return None
    parts = []
    for n, k, pad, dilation in zip(
        shapes[layer.bottom[0]][1:],
        windows.kernel,
        windows.pad,
        windows.dilation,
        strict=True,
    ):
        met = {i * dilation - pad: i for i in range(k)}
        taps = [met[pixel] for pixel in range(n) if pixel in met]
        if len(taps) < n:
            return None
        parts.append(slice(taps[0], taps[-1] + 1))
    rows, columns = parts
    return Kernel((windows.kernel[0], windows.kernel[1]), rows, columns)


def _windows(layer: Any, shapes: Shapes) -> Any | None:
    """Return the windows of a convolution that sees all channels of its bottom."""
    if layer.type != "Convolution" or layer.convolution_param.group != 1:
        return None
    shape = shapes.get(layer.bottom[0], ())
    if len(shape) != 3 or layer.top[0] not in shapes:
        return None
    try:
        return convolution_windows(layer, shape[1:])
    except NetError:
        return None


def _product(layer: Any, bottom: str, top: str) -> list[Any]:
    """Make an InnerProduct of a convolution, and a Reshape for the axes of its top."""
    p = layer.convolution_param
    vector = f"{top}@product"
    product = LayerParameter(
        name=layer.name, type="InnerProduct", bottom=[bottom], top=[vector]
    )
    product.inner_product_param.num_output = p.num_output
    product.inner_product_param.bias_term = p.bias_term
    reshape = LayerParameter(
        name=f"{layer.name}@map", type="Reshape", bottom=[vector], top=[top]
    )
    reshape.reshape_param.shape.dim.extend([0, p.num_output, 1, 1])
    return [product, reshape]


def _changed(layer: Any, bottom: str, top: str) -> Any:
    """Copy a layer, with another bottom and another top."""
    copy = LayerParameter.FromString(layer.SerializeToString())
    copy.bottom[:], copy.top[:] = [bottom], [top]
    return copy
