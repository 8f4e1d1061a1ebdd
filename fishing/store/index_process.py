"""The index of a features file, made by a process that a damaged file may crash.

`fishing.store.index` says what the process does. If it crashes, does not come to an end
or gives no proper answer, the file is refused by a StoreError. It inherits the file as
an open descriptor, so that the index and the values belong to the same file.
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
from typing import Any

from fishing.errors import StoreError, one_line
from fishing.processes import python_command
from fishing.store.values import OpenFile

#: Processor time that the process may take; the largest files take a tenth of it.
CPU_SECONDS = 30
#: Time after which the process is ended, however busy the machine is.
WALL_SECONDS = 300
_MAX_ANSWER = 2**26  # bytes; enough for a million chunks
_START = (
    "from fishing.store import index; "
    "index.answer(index.{task}, {descriptor}, {pipe}, {seconds})"
)


def ask(task: str, file: OpenFile) -> dict[str, Any]:
    """Let another process index a file, by ``read_index`` or ``survey``.

    Nothing in the answer is checked; `fishing.store.index` describes it. Raises
    StoreError if the process refuses the file, crashes, or does not come to an end.
    """
    try:
        content, code = run(task, file)
    except OSError as error:
        raise StoreError(
            "expected to start a process that reads features files, found "
            f"{one_line(error)}; close other files or programs"
        ) from None
    if content is None or code == -signal.SIGXCPU:
        outcome = "does not come to an end"
    elif code:
        outcome = f"crashes (exit code {code})"
    else:
        outcome = "gives no proper answer"
        with suppress(ValueError, RecursionError):
            found = json.loads(content)
            if isinstance(found, dict):
                if "refusal" in found:
                    raise StoreError(f"{file.path}: {found['refusal']}")
                return found
    if content == b"":
        raise StoreError(
            "expected to start a process that reads features files, found that it "
            f"ended with exit code {code}; look whether `{sys.executable} -c 'import "
            "fishing.store.index'` works"
        )
    raise StoreError(
        f"{file.path}: expected a whole features file, found one on which HDF5 "
        f"{outcome}; extract it anew with --overwrite"
    )


def run(task: str, file: OpenFile) -> tuple[bytes | None, int]:
    """Run a process to its end, and return its answer and its exit code.

    The answer is None if the process does not end, or writes too much. Raises OSError
    if it cannot be started.
    """
    deadline = time.monotonic() + WALL_SECONDS
    opened = file.descriptor  # this reference keeps it open if a thread closes the file
    assert opened is not None
    answers, pipe = os.pipe()
    try:
        try:
            child = start(task, opened.number, pipe)
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


def start(task: str, descriptor: int, pipe: int) -> subprocess.Popen[bytes]:
    """Start the process, which writes its answer to the pipe."""
    work = _START.format(
        task=task, descriptor=descriptor, pipe=pipe, seconds=CPU_SECONDS
    )
    return subprocess.Popen(
        python_command(work),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(descriptor, pipe),
        # It multiplies no matrices, so it needs no threads.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C is for the process that asks
    )


def _read(pipe: int, deadline: float) -> bytes:
    """Read a pipe until it is closed, or raise a TimeoutError."""
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
