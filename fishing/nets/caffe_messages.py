"""The messages of Caffe's files as protobuf classes, and upgrades of old layers.

``caffe.proto`` describes the messages, and ``caffe.desc`` is its compiled form. They
live in a descriptor pool of their own, because pycaffe registers messages of the same
names in protobuf's default pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.unknown_fields import UnknownFieldSet

_POOL = descriptor_pool.DescriptorPool()


_COMPILED = Path(__file__).with_name("caffe.desc").read_bytes()
for _file in descriptor_pb2.FileDescriptorSet.FromString(_COMPILED).file:
    _POOL.Add(_file)


def _message(name: str) -> Any:
    descriptor = _POOL.FindMessageTypeByName(f"caffe.{name}")
    return message_factory.GetMessageClass(descriptor)


NetParameter = _message("NetParameter")
LayerParameter = _message("LayerParameter")
V1LayerParameter = _message("V1LayerParameter")
BlobProto = _message("BlobProto")
# These classes hold the enums that are used, such as `PoolingParameter.AVE`.
EltwiseParameter = _message("EltwiseParameter")
LossParameter = _message("LossParameter")
LRNParameter = _message("LRNParameter")
PoolingParameter = _message("PoolingParameter")
TEST = _POOL.FindEnumTypeByName("caffe.Phase").values_by_name["TEST"].number

# The V1 types that are more than today's in capitals, as INNER_PRODUCT is InnerProduct.
_V1_TYPES = {
    "ABSVAL": "AbsVal",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "LRN": "LRN",
    "MVN": "MVN",
    "RELU": "ReLU",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "TANH": "TanH",
}


def upgrade_layers(net: Any) -> None:
    """Turn the ``layers`` of a net into ``layer``, as Caffe itself does.

    A ValueError refuses layers in the format of 2013, and a net that has both ``layer``
    and ``layers``.
    """
    if net.layers and net.layer:
        raise ValueError("both 'layer' and 'layers'")
    for old in net.layers:
        _add_upgraded(net, old)
    net.ClearField("layers")


def upgrade_inputs(net: Any) -> None:
    """Turn ``input``, ``input_shape`` and ``input_dim`` into layers of type ``Input``.

    A ValueError refuses inputs without a shape and shapes without an input.
    """
    dims = list(net.input_dim)
    shapes = [list(shape.dim) for shape in net.input_shape]
    shapes += [dims[i : i + 4] for i in range(0, len(dims), 4)]
    names = list(net.input)
    if len(names) != len(shapes):
        raise ValueError(f"{len(names)} inputs with {len(shapes)} shapes")
    if not names:
        return
    inputs = [LayerParameter(name=name, type="Input", top=[name]) for name in names]
    for layer, dim in zip(inputs, shapes, strict=True):
        layer.input_param.shape.add(dim=dim)
    set_layers(net, [*inputs, *net.layer])
    for field in ("input", "input_shape", "input_dim"):
        net.ClearField(field)


def set_layers(net: Any, layers: list[Any]) -> None:
    """Replace the layers of a net by copies of `layers`, which may be its own."""
    copies = [LayerParameter.FromString(layer.SerializeToString()) for layer in layers]
    del net.layer[:]
    net.layer.extend(copies)


def not_finite(message: Any) -> Iterator[str]:
    """List the fields that are NaN or infinite, in a message and those within it."""
    for path, part in _parts(message):
        for field, value in part.ListFields():
            is_float = field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE)
            if is_float and not np.isfinite(value).all():
                yield f"{path}{field.name}"


def strangers(message: Any) -> Iterator[str]:
    """List the fields that Caffe does not know, by number: ``pooling_param.#14``."""
    for path, part in _parts(message):
        for unknown in UnknownFieldSet(part):
            yield f"{path}#{unknown.field_number}"


def garbled(message: Any) -> Iterator[str]:
    """List the texts that are not UTF-8, which protobuf returns as bytes."""
    for path, part in _parts(message):
        for field, value in part.ListFields():
            if field.type == field.TYPE_STRING:
                texts = [value] if isinstance(value, (str, bytes)) else value
                if any(isinstance(text, bytes) for text in texts):
                    yield f"{path}{field.name}"


def readable(text: str | bytes) -> str:
    """Decode a text as far as it is UTF-8."""
    return text if isinstance(text, str) else text.decode(errors="replace")


def _parts(message: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Walk a message and those within it, with the path of each."""
    yield path, message
    for field, value in message.ListFields():
        if field.message_type is not None:
            is_one = hasattr(value, "ListFields")
            for part in [value] if is_one else value:
                yield from _parts(part, f"{path}{field.name}.")


def _add_upgraded(net: Any, old: Any) -> None:
    """Add a V1 layer as a layer of today, without what only training needs."""
    if old.HasField("layer"):
        raise ValueError("layers in the format of 2013")
    name = V1LayerParameter.LayerType.Name(old.type)
    words = "".join(word.capitalize() for word in name.split("_"))
    new = net.layer.add(type=_V1_TYPES.get(name, words))
    kept = set(LayerParameter.DESCRIPTOR.fields_by_name) - {"type", "param"}
    for field, value in old.ListFields():
        if field.name not in kept:
            continue
        if isinstance(value, (str, bytes)):
            setattr(new, field.name, readable(value))
        else:
            getattr(new, field.name).MergeFrom(value)
    for shared in old.param:
        new.param.add(name=readable(shared))
