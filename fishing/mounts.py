"""What a file system does not offer, which is not the same as a disk that fails.

Network shares, FUSE and the folders that containers share lack calls that local disks
have.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_ALWAYS = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENODEV}
#: What the system answers if a file system lacks fsync or locks.
NOT_OFFERED = {*_ALWAYS, errno.ENOLCK, errno.EBADF, errno.EISDIR, errno.EPERM}


class Mount(NamedTuple):
    """A file system in the tree of folders."""

    kind: str  # such as ext4
    top: str  # the part of the file system that is there
    folder: str  # where it is
    options: str  # those of the file system, with commas


def read_mounts(root: Path = Path("/")) -> Iterator[Mount]:
    """List all mounts that this process sees; none if the system does not say."""
    try:
        text = (root / "proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, others = before.split(" "), after.split(" ")
        if len(fields) > 4:
            top, folder = (_unescaped(field) for field in fields[3:5])
            yield Mount(others[0], top, folder, others[-1])


def _unescaped(text: str) -> str:
    """Undo octal escapes: a space is written as a backslash and 040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


@contextmanager
def not_offered(call: str, path: Path) -> Iterator[None]:
    """Name the call and the mount in an error that says that a call is missing.

    >>> with not_offered("flying", Path("/proc")):
    ...     raise OSError(errno.EOPNOTSUPP, "Operation not supported")
    Traceback (most recent call last):
    OSError: [Errno 95] the file system proc at /proc does not offer flying (Operation \
not supported); choose a folder on another one
    """
    try:
        yield
    except OSError as error:
        if error.errno not in {*_ALWAYS, errno.EXDEV, errno.EEXIST}:
            raise
        raise OSError(
            error.errno,
            f"{file_system(path)} does not offer {call} ({error.strerror}); choose a "
            "folder on another one",
        ) from None


def file_system(path: Path) -> str:
    """Describe where a file lies: ``the file system cifs at /mnt/share``."""
    real, found = os.path.realpath(path), None
    for mount in read_mounts():
        is_above = f"{real}/".startswith(mount.folder.rstrip("/") + "/")
        # Of two mounts on one folder, the later one counts.
        if is_above and (not found or len(mount.folder) >= len(found.folder)):
            found = mount
    if found is None:
        return f"the file system of {path}"
    return f"the file system {found.kind} at {found.folder}"
