"""Values in a file, read without the help of HDF5.

`PlainValues` lie at an offset; `ChunkedValues` belong to a dataset that is cut into
chunks, which may be compressed by zlib.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import stat
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import StoreError
from fishing.processes import in_threads

#: HDF5's numbers of the filters that a chunk may have gone through.
DEFLATE, SHUFFLE = 1, 2


class OpenFile:
    """A regular file that stays open until it is closed and no thread reads it.

    `size` is its length in bytes when it was opened. Raises OSError or ValueError if it
    cannot be opened, and StoreError if it is a folder, a device or a pipe.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Opening a pipe would otherwise wait for a writer.
        self.descriptor: Descriptor | None = Descriptor(
            os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        )
        state = os.fstat(self.descriptor.number)
        if not stat.S_ISREG(state.st_mode):
            raise StoreError(
                f"expected a features file at '{path}', found a folder, a device or a "
                "pipe"
            )
        self.size = state.st_size
        self._state = _state(state)
        self._released: str | None = None  # where to open it again

    def close(self) -> None:
        """Refuse further reads; reads in other threads are finished first."""
        self.descriptor = self._released = None

    def release(self) -> None:
        """Open the file for each read anew, and keep no descriptor in between.

        A process may have fewer descriptors than a folder has shards.
        """
        self._released = os.path.abspath(self.path)
        self.descriptor = None

    def _open_again(self) -> Descriptor | None:
        if self._released is None:
            return None
        found = Descriptor(os.open(self._released, os.O_RDONLY | os.O_NONBLOCK))
        if _state(os.fstat(found.number)) != self._state:
            raise OSError(errno.ESTALE, "another file than was opened")
        return found

    def read_into(self, buffer: Any, offset: int) -> None:
        """Fill a buffer of bytes from an offset on.

        Raises OSError if the disk is lost, or the file ends too early.
        """
        # This name keeps it open until the bytes are read.
        descriptor = self.descriptor or self._open_again()
        if descriptor is None:
            raise StoreError(
                f"{self.path}: expected to read from an open file, found that it was "
                "closed; read before it is, or open it by `fishing.load`"
            )
        while len(buffer):
            n = os.preadv(descriptor.number, [buffer], offset)
            if not n:
                raise OSError(errno.EIO, "values that are gone")
            buffer, offset = buffer[n:], offset + n


def _state(state: os.stat_result) -> tuple[int, int]:
    """Tell a file from another one of its name; some file systems change the inode."""
    return state.st_size, state.st_mtime_ns


class Descriptor:
    """A file descriptor that is closed when nothing refers to it any more."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)

    def __reduce__(self) -> str:
        raise TypeError(
            "open files cannot be shared between processes; pass arrays or the path"
        )


class PlainValues:
    """Values of one or two axes at an offset in a file.

    Rows begin `stride` bytes apart; by default there is no gap between them.
    """

    def __init__(
        self,
        file: OpenFile,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        offset: int,
        stride: int | None = None,
    ) -> None:
        self.file, self.dtype, self.shape = file, dtype, shape
        self._offset = offset
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._stride = self._row_bytes if stride is None else stride

    @property
    def nbytes(self) -> int:
        """Size of all values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, rows: slice, columns: slice = slice(None)) -> NDArray[Any]:
        """Read a part of the values in their own type, by slices without steps.

        Raises OSError or ValueError if the disk is lost or the values are damaged.
        """
        spans = [
            slice(*key.indices(length)[:2])
            for key, length in zip((rows, columns), self.shape, strict=False)
        ]
        values = np.empty([max(s.stop - s.start, 0) for s in spans], self.dtype)
        if values.size:
            table = values.reshape(len(values), -1)
            self._fill(table, *(span.start for span in spans))
        return values

    def _fill(self, values: NDArray[Any], row: int, column: int = 0) -> None:
        """Fill an array of two axes with the values from a row and a column on."""
        offset = self._offset + row * self._stride + column * self.dtype.itemsize
        content = values.view(np.uint8)
        if content.shape[1] == self._stride:
            self.file.read_into(content.reshape(-1), offset)
            return
        for i, part in enumerate(content):
            self.file.read_into(part, offset + i * self._stride)


class ChunkedValues(PlainValues):
    """Values of a dataset that is cut into chunks; `check_place` has seen their place.

    HDF5 trusts a chunk to unpack to its size. For a shorter one it hands out what lies
    behind it in memory, and a longer one takes any amount of memory. Here a chunk that
    unpacks to another size raises a ValueError.
    """

    def __init__(
        self,
        file: OpenFile,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        place: Mapping[str, Any],
    ) -> None:
        super().__init__(file, dtype, shape, 0)
        self._filters: Sequence[int] = place["filters"]
        chunks = (*place["chunks"], 1)[:2]
        self._chunk: tuple[int, int] = chunks
        self._found = {
            (*start, 0)[:2]: (offset, size, mask)
            for *start, offset, size, mask in place["table"]
        }

    def _fill(self, values: NDArray[Any], row: int, column: int = 0) -> None:
        """Fill an array of two axes, each chunk in a thread: zlib releases the lock."""
        starts = (row, column)
        ranges = [
            range(start // side * side, start + length, side)
            for start, length, side in zip(
                starts, values.shape, self._chunk, strict=True
            )
        ]

        def fill_from(place: tuple[int, ...]) -> None:
            chunk = self._unpacked(place)
            inside, outside = [], []
            for at, start, side, length in zip(
                place, starts, self._chunk, values.shape, strict=True
            ):
                first, last = max(at, start), min(at + side, start + length)
                inside.append(slice(first - at, last - at))
                outside.append(slice(first - start, last - start))
            values[tuple(outside)] = chunk[tuple(inside)]

        in_threads(fill_from, itertools.product(*ranges))

    def _unpacked(self, place: tuple[int, ...]) -> NDArray[Any]:
        """Read a chunk and undo its filters, the last one first."""
        offset, size, mask = self._found[place]
        packed = np.empty(size, np.uint8)
        self.file.read_into(packed, offset)
        # A bit of the mask says that a filter was left out.
        applied = {k for i, k in enumerate(self._filters) if not mask >> i & 1}
        n_bytes = math.prod(self._chunk) * self.dtype.itemsize
        content = packed
        if DEFLATE in applied:
            stream = zlib.decompressobj()
            try:
                unpacked = stream.decompress(packed.data, n_bytes + 1)
            except zlib.error:
                unpacked = b""
            if not stream.eof:  # its checksum was not reached
                raise ValueError("a chunk of another size")
            content = np.frombuffer(unpacked, np.uint8)
        if len(content) != n_bytes:
            raise ValueError("a chunk of another size")
        if SHUFFLE in applied:
            # All first bytes, then all second ones, and so on.
            shuffled = content.reshape(self.dtype.itemsize, -1)
            content = np.empty(shuffled.T.shape, np.uint8)
            for i, part in enumerate(shuffled):
                content[:, i] = part
        return content.reshape(-1).view(self.dtype).reshape(self._chunk)
