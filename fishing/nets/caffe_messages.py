"""The messages of Caffe's files as protobuf classes, and questions about any message.

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
V0LayerParameter = _message("V0LayerParameter")
BlobProto = _message("BlobProto")
# These classes hold the enums that are used, such as `PoolingParameter.AVE`.
EltwiseParameter = _message("EltwiseParameter")
LossParameter = _message("LossParameter")
LRNParameter = _message("LRNParameter")
PoolingParameter = _message("PoolingParameter")
TEST = _POOL.FindEnumTypeByName("caffe.Phase").values_by_name["TEST"].number


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
