"""The file objects through which HDF5 writes, and reads what is left of a file."""

from __future__ import annotations

import os
from io import RawIOBase
from pathlib import Path
from typing import Any

from fishing.files import write_all


class Output:
    """A file for HDF5 to write, to which a disk never fails; a context manager.

    HDF5 may crash when it is told of an error while it closes a file. So it is not: the
    first error is kept, nothing is written from there on, and leaving raises it.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
        If the disk is full or lost: at once, or when the file is left.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: BaseException | None = None

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; HDF5 asks for the end in this way."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Say what the current place is."""
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        """Read from the current place."""
        return self._file.read(size)

    def readinto(self, buffer: Any) -> int:
        """Read from the current place into a buffer."""
        return self._file.readinto(buffer)

    def write(self, content: Any) -> int:
        """Write all of a buffer at the current place, or keep the error."""
        try:
            if self._error is None:
                write_all(self._file, content)
        except BaseException as error:  # an interrupt must not pass through HDF5 either
            self._error = error
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        """Set the length, or keep the error."""
        try:
            if self._error is None:
                self._file.truncate(size)
        except BaseException as error:
            self._error = error
        return size or 0

    def flush(self) -> None:
        """Do nothing: nothing waits here."""


class Input(RawIOBase):
    """An open file for HDF5 to read, which needs no name and may have lost its tail.

    HDF5 refuses a file that is shorter than it was. With the end far away it finds what
    is left, and the checksums tell what is not: behind the real end stands a filler,
    which is nothing that a file would hold.

    Parameters
    ----------
    descriptor : int
    size : int
        Where the file ends, or seems to.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size, self._place = descriptor, size, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; HDF5 asks for the end in this way."""
        self._place = self._size if whence == os.SEEK_END else offset
        return self._place

    def tell(self) -> int:
        """Say what the current place is."""
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the current place on."""
        rest = memoryview(buffer).cast("B")
        while n := os.preadv(self._descriptor, [rest], self._place):
            rest, self._place = rest[n:], self._place + n
        rest[:] = b"\xa5" * len(rest)
        return len(buffer)
