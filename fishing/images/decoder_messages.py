"""What the libraries below OpenCV write to stderr about an image.

They name no file. A thread that reads images can have a table of file descriptors of
its own, in which descriptor 2 is a file in memory; the other threads keep theirs. Some
systems do not allow that (Docker, unless told otherwise; all but Linux); there the
messages go to stderr as before.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from contextlib import suppress

_CLONE_FILES = 0x400  # of Linux's unshare(2)
_this_thread = threading.local()


def catch_messages() -> None:
    """Catch what is written to stderr from this thread; it must not be the main one.

    Files that other threads have open stay open until this thread ends.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        if ctypes.CDLL(None).unshare(_CLONE_FILES) == 0:
            os.dup2(os.memfd_create("stderr"), 2)
            _this_thread.catches = True


def take_messages() -> list[str]:
    """Return the lines that were caught in this thread since the last call."""
    if not getattr(_this_thread, "catches", False) or not os.fstat(2).st_size:
        return []
    content = os.pread(2, 2**16, 0)
    os.ftruncate(2, 0)
    os.lseek(2, 0, os.SEEK_SET)
    return content.decode(errors="replace").splitlines()
