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

_ALWAYS = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENODEV}
#: What the system answers if a file system lacks fsync or locks.
NOT_OFFERED = {*_ALWAYS, errno.ENOLCK, errno.EBADF, errno.EISDIR, errno.EPERM}


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
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    real, best, kind = os.path.realpath(path), "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), before.split()[4])
        is_above = real == mount or real.startswith(mount.rstrip("/") + "/")
        if is_above and len(mount) >= len(best):
            best, kind = mount, after.split()[0]
    if not best:
        return f"the file system of {path}"
    return f"the file system {kind} at {best}"
