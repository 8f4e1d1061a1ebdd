"""Checks where HDF5 says that values lie in a file, before they are read from there.

A file may come from anywhere, so all values have to lie within it. The process that
opens the file checks the numbers (`fishing.store.index`); the process that reads the
values checks them again, since damage may have led the other one astray.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fishing.store.format import MAX_CHUNK, MAX_ROWS, MAX_WIDTH
from fishing.store.values import DEFLATE, SHUFFLE, ChunkedValues, OpenFile, PlainValues

#: What the use of a malformed index may raise.
BAD_INDEX = (LookupError, TypeError, ValueError, AttributeError, RuntimeError)
_TYPES = ("<f2", "<f4", "|i1", "|u1", "<i8")
_PIPELINES: tuple[list[int], ...] = ([], [DEFLATE], [SHUFFLE, DEFLATE])


def open_values(
    file: OpenFile, name: str, form: Mapping[str, Any], place: Mapping[str, Any]
) -> PlainValues:
    """Check what the index says of a dataset, and open it.

    Raises one of `BAD_INDEX` if the values do not lie in the file.
    """
    check_form(name, form)
    check_place(name, form, place, file.size)
    dtype, shape = np.dtype(form["dtype"]), tuple(form["shape"])
    if "offset" in place:
        return PlainValues(file, dtype, shape, place["offset"])
    return ChunkedValues(file, dtype, shape, place)


def check_place(
    name: str, form: Mapping[str, Any], place: Mapping[str, Any], file_size: int
) -> None:
    """Check that all values of a dataset, whose form is checked, lie in the file.

    `place` has the ``offset`` of the first value, or ``chunks`` (the shape of a chunk),
    ``filters`` (HDF5's numbers) and ``table``, a row for each chunk: its place in the
    dataset, offset, size, and the mask of the filters that were left out. Raises
    ValueError if they do not fit.
    """
    shape, item_bytes = form["shape"], np.dtype(form["dtype"]).itemsize
    if "offset" not in place:
        if place["filters"] not in _PIPELINES:
            raise ValueError(f"values behind filters {place['filters']} in {name}")
        if not _is_whole(shape, item_bytes, place, file_size):
            raise ValueError(f"no values, or values that lie elsewhere, in {name}")
        return
    offset, n_bytes = place["offset"], math.prod(shape) * item_bytes
    if not _are_sizes([offset], 1, 1) or offset + n_bytes > file_size:
        raise ValueError(f"values beyond the end of the file in {name}")


def check_form(name: str, form: Mapping[str, Any]) -> None:
    """Check ``dtype``, as numpy writes it, and ``shape``, a list; raise ValueError."""
    dtype, shape = np.dtype(form["dtype"]), form["shape"]
    is_text = dtype.kind == "S" and dtype.itemsize
    if dtype.str not in _TYPES and not is_text:
        raise ValueError(f"values of type {dtype} in {name}")
    if (
        not _are_sizes(shape, 1, 2)
        or shape[0] > MAX_ROWS
        or not 1 <= math.prod(shape[1:]) <= MAX_WIDTH
    ):
        found = tuple(shape) if isinstance(shape, list) else shape
        raise ValueError(f"a shape of {found} in {name}")


def n_chunks(shape: Sequence[int], chunks: Sequence[int]) -> int:
    """Count the chunks that a dataset of a shape is cut into."""
    return math.prod(
        -(-length // side) for length, side in zip(shape, chunks, strict=True)
    )


def _is_whole(
    shape: Sequence[int], item_bytes: int, place: Mapping[str, Any], file_size: int
) -> bool:
    """Tell whether all chunks are there, each once, in its place and in the file.

    HDF5 reads a missing chunk as zeros, so a tiny file could claim any size.
    """
    chunks, filters, table = (place[key] for key in ("chunks", "filters", "table"))
    n_axes = len(shape)
    if not _are_sizes(chunks, n_axes, n_axes):
        return False
    n_bytes = math.prod(chunks) * item_bytes
    if not 0 < n_bytes <= MAX_CHUNK or len(table) != n_chunks(shape, chunks):
        return False
    if not all(_are_sizes(row, n_axes + 3, n_axes + 3) for row in table):
        return False
    axes = zip(shape, chunks, strict=True)
    # zlib may make a chunk that it cannot compress larger, by a few bytes.
    deflate = 1 << filters.index(DEFLATE) if DEFLATE in filters else 0
    return (
        {tuple(row[:n_axes]) for row in table}
        == set(itertools.product(*(range(0, *axis) for axis in axes)))
        and all(
            offset + size <= file_size
            and (size <= 2 * n_bytes + 64 if deflate & ~mask else size == n_bytes)
            for offset, size, mask in (row[n_axes:] for row in table)
        )
        and sum(row[n_axes + 1] for row in table) <= file_size
    )


def _are_sizes(values: Any, least: int, most: int) -> bool:
    """Tell whether a list holds `least` to `most` integers, none of them negative."""
    return (
        isinstance(values, list)
        and least <= len(values) <= most
        and all(type(value) is int and value >= 0 for value in values)
    )
