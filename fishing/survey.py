"""A first look at a features file, by a process that may die of it.

libhdf5 crashes over some damaged files, and over others it goes round for ever. In goes
a path; where a process of its own came through what opening the file takes, so will
this one, and what was refused there is not opened here. That process is kept for the
next file.
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
    "from fishing.store import glance, look; from fishing.survey import serve; "
    "serve(look, glance)"
)
_lock = Lock()
_process: subprocess.Popen[bytes] | None = None
_owner = 0
_is_served = False


def survey(path: Path, *, damaged: bool = False) -> None:
    """Let another process open a features file.

    Parameters
    ----------
    path : Path
    damaged : bool
        Whether to open what can be opened of a damaged file too, as `verify` does; then
        no damage is told of.

    Raises
    ------
    StoreError
        As that process raised it, or if it dies or does not come to an end.
    """
    global _process, _owner
    if _is_served:  # this is that process
        return
    with _lock:
        # A fork has its parent's pipes, which are not for two.
        if _process is None or _owner != os.getpid():
            _process, _owner = _start(), os.getpid()
        process, _process = _process, None  # gone, should it be left half-way
        answer = _ask(process, path, damaged)
        if answer.endswith(b"\n"):
            _process = process
            if refusal := bytes.fromhex(answer.decode()).decode():
                raise StoreError(refusal.replace(str(path.absolute()), str(path)))
            return
        code = process.wait()
    raise StoreError(
        f"{path}: expected a whole features file, found one over which HDF5 "
        f"{_DEATHS.get(code, f'crashes (exit code {code})')}; extract it anew with "
        "--overwrite"
    )


def serve(look: Callable[[Path], None], glance: Callable[[Path], None]) -> None:
    """Look at files until the process at the other end of the pipe hangs up.

    Parameters
    ----------
    look, glance : callable
        What opens a file, and what opens a damaged one; may raise a StoreError.
    """
    global _is_served
    _is_served = True
    _set_limit(resource.RLIMIT_AS, MEMORY)
    _set_limit(resource.RLIMIT_CORE, 0)
    while line := sys.stdin.buffer.readline():
        seconds, damaged, path = line.decode().split()
        used = int(time.process_time()) + 1
        _set_limit(resource.RLIMIT_CPU, used + int(seconds))
        refusal = ""
        try:
            (glance if damaged == "1" else look)(Path(os.fsdecode(bytes.fromhex(path))))
        except StoreError as error:
            refusal = str(error)
        sys.stdout.buffer.write(refusal.encode(errors="replace").hex().encode() + b"\n")
        sys.stdout.buffer.flush()


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _START.format(path=sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the process that asks
    )


def _ask(process: subprocess.Popen[bytes], path: Path, damaged: bool) -> bytes:
    """Send a path; a line if the process outlived it, of what it raised in digits."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        name = os.fsencode(path.absolute()).hex()
        process.stdin.write(f"{CPU_SECONDS} {damaged:d} {name}\n".encode())
        process.stdin.flush()
    except BrokenPipeError:
        return b""
    return process.stdout.readline()


def _set_limit(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if hard < 0 else min(limit, hard), hard))
