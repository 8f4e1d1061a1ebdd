"""Files on a disk that may be full, lost, or switched off at any moment.

What is written here is on the disk when the call returns, and gets its name when it is
whole. And what HDF5 reads and writes goes through here, since it does not bear errors.
"""

from __future__ import annotations

import fcntl
import os
from io import FileIO
from pathlib import Path
from typing import IO, Any

from fishing.errors import StoreError


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


class EndlessInput:
    """A file for HDF5 to read, with a filler behind its end; a context manager.

    HDF5 refuses a file that was cut as a whole. In this one it finds what is left, and
    the checksums tell what is not: the filler is nothing that a file would end in.
    """

    _FILLER = b"\xa5"

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._place = 0

    def __enter__(self) -> EndlessInput:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; the end is far away."""
        self._place = 2**62 if whence == os.SEEK_END else self._file.seek(offset)
        return self._place

    def tell(self) -> int:
        """Say what the current place is."""
        return self._place

    def read(self, size: int) -> bytes:
        """Read from the current place."""
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the current place on."""
        rest = memoryview(buffer).cast("B")
        while n := self._file.readinto(rest):
            rest = rest[n:]
        rest[:] = self._FILLER * len(rest)
        return len(buffer)


def write_all(file: FileIO, content: Any) -> None:
    """Write all bytes of a buffer, in as many pieces as the system takes."""
    rest = memoryview(content).cast("B")
    while rest:
        rest = rest[file.write(rest) :]


def write_durably(file: FileIO, content: bytes) -> None:
    """Write all bytes, down to the disk."""
    write_all(file, content)
    os.fsync(file.fileno())


def replace_durably(path: Path, content: bytes) -> None:
    """Write a small file under another name and rename it."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb", buffering=0) as file:
        write_durably(file, content)
    os.replace(temporary, path)
    sync_folder(path.parent)


def _no_link(path: str, flags: int) -> int:
    """Open a file, but not one elsewhere that a link of this name leads to."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def put_in_place(whole: Path, path: Path) -> None:
    """Give a file that is whole its name, so that no power cut can tear it.

    Raises
    ------
    OSError
        If the disk is full or lost.
    """
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(whole, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path) -> IO[str]:
    """Hold a lock file open; the system lets go of it when the process ends.

    Raises
    ------
    StoreError
        If another process holds it; says which.
    """
    while True:
        file = open(path, "a+", opener=_no_link)  # noqa: SIM115 - held
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise StoreError(
                f"expected to be alone in {path.parent}, found that {holder} writes "
                "there; wait for it, or choose another --output"
            ) from None
        # The holder before may have removed the file that was just opened.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()
        path.parent.mkdir(exist_ok=True)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
    file.flush()
    return file
