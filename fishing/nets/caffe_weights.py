"""The parameters of a net from a caffemodel, without Caffe and without copying them.

protobuf would copy hundreds of megabytes twice. Therefore this module walks through the
few levels that lead to the numbers (net, layer, blob). The numbers become views of the
mapped file, and protobuf parses the rest of each message.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from fishing.errors import NetError
from fishing.file_kinds import found_instead
from fishing.files import read_at_most
from fishing.nets.caffe_messages import (
    BlobProto,
    LayerParameter,
    NetParameter,
    V0LayerParameter,
    V1LayerParameter,
    readable,
)

LayerWeights = dict[str, list[NDArray[np.float32]]]
_Pieces = list[tuple[str, memoryview]]  # contents of fields, by the names of these

#: The most bytes of a binary file that are not weights. The largest nets have a tenth
#: of it. An empty layer takes 3 bytes in a file and 700 in memory.
MOST_BYTES = 2**20
_MAX_MEAN_BYTES = 2**26

# Wire types: what follows the tag of a field.
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
# The numbers of a blob. Only training needs `diff` and `double_diff`; they are dropped.
_NUMBERS = {"data": "<f4", "double_data": "<f8", "diff": "<f4", "double_diff": "<f8"}
_UNPACKED = {"<f4": _FIXED32, "<f8": _FIXED64}


def read_weights(caffemodel: Path) -> LayerWeights:
    """Read the parameters of all layers of a caffemodel in any of Caffe's formats.

    The file is mapped into memory, not read. Arrays are views of it, except those whose
    numbers are not packed or are of double precision.

    Parameters
    ----------
    caffemodel : Path

    Returns
    -------
    dict of str to list of ndarray of float32
        Arrays by the name of their layer, in the shapes that the file gives. Files from
        before 2014 give four axes to all of them.

    Raises
    ------
    NetError
        If the file is not a caffemodel.

    Examples
    --------
    >>> from fishing.nets import load_net, weights_path
    >>> weights, bias = read_weights(weights_path(load_net("tinyalexnet")))["fc8"]
    >>> weights.shape, bias.shape
    ((200, 768), (200,))
    """
    try:
        walk = _Walk()
        net, blobs = walk.net(memoryview(_mapped(caffemodel)))
        if net.layer and net.layers:
            raise ValueError("both 'layer' and 'layers'")
        layers = [old.layer if old.HasField("layer") else old for old in net.layers]
        return {
            readable(layer.name): [walk.array(blob) for blob in of_layer]
            for layer, of_layer in zip([*net.layer, *layers], blobs, strict=True)
            if of_layer
        }
    except (ValueError, OSError) as error:
        found = found_instead(caffemodel) or error
        raise NetError(f"{caffemodel}: expected a caffemodel, found {found}") from None


def _mapped(path: Path) -> mmap.mmap | bytes:
    """Map a file, or read it where the file system maps none."""
    with path.open("rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError:
            return file.read()


def read_mean(source: str) -> tuple[float, ...]:
    """Read the mean that a net subtracts from its images.

    Parameters
    ----------
    source : str
        One number for each channel, such as ``104,117,123``, or the path of a mean
        image (``.binaryproto``), whose mean over all pixels is taken.

    Returns
    -------
    tuple of float
        Values from 0 to 255.

    Raises
    ------
    NetError
        If it is neither, or a value is not from 0 to 255.

    Examples
    --------
    >>> read_mean("104,117,123")
    (104.0, 117.0, 123.0)
    """
    try:
        if re.fullmatch(r"[\d.\s,]+", source):
            found = tuple(float(value) for value in source.split(","))
        else:
            content = read_at_most(Path(source), _MAX_MEAN_BYTES)
            image = _Walk().array(memoryview(content))
            channels = image.reshape(*image.shape[-3:])
            found = tuple(map(float, channels.mean((1, 2), np.float64)))
        if not all(0 <= value <= 255 for value in found):
            raise ValueError(f"values such as {max(found, key=abs):g}")
    except (ValueError, OSError) as error:
        raise NetError(
            "expected a mean as numbers from 0 to 255 (104,117,123), or a mean image "
            f"(.binaryproto), found {source!r}: {error}"
        ) from None
    return found


def fit_weights(
    caffemodel: Path,
    found: LayerWeights,
    expected: Mapping[str, Sequence[Sequence[int]]],
) -> LayerWeights:
    """Give the parameters of a net the shapes that the net expects.

    Leading axes of length 1 do not count, since files from before 2014 give four axes
    to every parameter.

    Parameters
    ----------
    caffemodel : Path
        Named in messages.
    found : dict of str to list of ndarray
        What `read_weights` returns.
    expected : mapping of str to shapes
        The shapes of each layer that has parameters.

    Returns
    -------
    dict of str to list of ndarray
        The layers of `expected`, in its order.

    Raises
    ------
    NetError
        If a layer is missing, or has parameters of other shapes or parameters that are
        not finite, whose effect pooling and ReLU may hide.
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


def parse_binary(content: bytes) -> Any:
    """Parse a net in protobuf's binary format, without the blobs of its layers.

    A ValueError says that the bytes are not a net, or that more than `MOST_BYTES` of
    them are not weights.
    """
    return _Walk().net(memoryview(content))[0]


class _Walk:
    """Walks through the messages of one file, and counts the bytes beside weights."""

    def __init__(self) -> None:
        self._n_bytes = 0

    def net(self, data: memoryview) -> tuple[Any, list[list[memoryview]]]:
        """Parse a net without its blobs, and find the blobs of each layer."""
        net, layers = self._split(data, NetParameter, ("layer", "layers"))
        blobs = []
        for name, content in layers:
            if name == "layer":
                layer, found = self._split(content, LayerParameter, ("blobs",))
            else:
                layer, found = self._old_layer(content)
            getattr(net, name).append(layer)
            blobs.append([blob for _, blob in found])
        return net, blobs

    def _old_layer(self, content: memoryview) -> tuple[Any, _Pieces]:
        """Parse a V1 layer, or one of 2013, whose inner layer holds the blobs."""
        layer, found = self._split(content, V1LayerParameter, ("blobs", "layer"))
        blobs = [piece for piece in found if piece[0] == "blobs"]
        for name, inner in found:
            if name == "layer":
                settings, blobs = self._split(inner, V0LayerParameter, ("blobs",))
                layer.layer.MergeFrom(settings)
                layer.layer.SetInParent()
        return layer, blobs

    def array(self, blob: memoryview) -> NDArray[np.float32]:
        """Read a BlobProto, whose shape is of the current form or of four axes."""
        message, pieces = self._split(blob, BlobProto, tuple(_NUMBERS))
        old = ("num", "channels", "height", "width")
        is_old = any(message.HasField(name) for name in old)
        # A single number without axes has none of these fields.
        shape = [getattr(message, n) for n in old] if is_old else message.shape.dim
        data = _joined(pieces, "data")
        data = data if len(data) else _joined(pieces, "double_data")
        if len(data) != math.prod(shape):
            raise ValueError(
                f"{len(data)} numbers for a parameter of shape {list(shape)}"
            )
        with np.errstate(over="ignore"):  # becomes infinite, which `fit_weights` finds
            return np.asarray(data, np.float32).reshape(shape)

    def _split(
        self, data: memoryview, kind: Any, names: tuple[str, ...]
    ) -> tuple[Any, _Pieces]:
        """Take the fields of some names out of a message, and parse the rest."""
        numbers = {kind.DESCRIPTOR.fields_by_name[n].number: n for n in names}
        left, taken, place = bytearray(), [], 0
        while place < len(data):
            start = place
            tag, place = _varint(data, place)
            length, place = _length(data, place, tag & 7)
            end = place + length
            if end > len(data):
                raise ValueError("a file that ends too early")
            name = numbers.get(tag >> 3)
            if name is None:
                self._count(end - start)
                left += data[start:end]
            elif tag & 7 == _LENGTH:
                self._count(place - start)
                taken.append((name, data[place:end]))
            elif tag & 7 == _UNPACKED.get(_NUMBERS.get(name, "")):
                # Numbers with a tag each: protobuf writes them packed.
                packed = _parsed(kind, data).SerializeToString()
                return self._split(memoryview(packed), kind, names)
            else:
                raise ValueError(f"'{name}' of wire type {tag & 7}")
            place = end
        return _parsed(kind, left), taken

    def _count(self, n_bytes: int) -> None:
        self._n_bytes += n_bytes
        if self._n_bytes > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes that are no weights")


def _parsed(kind: Any, content: bytes | bytearray | memoryview) -> Any:
    """Parse a message with protobuf."""
    try:
        return kind.FromString(bytes(content))
    except DecodeError as error:
        raise ValueError(str(error)) from None


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Read a number of 7 bits a byte, the lowest first, and find where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if place == len(data):
            raise ValueError("a file that ends too early")
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number of more than 64 bits")


def _length(data: memoryview, place: int, wire: int) -> tuple[int, int]:
    """Find how many bytes the content of a field has, and where it begins."""
    if wire == _VARINT:
        return _varint(data, place)[1] - place, place
    if wire == _LENGTH:
        return _varint(data, place)
    if wire in (_FIXED32, _FIXED64):
        return 4 if wire == _FIXED32 else 8, place
    raise ValueError(f"a field of wire type {wire}")


def _joined(pieces: _Pieces, name: str) -> NDArray[Any]:
    """Join the numbers of one field; those of a single piece stay where they are."""
    dtype = np.dtype(_NUMBERS[name])
    arrays = []
    for found, content in pieces:
        if found != name or not content.nbytes:
            continue
        if content.nbytes % dtype.itemsize:
            raise ValueError(
                f"{content.nbytes} bytes in place of numbers of {dtype.itemsize}"
            )
        arrays.append(np.frombuffer(content, dtype))
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate([np.empty(0, dtype), *arrays])


def _is_finite(array: NDArray[np.float32]) -> bool:
    # Unlike isfinite, these need no second array.
    return bool(np.isfinite(array.min(initial=0)) and np.isfinite(array.max(initial=0)))


def _squeezed(shape: Sequence[int]) -> list[int]:
    """Drop the leading ones, with which the old form fills up every shape to 4 axes."""
    first = next((i for i, length in enumerate(shape) if length != 1), len(shape))
    return list(shape[first:])
