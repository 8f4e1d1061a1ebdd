"""The values of a dataset, whose chunks are held to be whole: else a ValueError.

HDF5 trusts a chunk to unpack to its size. For a shorter one it hands out what lies
behind it in memory, or crashes, and a longer one takes any amount of memory. So what
zlib has packed is unpacked here.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fishing.processes import usable_cores

T = TypeVar("T")
U = TypeVar("U")

_MAX_VALUES = 2**22
_MAX_THREADS = 8  # each takes up addresses
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


def read_values(dataset: Any, key: Any = ()) -> NDArray[Any]:
    """Read a part of a dataset; what was deflated is unpacked here, to its size.

    Parameters
    ----------
    dataset : h5py.Dataset
        That came through `check_chunks`, or not in chunks.
    key : tuple of slices
        Of as many axes as there are, or fewer; without steps.
    """
    chunks = dataset.chunks
    if chunks is None or not dataset.size:
        values: NDArray[Any] = dataset[key]
        return values
    kinds = tuple(kind for kind, _ in _filters(dataset))
    if _DEFLATE not in kinds:
        return np.asarray(dataset[key])
    rest = (slice(None),) * (dataset.ndim - len(key))
    asked = tuple(
        slice(*part.indices(length)[:2])
        for part, length in zip((*key, *rest), dataset.shape, strict=True)
    )
    lengths = [max(part.stop - part.start, 0) for part in asked]
    values = np.empty(lengths, dataset.dtype)
    if not values.size:
        return values
    pieces = list(dataset.iter_chunks(asked))
    places = [
        tuple(p.start // side * side for p, side in zip(piece, chunks, strict=True))
        for piece in pieces
    ]
    packed = [dataset.id.read_direct_chunk(place) for place in places]
    unpack = partial(_unpack, dtype=dataset.dtype, shape=chunks, kinds=kinds)
    starts = [part.start for part in asked]
    try:
        unpacked = _map(unpack, packed)
        for piece, place, chunk in zip(pieces, places, unpacked, strict=True):
            values[_from(piece, starts)] = chunk[_from(piece, place)]
    except (ValueError, zlib.error):
        raise ValueError(f"a chunk of another size in {dataset.name}") from None
    return values


def _map(work: Callable[[T], U], items: Sequence[T]) -> Iterator[U]:
    """Map in threads, where the system allows them; zlib lets others compute."""
    try:
        return _threads().map(work, items)
    except RuntimeError:
        return map(work, items)


@cache
def _threads() -> ThreadPoolExecutor:
    """Threads that last: starting them takes longer than a chunk does."""
    return ThreadPoolExecutor(min(usable_cores(), _MAX_THREADS))


def _unpack(
    packed: tuple[int, bytes],
    *,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    kinds: Sequence[int],
) -> NDArray[Any]:
    """Undo the filters of a chunk, the last one first."""
    mask, content = packed
    n_bytes = math.prod(shape) * dtype.itemsize
    if _are_applied(kinds, mask, {_DEFLATE}):
        stream = zlib.decompressobj()
        content = stream.decompress(content, n_bytes + 1)
        if not stream.eof:  # its checksum was not reached
            raise ValueError("a stream without end")
    if len(content) != n_bytes:
        raise ValueError(f"{len(content)} bytes, not {n_bytes}")
    values = np.frombuffer(content, np.uint8)
    if _are_applied(kinds, mask, {_SHUFFLE}):
        # All first bytes, then all second ones, and so on.
        shuffled = values.reshape(dtype.itemsize, -1)
        values = np.empty(shuffled.T.shape, np.uint8)
        for i, part in enumerate(shuffled):
            values[:, i] = part
    unpacked: NDArray[Any] = values.reshape(-1).view(dtype).reshape(shape)
    return unpacked


def _from(piece: tuple[slice, ...], starts: Iterable[int]) -> tuple[slice, ...]:
    """Say where a piece lies in what starts elsewhere."""
    return tuple(
        slice(part.start - start, part.stop - start)
        for part, start in zip(piece, starts, strict=True)
    )


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
