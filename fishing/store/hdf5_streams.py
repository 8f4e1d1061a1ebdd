"""The file objects through which HDF5 writes features files and reads damaged ones."""

from __future__ import annotations

import os
from io import RawIOBase
from pathlib import Path
from typing import Any

from fishing.files import write_all


class Output:
    """A file for HDF5 to write that never reports a failing disk; a context manager.

    HDF5 may crash when it learns of an error while it closes a file. So the first error
    is kept here, nothing is written after it, and leaving the context raises it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: BaseException | None = None
        self.seek, self.tell = self._file.seek, self._file.tell
        self.read, self.readinto = self._file.read, self._file.readinto

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._error is not None:
            raise self._error

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
        """Do nothing, since nothing is buffered."""


class Input(RawIOBase):
    """An open file for HDF5 to read, which needs no name and may have lost its tail.

    HDF5 refuses a file that is shorter than it was. If it is told of a `size` far
    beyond the real end, it finds what is left, and checksums tell what is missing:
    behind the real end it reads a filler that no features file contains.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size, self._place = descriptor, size, 0
        self.error: OSError | None = None  # what the disk said, which HDF5 hides

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; HDF5 finds the size of the file in this way."""
        self._place = self._size if whence == os.SEEK_END else offset
        return self._place

    def tell(self) -> int:
        """Return the current place."""
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the current place on."""
        rest = memoryview(buffer).cast("B")
        try:
            while n := os.preadv(self._descriptor, [rest], self._place):
                rest, self._place = rest[n:], self._place + n
        except OSError as error:
            self.error = error
            raise
        rest[:] = b"\xa5" * len(rest)
        return len(buffer)
