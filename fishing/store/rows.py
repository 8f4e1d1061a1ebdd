"""Rows of a blob, which are read from a file when they are sliced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fishing.errors import StoreError, one_line
from fishing.store.quantise import unpack
from fishing.store.values import PlainValues

#: How many rows are read or computed at once, and the rows of a compressed chunk.
BLOCK_ROWS = 256


def row_blocks(n: int) -> Iterator[slice]:
    """Cut n rows into blocks of `BLOCK_ROWS`, of which the last may be smaller.

    Examples
    --------
    >>> list(row_blocks(300))
    [slice(0, 256, None), slice(256, 300, None)]
    """
    return (slice(i, min(i + BLOCK_ROWS, n)) for i in range(0, n, BLOCK_ROWS))


class Rows(Protocol):
    """Anything that can be sliced like an array of shape (n, d)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        ...

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Read a part."""
        ...


class SlicedRows(ABC):
    """Rows of float32 that can be indexed as an array, given a way to read blocks."""

    dtype: np.dtype[Any] = np.dtype(np.float32)
    ndim = 2
    shape: tuple[int, ...]

    @abstractmethod
    def _read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Read a block, by slices without steps."""

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read all rows; without this, numpy would make an array of one object."""
        if copy is False:
            raise ValueError(
                "expected to copy rows out of their file, found copy=False"
            )
        return self[:].astype(dtype or self.dtype, copy=False)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for block in row_blocks(len(self)):
            yield from self[block]

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        keys = key if isinstance(key, tuple) else (key,)
        row_key, column_key, *more = (*keys, slice(None), slice(None))
        found: NDArray[np.float32]
        every = slice(None)
        if len(more) > 2 or not _names_rows(row_key):  # numpy knows what it means
            found = self._read(every, every)[key]
            return found
        columns = every
        if isinstance(column_key, slice) and column_key.step in (None, 1):
            columns, column_key = column_key, every
        if isinstance(row_key, slice) and row_key.step in (None, 1):
            found = self._read(row_key, columns)[:, column_key]
            return found
        rows = self._places(row_key)
        taken = self._take(np.ravel(rows), columns)
        place = every if isinstance(row_key, slice) else np.arange(rows.size)
        found = taken[place if rows.ndim else 0, column_key]
        return found

    def _places(self, key: Any) -> NDArray[np.intp]:
        """Return the places that a key names, without negative ones."""
        n = len(self)
        if isinstance(key, slice):
            return np.arange(*key.indices(n))
        places = np.asarray(key)
        if places.dtype.kind not in "iu":  # numpy knows what it means
            masked: NDArray[np.intp] = np.arange(n)[key]
            return masked
        if places.size and not -n <= places.min() <= places.max() < n:
            raise IndexError(
                f"expected places from {-n} to {n - 1}, found {places.min()} to "
                f"{places.max()}"
            )
        return np.where(places < 0, places + n, places)

    def _take(self, rows: NDArray[np.intp], columns: slice) -> NDArray[np.float32]:
        """Read rows in any order, those of one block from the first to the last."""
        width = len(range(self.shape[1])[columns])
        values = np.empty((len(rows), width), np.float32)
        blocks = rows // BLOCK_ROWS
        for block in np.unique(blocks):
            places = np.flatnonzero(blocks == block)
            wanted = rows[places]
            start = int(wanted.min())
            found = self._read(slice(start, int(wanted.max()) + 1), columns)
            values[places] = found[wanted - start]
        return values


class StoredRows(SlicedRows):
    """Rows of float32 that are read from a file when they are sliced, as `Rows`.

    The values in the file are float32, or of a smaller type, of which each is
    multiplied by the scale: one for float16, one for each column of integers. Integers
    of 4 bits lie in uint8, two in a byte. Errors call the rows by their name.
    """

    def __init__(
        self, name: str, values: PlainValues, scale: float | Sequence[float] = 1.0
    ) -> None:
        self._name, self._values = name, values
        self._scale = np.asarray(scale, np.float32)
        self._is_packed = values.dtype == np.uint8
        self.shape = (len(self._scale),) if self._is_packed else values.shape[1:]
        self.shape = (values.shape[0], *self.shape)

    def __repr__(self) -> str:
        return f"<float32 rows of {self._name}, shape {self.shape}>"

    def _read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Read a block, and bring it to float32."""
        try:
            if self._values.dtype == np.float32:
                return self._values.read(rows, columns)
            start, stop, _ = rows.indices(len(self))
            width = len(range(self.shape[1])[columns])
            values = np.empty((max(stop - start, 0), width), np.float32)
            scale = self._scale[columns] if self._scale.ndim else self._scale
            for block in row_blocks(len(values)):
                stored = slice(start + block.start, start + block.stop)
                part = values[block]
                part[:] = self._stored(stored, columns)
                part *= scale  # in place: twice as fast as a product of two types
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{self._values.file.path}: expected to read {self._name}, found "
                f"{one_line(error)}; mend the disk and run the same command again, or "
                "extract anew with --overwrite"
            ) from None
        return values

    def _stored(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Read a block as it is stored, but for the packing of two values in a byte."""
        if not self._is_packed:
            return self._values.read(rows, columns)
        start, stop, _ = columns.indices(self.shape[1])
        pairs = slice(start // 2, (stop + 1) // 2)
        width = max(stop - start, 0)
        return unpack(self._values.read(rows, pairs))[:, start % 2 :][:, :width]


class StackedRows(SlicedRows):
    """Rows of several parts, one below the other, as `Rows`.

    Examples
    --------
    >>> rows = StackedRows([np.zeros((2, 1), np.float32), np.ones((3, 1), np.float32)])
    >>> rows[1:4].ravel().tolist()
    [0.0, 1.0, 1.0]
    """

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self._ends = [0, *accumulate(part.shape[0] for part in parts)]
        self.shape = (self._ends[-1], *parts[0].shape[1:])

    def __repr__(self) -> str:
        return f"<float32 rows of {len(self._parts)} parts, shape {self.shape}>"

    def _read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Read a block from the parts that it lies in."""
        start, stop, _ = rows.indices(self.shape[0])
        first = max(bisect_right(self._ends, start) - 1, 0)
        last = bisect_left(self._ends, stop)
        width = len(range(self.shape[1])[columns])
        values = np.empty((max(stop - start, 0), width), np.float32)
        for part, (begin, end) in zip(
            self._parts[first:last], pairwise(self._ends[first : last + 1]), strict=True
        ):
            low, high = max(start, begin), min(stop, end)
            if low < high:
                found = part[low - begin : high - begin, columns]
                values[low - start : high - start] = found
        return values


def _names_rows(key: Any) -> bool:
    """Tell whether an index names rows: by a slice, by their places or by a mask."""
    if isinstance(key, slice):
        return True
    index = np.asarray(key)
    return (index.dtype.kind in "iu" and index.ndim < 2) or (
        index.dtype.kind == "b" and index.ndim == 1
    )
