"""The index of a features file, made by a process that may die of it.

See `fishing.store.index` for what the process does. Its crash, its failure to come to
an end and an answer that is none are StoreErrors. It gets the file as an open
descriptor, so that the index and the values that are read by it are of the same file.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, Protocol

from fishing.errors import StoreError
from fishing.processes import python_command
from fishing.store.values import OpenFile

#: Of the processor's time that the process may take; the largest files take a tenth.
CPU_SECONDS = 30
#: Until the process must have ended, however busy the machine is.
WALL_SECONDS = 300
_MAX_ANSWER = 2**26  # bytes; enough for a million chunks
_START = (
    "from fishing.store import index; "
    "index.answer(index.{task}, {descriptor}, {pipe}, {seconds})"
)


class Child(Protocol):
    """A process that was started, as `subprocess.Popen` shows it."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends, and give its exit code."""
        ...

    def kill(self) -> None:
        """End it, if it still runs."""
        ...


def ask(task: str, file: OpenFile) -> dict[str, Any]:
    """Let another process index a file.

    Parameters
    ----------
    task : str
        ``read_index`` or ``survey``, see `fishing.store.index`.
    file : OpenFile

    Returns
    -------
    dict
        As `fishing.store.index` describes it; nothing in it is checked.

    Raises
    ------
    StoreError
        If it refuses the file, dies of it, or does not come to an end.
    """
    content, code = run(task, file)
    died_of = ""
    if content is None or code == -signal.SIGXCPU:
        died_of = "does not come to an end"
    elif code:
        died_of = f"crashes (exit code {code})"
    else:
        with suppress(ValueError, RecursionError):
            found = json.loads(content)
            if isinstance(found, dict):
                if "refusal" in found:
                    raise StoreError(f"{file.path}: {found['refusal']}")
                return found
        died_of = "goes astray"
    if content == b"":
        raise StoreError(
            "expected to start a process that reads features files, found that it "
            f"ended with exit code {code}; look whether `{sys.executable} -c 'import "
            "fishing.store.index'` works"
        )
    raise StoreError(
        f"{file.path}: expected a whole features file, found one over which HDF5 "
        f"{died_of}; extract it anew with --overwrite"
    )


def run(task: str, file: OpenFile) -> tuple[bytes | None, int]:
    """Run a process to its end: what it wrote, if it ended, and its exit code."""
    deadline = time.monotonic() + WALL_SECONDS
    # Both are kept open here, whatever other threads do meanwhile.
    opened = file.descriptor
    assert opened is not None
    try:
        answers, pipe = os.pipe()
    except OSError as error:
        raise _no_process(error) from None
    try:
        try:
            child = start(task, opened.number, pipe)
        except OSError as error:
            raise _no_process(error) from None
        finally:
            os.close(pipe)
        try:
            content = _read(answers, deadline)
            code = child.wait(max(deadline - time.monotonic(), 1))
        except (TimeoutError, subprocess.TimeoutExpired):
            return None, 0
        finally:
            child.kill()
            child.wait()
        return content, code
    finally:
        os.close(answers)


def start(task: str, descriptor: int, pipe: int) -> Child:
    """Start the process; the pipe is where its answer goes."""
    work = _START.format(
        task=task, descriptor=descriptor, pipe=pipe, seconds=CPU_SECONDS
    )
    return subprocess.Popen(
        python_command(work),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(descriptor, pipe),
        # It multiplies no matrices.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C is for the process that asks
    )


def _read(pipe: int, deadline: float) -> bytes:
    """Read a pipe until it is closed; raise TimeoutError where it does not end."""
    content = bytearray()
    poll = select.poll()
    poll.register(pipe)
    while len(content) <= _MAX_ANSWER:
        left = deadline - time.monotonic()
        if left < 0 or not poll.poll(1000 * left):
            break
        piece = os.read(pipe, 2**20)
        if not piece:
            return bytes(content)
        content += piece
    raise TimeoutError


def _no_process(error: OSError) -> StoreError:
    return StoreError(
        "expected to start a process that reads features files, found "
        f"{error.strerror}; close other files or programs"
    )
