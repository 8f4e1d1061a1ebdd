"""The chunks of a dataset, looked at before HDF5 unpacks them: each a ValueError.

HDF5 trusts a chunk to unpack to its size. For a shorter one it hands out what lies
behind it in memory, or crashes, and a longer one takes any amount of memory.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Sequence
from typing import Any

_MAX_VALUES = 2**22
_DEFLATE, _SHUFFLE, _LZF = 1, 2, 32000
_PIPELINES = ((), (_DEFLATE,), (_SHUFFLE, _DEFLATE), (_LZF,), (_SHUFFLE, _LZF))


def check_chunks(dataset: Any, file_size: int) -> None:
    """Hold the chunks of a dataset to be all there, each once and in its place.

    One that is missing would read as zeros, at no cost.

    Parameters
    ----------
    dataset : h5py.Dataset
        Of one or two axes, in chunks.
    file_size : int
        Of the file, in bytes.
    """
    name = dataset.name
    n_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    filters = _filters(dataset)
    kinds = tuple(kind for kind, _ in filters)
    parameters = {_SHUFFLE: (dataset.dtype.itemsize,), _LZF: (n_bytes,)}
    if kinds not in _PIPELINES or any(
        kind in parameters and found[-1:] != parameters[kind] for kind, found in filters
    ):
        raise ValueError(f"values behind filters {filters} in {name}")
    axes = list(zip(dataset.shape, dataset.chunks, strict=True))
    expected = math.prod(-(-length // chunk) for length, chunk in axes)
    is_there = (
        math.prod(dataset.chunks) <= _MAX_VALUES
        and dataset.id.get_num_chunks() == expected
    )
    if is_there and expected:
        found: list[Any] = []
        dataset.id.chunk_iter(found.append)
        places = set(itertools.product(*(range(0, *axis) for axis in axes)))
        is_there = {info.chunk_offset for info in found} == places and all(
            info.byte_offset + info.size <= file_size
            and (
                info.size <= 2 * n_bytes + 64
                if _are_applied(kinds, info.filter_mask, {_DEFLATE, _LZF})
                else info.size == n_bytes
            )
            for info in found
        )
        is_there &= sum(info.size for info in found) <= file_size
    if not is_there:
        raise ValueError(f"no values, or such that lie elsewhere, in {name}")


def check_filled(dataset: Any, key: Any, filled: set[tuple[int, ...]]) -> None:
    """Hold chunks to unpack to their size, those that a key asks for.

    Parameters
    ----------
    dataset : h5py.Dataset
        That came through `check_chunks`.
    key : slice, tuple of slices, or anything else that slices a dataset
        Of anything else, all chunks are looked at.
    filled : set of tuple of int
        Chunks that were looked at before, by their places; those of the key are added.
    """
    chunks = dataset.chunks
    if chunks is None or not dataset.size:
        return
    kinds = tuple(kind for kind, _ in _filters(dataset))
    if _DEFLATE not in kinds:
        return
    n_bytes = math.prod(chunks) * dataset.dtype.itemsize
    asked = _slices(dataset.shape, key)
    if any(part.start >= part.stop for part in asked):
        return
    for piece in dataset.iter_chunks(asked):
        place = tuple(
            part.start // side * side for part, side in zip(piece, chunks, strict=True)
        )
        if place in filled:
            continue
        mask, packed = dataset.id.read_direct_chunk(place)
        if (
            _are_applied(kinds, mask, {_DEFLATE})
            and _unpacked_size(packed, n_bytes + 1) != n_bytes
        ):
            raise ValueError(f"a chunk of another size at {place} in {dataset.name}")
        filled.add(place)


def _filters(dataset: Any) -> list[tuple[int, tuple[int, ...]]]:
    """List the filters of a dataset and their parameters."""
    plist = dataset.id.get_create_plist()
    found = (plist.get_filter(i) for i in range(plist.get_nfilters()))
    return [(kind, values) for kind, _, values, _ in found]


def _are_applied(kinds: Sequence[int], mask: int, which: set[int]) -> bool:
    """Tell whether a chunk went through certain filters: a bit each says that not."""
    return any(
        kind in which and not mask >> place & 1 for place, kind in enumerate(kinds)
    )


def _slices(shape: tuple[int, ...], key: Any) -> tuple[slice, ...]:
    """Say which rows and columns a key asks for, at least."""
    keys = key if isinstance(key, tuple) else (key,)
    if len(keys) > len(shape) or not all(isinstance(k, slice) for k in keys):
        keys = ()
    rest = (slice(None),) * (len(shape) - len(keys))
    return tuple(
        slice(*k.indices(length)[:2])
        for k, length in zip((*keys, *rest), shape, strict=True)
    )


def _unpacked_size(packed: bytes, most: int) -> int:
    """Unpack a chunk and count its bytes, up to `most`."""
    try:
        return len(zlib.decompressobj().decompress(packed, most))
    except zlib.error:
        return -1
