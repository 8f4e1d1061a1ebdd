"""Files that get their name once they are whole, locks, and reads with a limit."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO, Any

from fishing.mounts import NOT_OFFERED, file_system, not_offered

_log = logging.getLogger(__name__)

_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.partial")
_BLOCK = 2**20  # bytes
_MOST_ATTEMPTS = 20  # to open a lock that its holder has not removed meanwhile


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file under another name; it gets its own once the block ends.

    The name to write to is in the same folder and has the same suffix. A reader never
    sees half of the file, and neither a crash nor a power cut can tear it. If the block
    raises, the file that was there before stays as it is. Folders above the file are
    made. A symbolic link stays one: the file that it leads to is replaced.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with whole_file(folder / "notes.txt") as unfinished:
    ...     _ = unfinished.write_text("all of it")
    >>> [file.name for file in folder.iterdir()]
    ['notes.txt']
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{secrets.token_hex(8)}.partial{target.suffix}")
    try:
        yield unfinished
        name_whole_file(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a folder under another name; it gets its own once the block ends.

    If the block raises, nothing is left. Raises FileExistsError if there is already a
    file of that name, or a folder that is not empty.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{secrets.token_hex(8)}.partial")
    unfinished.mkdir()
    try:
        yield unfinished
        for file in unfinished.iterdir():
            with file.open("rb") as content:
                os.fsync(content.fileno())
        sync_folder(unfinished)
        os.replace(unfinished, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def is_unfinished(name: str) -> bool:
    """Tell whether a name is one of `whole_file`'s; a crash may leave such a file."""
    return _UNFINISHED.match(name) is not None


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a text (in UTF-8) or bytes as a whole file; see `whole_file`."""
    with whole_file(path) as unfinished:
        data = content.encode() if isinstance(content, str) else content
        unfinished.write_bytes(data)


def name_whole_file(unfinished: Path, path: Path) -> None:
    """Give a finished file its name once its bytes are on the disk."""
    with unfinished.open("rb") as file:
        _sync(file.fileno(), path)
    with not_offered("the renaming of a file over another one", path):
        os.replace(unfinished, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring new names in a folder to the disk, so that they survive a power cut."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written and not read
        _weaker("opening folders to sync them", _POWER_CUT, folder)
        return
    try:
        _sync(descriptor, folder)
    finally:
        os.close(descriptor)


def write_durably(file: FileIO, content: bytes) -> None:
    """Write all bytes, and return once they are on the disk."""
    write_all(file, content)
    _sync(file.fileno(), Path(str(file.name)))


def _sync(descriptor: int, path: Path) -> None:
    """Bring a file or folder to the disk; warn if its file system cannot promise it."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
        what = "folders" if path.is_dir() else "files"
        _weaker(f"fsync of {what} ({error.strerror})", _POWER_CUT, path)


_POWER_CUT = "a power cut may lose files that were finished"
_NO_LOCK = "nothing keeps a second run from writing to the same output"
_warned: set[tuple[str, str]] = set()


def _weaker(call: str, consequence: str, path: Path) -> None:
    """Warn once that a file system does not offer a call, and what that means."""
    where = file_system(path)
    if (call, where) not in _warned:
        _warned.add((call, where))
        _log.warning("%s does not offer %s: %s", where, call, consequence)


def write_all(file: FileIO, content: Any) -> None:
    """Write all bytes of a buffer, in as many pieces as the system takes."""
    rest = memoryview(content).cast("B")
    while rest:
        rest = rest[file.write(rest) :]


def lock(path: Path, when_held: Callable[[str], None]) -> IO[str]:
    """Take a lock; the system releases it when the file is closed or the process ends.

    The lock file is made if there is none; a symbolic link is refused. If another
    process holds the lock, `when_held` is called with its name, such as ``process 12 on
    host``. It may raise; if it returns, the call waits for the lock. Where the file
    system offers no locks, a warning says so, and the call goes on without one.
    """
    attempt = 0
    while True:
        attempt += 1
        with not_offered("appending to files", path):
            file = open(path, "a+", opener=_no_link)  # noqa: SIM115 - stays open
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                when_held(file.read().strip() or "another process")
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NOT_OFFERED:
                    raise
                _weaker(f"flock ({error.strerror})", _NO_LOCK, path)
            # The holder before may have removed the file that was just opened. Some
            # file systems number a file anew each time that it is opened.
            if path.exists() and (
                os.path.samestat(os.fstat(file.fileno()), path.stat())
                or attempt >= _MOST_ATTEMPTS
            ):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        path.parent.mkdir(exist_ok=True)


def _no_link(path: str, flags: int) -> int:
    """Open a file, unless its name is a symbolic link, which may lead anywhere."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def read_at_most(path: Path, n_bytes: int) -> bytes:
    """Read a whole file of at most so many bytes.

    Raises ValueError if it is longer, or a folder, a device or a pipe.
    """
    if path.exists() and not path.is_file():
        raise ValueError("a folder, a device or a pipe")
    with path.open("rb") as source:
        content = source.read(n_bytes + 1)
    if len(content) > n_bytes:
        raise ValueError(f"more than {n_bytes} bytes")
    return content


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, as 64 lower-case hexadecimal digits."""
    return file_digest(path, "SHA-256")


def file_digest(path: Path, name: str) -> str:
    """Compute the SHA-256 or the SHA-1 of a file, in lower-case hexadecimal digits."""
    digest = hashlib.new(name.replace("-", "").lower(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
