"""Where values lie in a file: the numbers that HDF5 gave, checked before they are used.

A file may come from anywhere, so all values have to lie in the file itself and to take
no more memory than it has bytes. The process that opens the file checks its
own numbers (`fishing.store.index`); the one that reads the values checks them again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fishing.store.format import MAX_CHUNK, MAX_ROWS, MAX_WIDTH
from fishing.store.values import DEFLATE, SHUFFLE, ChunkedValues, OpenFile, PlainValues

#: What an index that is none may raise where it is used.
BAD_INDEX = (LookupError, TypeError, ValueError, AttributeError, RuntimeError)
_TYPES = ("<f2", "<f4", "|i1", "<i8")
_PIPELINES: tuple[list[int], ...] = ([], [DEFLATE], [SHUFFLE, DEFLATE])


def open_values(
    file: OpenFile, name: str, form: Mapping[str, Any], place: Mapping[str, Any]
) -> PlainValues:
    """Open a dataset by what its index says.

    Parameters
    ----------
    file : OpenFile
    name, form, place
        As `check_place` has them.

    Raises
    ------
    BAD_INDEX
        If the values do not lie in the file.
    """
    check_place(name, form, place, file.size)
    dtype, shape = np.dtype(form["dtype"]), tuple(form["shape"])
    if "offset" in place:
        return PlainValues(file, dtype, shape, place["offset"])
    return ChunkedValues(file, dtype, shape, place)


def check_place(
    name: str, form: Mapping[str, Any], place: Mapping[str, Any], file_size: int
) -> None:
    """Check type and shape of a dataset, and that all its values lie in the file.

    Parameters
    ----------
    name : str
        Of the dataset.
    form : mapping
        ``dtype`` as numpy writes it, and ``shape``, a list.
    place : mapping
        ``offset`` of the first value, or ``chunks`` (the shape of a chunk), ``filters``
        (the numbers of HDF5's filters) and ``table``, a row for each chunk: its place
        in the dataset, offset, size and mask of the filters that were left out.
    file_size : int
        Bytes of the file.

    Raises
    ------
    ValueError
    """
    check_form(name, form)
    shape, item_bytes = form["shape"], np.dtype(form["dtype"]).itemsize
    if "offset" not in place:
        if place["filters"] not in _PIPELINES:
            raise ValueError(f"values behind filters {place['filters']} in {name}")
        if not _is_whole(shape, item_bytes, place, file_size):
            raise ValueError(f"no values, or such that lie elsewhere, in {name}")
        return
    offset, n_bytes = place["offset"], math.prod(shape) * item_bytes
    if not _are_sizes([offset], 1, 1) or offset + n_bytes > file_size:
        raise ValueError(f"values beyond the end of the file in {name}")


def check_form(name: str, form: Mapping[str, Any]) -> None:
    """Check type and shape of a dataset alone."""
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

    One that is missing would read as zeros, which cost nothing: any size would do.
    """
    chunks, filters, table = (place[key] for key in ("chunks", "filters", "table"))
    n_axes = len(shape)
    if (
        not _are_sizes(chunks, n_axes, n_axes)
        or not 0 < math.prod(chunks) * item_bytes <= MAX_CHUNK
    ):
        return False
    if len(table) != n_chunks(shape, chunks) or not all(
        _are_sizes(row, n_axes + 3, n_axes + 3) for row in table
    ):
        return False
    axes = zip(shape, chunks, strict=True)
    # Where zlib makes a chunk larger, it does so by a few bytes.
    n_bytes = math.prod(chunks) * item_bytes
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
    """Tell whether a list holds so many numbers, none of them negative."""
    return (
        isinstance(values, list)
        and least <= len(values) <= most
        and all(type(value) is int and value >= 0 for value in values)
    )
