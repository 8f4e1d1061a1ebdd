"""Caffemodels without Caffe: protobuf's binary format.

In go the bytes of a message, out comes a `Message`. Numbers by the million stay where
they are: repeated floats become arrays that look into the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.nets.caffe_schema import (
    ENUMS,
    MESSAGES,
    Field,
    Message,
    Tally,
    in_range,
)

# Wire types: what follows the tag of a field.
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_WIRE = {
    "int": _VARINT,
    "long": _VARINT,
    "bool": _VARINT,
    "float": _FIXED32,
    "double": _FIXED64,
}
_DTYPES: dict[str, np.dtype[Any]] = {
    "float": np.dtype("<f4"),
    "double": np.dtype("<f8"),
}


def parse_binary(data: memoryview, kind: str = "NetParameter") -> Message:
    """Read a message in protobuf's binary format.

    Parameters
    ----------
    data : memoryview of bytes
        Must stay as it is for as long as the arrays of the message are in use.
    kind : str
        One of `MESSAGES`.

    Returns
    -------
    Message
        Repeated fields of type ``float`` and ``double`` are arrays of that type, others
        lists.

    Raises
    ------
    ValueError
        If the bytes are no such message.
    """
    return _message(data, kind, Tally())


def _message(data: memoryview, kind: str, tally: Tally) -> Message:
    """Read a message, and those within it."""
    message = Message(kind)
    pieces: dict[str, list[NDArray[Any]]] = {}
    names = {field.number: name for name, field in MESSAGES[kind].items()}
    place = 0
    while place < len(data):
        start = place
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        content, place = _content(data, place, wire)
        tally.add()
        name = names.get(number)
        if name is None:
            message.unknown.append(f"#{number}")
            continue
        field = MESSAGES[kind][name]
        if field.kind == "ignored":
            message.fields[name] = None
        elif field.many and field.kind in _DTYPES:
            if wire != _LENGTH:
                content, place = _run(data, start, place)
            _check_wire(wire, (_LENGTH, _WIRE[field.kind]), name)
            pieces.setdefault(name, []).append(_array(content, field.kind))
        elif field.many:
            values = _values(content, wire, field, name, tally)
            message.fields.setdefault(name, []).extend(values)
        else:
            (value,) = _values(content, wire, field, name, tally)
            message.fields[name] = value
    for name, arrays in pieces.items():
        message.fields[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return message


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Read a number of 7 bits to the byte, the lowest first, and where it ends."""
    value = shift = 0
    while shift < 64:
        if place >= len(data):
            raise ValueError("a file that ends too early")
        byte = data[place]
        value |= (byte & 127) << shift
        place += 1
        if byte < 128:
            return value, place
        shift += 7
    raise ValueError("a number of more than 64 bits")


def _content(data: memoryview, place: int, wire: int) -> tuple[Any, int]:
    """Read what follows a tag, a number or a stretch of bytes, and where it ends."""
    if wire == _VARINT:
        return _varint(data, place)
    if wire == _LENGTH:
        length, place = _varint(data, place)
    elif wire in (_FIXED32, _FIXED64):
        length = 4 if wire == _FIXED32 else 8
    else:
        raise ValueError(f"a field of wire type {wire}")
    if length > len(data) - place:
        raise ValueError("a file that ends too early")
    return data[place : place + length], place + length


def _run(data: memoryview, start: int, end: int) -> tuple[NDArray[np.uint8], int]:
    """Gather the numbers of a field that is not packed: tag, number, tag, number."""
    stride = end - start
    size = stride - stride % 4  # the number alone, without its tag
    tag = np.frombuffer(data[start : end - size], np.uint8)
    rest = np.frombuffer(data[start:], np.uint8)
    rows = rest[: len(rest) - len(rest) % stride].reshape(-1, stride)
    n, ahead = 1, 64
    # Further and further ahead: a look at all the rest for each run would take forever.
    while n < len(rows):
        is_same = (rows[n : n + ahead, : len(tag)] == tag).all(axis=1)
        n += len(is_same) if is_same.all() else int(is_same.argmin())
        if not is_same.all():
            break
        ahead *= 2
    return np.ascontiguousarray(rows[:n, len(tag) :]), start + n * stride


def _array(content: Any, kind: str) -> NDArray[Any]:
    dtype = _DTYPES[kind]
    size = content.nbytes
    if size % dtype.itemsize:
        raise ValueError(f"{size} bytes in place of numbers of {dtype.itemsize}")
    return np.frombuffer(content, dtype)


def _values(
    content: Any, wire: int, field: Field, name: str, tally: Tally
) -> Iterator[Any]:
    """Read the value of a field, or the values of a packed one."""
    if field.kind == "string":
        _check_wire(wire, (_LENGTH,), name)
        yield bytes(content).decode("utf-8", errors="replace")
    elif field.kind in MESSAGES:
        _check_wire(wire, (_LENGTH,), name)
        yield _message(content, field.kind, tally)
    elif field.kind in _DTYPES:
        _check_wire(wire, (_WIRE[field.kind],), name)
        yield float(_array(content, field.kind)[0])
    else:
        _check_wire(wire, (_LENGTH, _VARINT) if field.many else (_VARINT,), name)
        if wire == _VARINT:
            yield _scalar(content, field.kind)
            return
        place = 0
        while place < len(content):
            value, place = _varint(content, place)
            tally.add()
            yield _scalar(value, field.kind)


def _scalar(value: int, kind: str) -> Any:
    if kind == "bool":
        return bool(value)
    if kind in ENUMS:
        names = {number: name for name, number in ENUMS[kind].items()}
        return names.get(value, f"{kind} {value}")
    signed = value - 2**64 if value >= 2**63 else value  # two's complement
    return in_range(signed, kind)


def _check_wire(found: int, expected: tuple[int, ...], name: str) -> None:
    if found not in expected:
        raise ValueError(f"'{name}' of wire type {found}")
