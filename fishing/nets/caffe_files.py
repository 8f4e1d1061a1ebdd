"""Nets and weights from Caffe's files, without Caffe.

In goes the path of a prototxt or of a caffemodel, out come the net as a `Message` and
the parameters as arrays.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import NetError
from fishing.files import read_at_most
from fishing.nets.caffe_binary import parse_binary
from fishing.nets.caffe_schema import Message, upgrade
from fishing.nets.caffe_text import parse_text

LayerWeights = dict[str, list[NDArray[np.float32]]]

# No net comes near it; without its weights, that is.
MAX_NET_BYTES = 2**24


def read_net(prototxt: Path) -> Message:
    """Read a net in the text or the binary format, of V1 or of current layers.

    Parameters
    ----------
    prototxt : Path

    Returns
    -------
    Message
        A ``NetParameter`` with the layers of the TEST phase, all in ``layer``, and its
        inputs in layers of type ``Input``.

    Raises
    ------
    NetError
        If it is no net, or in the format of 2013.
    """
    try:
        content = read_at_most(prototxt, MAX_NET_BYTES)
        is_binary = bool(content.translate(None, delete=bytes(range(9, 256))))
        message = (
            parse_binary(memoryview(content))
            if is_binary
            else parse_text(content.decode("utf-8"))
        )
        net = _inputs_as_layers(upgrade(message))
    except (ValueError, OSError) as error:
        raise NetError(f"{prototxt}: expected a deploy net, found {error}") from None
    net.fields["layer"] = [layer for layer in net.layer if is_included(layer, net)]
    return net


def read_weights(caffemodel: Path) -> LayerWeights:
    """Read the parameters of all layers of a caffemodel, of V1 or of current layers.

    The file is mapped into memory, not read: an array looks into it until it is used,
    unless its numbers are not packed or of double precision.

    Parameters
    ----------
    caffemodel : Path

    Returns
    -------
    dict of str to list of ndarray of float32
        Arrays by the name of their layer, of the shapes that the file says; those of
        the format of before 2014 have four axes.

    Raises
    ------
    NetError
        If it is no caffemodel.
    """
    try:
        with caffemodel.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        net = upgrade(parse_binary(memoryview(data)))
        return {
            layer.name: [_array(blob) for blob in layer.blobs]
            for layer in net.layer
            if layer.blobs
        }
    except (ValueError, OSError) as error:
        raise NetError(f"{caffemodel}: expected a caffemodel, found {error}") from None


def fit_weights(
    caffemodel: Path,
    found: LayerWeights,
    expected: Mapping[str, Sequence[Sequence[int]]],
) -> LayerWeights:
    """Give the parameters of a net the shapes that the net expects.

    Leading axes of length 1 do not count, since files of before 2014 have four axes for
    everything.

    Parameters
    ----------
    caffemodel : Path
        For the message.
    found : dict of str to list of ndarray
        What `read_weights` gives.
    expected : mapping of str to shapes
        The shapes of each layer that has parameters.

    Returns
    -------
    dict of str to list of ndarray
        For the layers of `expected`, in its order.

    Raises
    ------
    NetError
        If a layer is missing, or has parameters of other shapes, or such that are not
        finite: pooling and ReLU may hide what becomes of those.
    """
    for name, wanted in expected.items():
        shapes = [list(array.shape) for array in found.get(name, ())]
        if [_squeezed(s) for s in shapes] != [_squeezed(s) for s in wanted]:
            raise NetError(
                f"{caffemodel}: expected parameters of shapes "
                f"{[list(shape) for shape in wanted]} for layer '{name}', found "
                f"{shapes or 'none'}"
            )
        if not all(_is_finite(array) for array in found[name]):
            raise NetError(
                f"{caffemodel}: expected finite parameters for layer '{name}', found "
                "NaN or infinity in them"
            )
    return {
        name: [a.reshape(s) for a, s in zip(found[name], shapes, strict=True)]
        for name, shapes in expected.items()
    }


def is_included(layer: Any, net: Any) -> bool:
    """Say whether a layer is in the net when it is tested.

    Parameters
    ----------
    layer, net : Message or google.protobuf message
    """
    if layer.include:
        return any(_meets(rule, net.state) for rule in layer.include)
    return not any(_meets(rule, net.state) for rule in layer.exclude)


def _meets(rule: Any, state: Any) -> bool:
    """Say whether the TEST phase, at the level and stages of a net, meets a rule."""
    stages = set(state.stage)
    return (
        (not rule.HasField("phase") or rule.phase in ("TEST", 1))
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and stages.issuperset(rule.stage)
        and stages.isdisjoint(rule.not_stage)
    )


def _inputs_as_layers(net: Message) -> Message:
    """Turn the old fields ``input``, ``input_shape`` and ``input_dim`` into layers."""
    dims = [net.fields.pop("input_dim", []), net.fields.pop("input_shape", [])]
    shapes = [shape.dim for shape in dims[1]]
    shapes += [dims[0][i : i + 4] for i in range(0, len(dims[0]), 4)]
    names = net.fields.pop("input", [])
    if len(names) != len(shapes):
        raise ValueError(f"{len(names)} inputs with {len(shapes)} shapes")
    for name, dim in zip(reversed(names), reversed(shapes), strict=True):
        shape = Message("BlobShape", dim=list(dim))
        parameter = Message("InputParameter", shape=[shape])
        layer = Message(
            "LayerParameter",
            name=name,
            type="Input",
            top=[name],
            input_param=parameter,
        )
        net.layer.insert(0, layer)
    return net


def _array(blob: Message) -> NDArray[np.float32]:
    """Read a BlobProto, of the current form or of the old one of 4 axes."""
    old = ("num", "channels", "height", "width")
    is_old = any(blob.HasField(name) for name in old)
    # A single number without axes comes without any of these fields.
    shape = [getattr(blob, name) for name in old] if is_old else list(blob.shape.dim)
    data = blob.data if len(blob.data) else blob.double_data
    if len(data) != math.prod(shape):
        raise ValueError(f"{len(data)} numbers for a parameter of shape {shape}")
    with np.errstate(over="ignore"):  # becomes infinite, which `fit_weights` finds
        return np.asarray(data, np.float32).reshape(shape)


def _is_finite(array: NDArray[np.float32]) -> bool:
    # Unlike isfinite, these need no second array.
    return bool(np.isfinite(array.min(initial=0)) and np.isfinite(array.max(initial=0)))


def _squeezed(shape: Sequence[int]) -> list[int]:
    """Drop leading ones: the old form pads every shape to 4 axes with them."""
    first = next((i for i, length in enumerate(shape) if length != 1), len(shape))
    return list(shape[first:])
