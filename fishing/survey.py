"""A first look at a features file, by a process that may die of it.

libhdf5 crashes over some damaged files, and over others it goes round for ever. In goes
a path; where a process of its own came through what opening the file takes, so will
this one. That process is kept for the next file.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from fishing.errors import StoreError

#: Of the processor's time; the largest files take a tenth of it.
CPU_SECONDS = 30
#: Bytes that the process may take.
MEMORY = 2**33

_DEATHS = {-signal.SIGXCPU: "does not come to an end"}
# The process sees the modules that this one sees, not those of the current folder.
_START = (
    "import sys; sys.path[:] = {path!r}; "
    "from fishing.store import look; from fishing.survey import serve; serve(look)"
)
_lock = Lock()
_process: subprocess.Popen[bytes] | None = None
_owner = 0
_is_served = False


def survey(path: Path) -> None:
    """Let another process open a features file.

    Raises
    ------
    StoreError
        If that process dies, or does not come to an end.
    """
    global _process, _owner
    if _is_served:  # this is that process
        return
    with _lock:
        # A fork has its parent's pipes, which are not for two.
        if _process is None or _owner != os.getpid():
            _process, _owner = _start(), os.getpid()
        process, _process = _process, None  # gone, should it be left half-way
        if _ask(process, path):
            _process = process
            return
        code = process.wait()
    raise StoreError(
        f"{path}: expected a whole features file, found one over which HDF5 "
        f"{_DEATHS.get(code, f'crashes (exit code {code})')}; extract it anew with "
        "--overwrite"
    )


def serve(look: Callable[[Path], None]) -> None:
    """Look at files until the process at the other end of the pipe hangs up."""
    global _is_served
    _is_served = True
    _set_limit(resource.RLIMIT_AS, MEMORY)
    _set_limit(resource.RLIMIT_CORE, 0)
    while line := sys.stdin.buffer.readline():
        seconds, path = line.decode().split()
        used = int(time.process_time()) + 1
        _set_limit(resource.RLIMIT_CPU, used + int(seconds))
        look(Path(os.fsdecode(bytes.fromhex(path))))
        sys.stdout.buffer.write(b".")
        sys.stdout.buffer.flush()


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _START.format(path=sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the process that asks
    )


def _ask(process: subprocess.Popen[bytes], path: Path) -> bool:
    """Send a path; whether the process outlived it."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        name = os.fsencode(path.absolute()).hex()
        process.stdin.write(f"{CPU_SECONDS} {name}\n".encode())
        process.stdin.flush()
    except BrokenPipeError:
        return False
    return process.stdout.read(1) == b"."


def _set_limit(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if hard < 0 else min(limit, hard), hard))
