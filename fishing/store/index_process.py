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
from fishing.processes import start_python, thread_environment
from fishing.store.values import OpenFile

#: Processor time that the process may take; the largest files take a tenth of it.
CPU_SECONDS = 30
#: Time after which the process is ended, however busy the machine is.
WALL_SECONDS = 300
# The signals of a program that goes wrong; others come from outside, as SIGKILL does if
# memory runs out.
_NAMES = ("SEGV", "ABRT", "BUS", "FPE", "ILL")
_CRASHES = {
    getattr(signal, f"SIG{name}") for name in ["SEGV", "ABRT", "BUS", "FPE", "ILL"]
}
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
    if content is None:
        raise _not_the_file(file, f"did not end within {WALL_SECONDS} s")
    if code < 0 and -code not in {*_CRASHES, signal.SIGXCPU}:
        raise _not_the_file(file, f"was ended by signal {-code}")
    if code == -signal.SIGXCPU:
        outcome = f"does not come to an end within {CPU_SECONDS} s of processor time"
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
        f"{outcome}; take a copy of it, or move it away and extract it anew"
    )


def _not_the_file(file: OpenFile, found: str) -> StoreError:
    """Say that the process was ended, which tells nothing of the file."""
    return StoreError(
        f"{file.path}: expected a process to read it, found that this {found}; the "
        "file may be whole: free processors and memory, and run the same command again"
    )


def run(task: str, file: OpenFile) -> tuple[bytes | None, int]:
    """Run a process to its end, and return its answer and its exit code.

    The answer is None if the process does not end, and empty but for a line end if it
    writes too much. Raises OSError if the process cannot be started.
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
        except ValueError:
            return b"\n", 0
        finally:
            child.kill()
            child.wait()
        return content, code
    finally:
        os.close(answers)


def start(task: str, descriptor: int, pipe: int) -> subprocess.Popen[bytes]:
    """Start the process, which writes its answer to the pipe."""

    def work(descriptor: int, pipe: int) -> str:
        return _START.format(
            task=task, descriptor=descriptor, pipe=pipe, seconds=CPU_SECONDS
        )

    return start_python(
        work,
        *(descriptor, pipe),
        environment=thread_environment(1),  # it multiplies no matrices
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the process that asks
    )


def _read(pipe: int, deadline: float) -> bytes:
    """Read a pipe until it is closed.

    Raises TimeoutError if it takes too long, and ValueError if it is too much.
    """
    content = bytearray()
    poll = select.poll()
    poll.register(pipe)
    while len(content) <= _MAX_ANSWER:
        left = deadline - time.monotonic()
        if left < 0 or not poll.poll(1000 * left):
            raise TimeoutError
        piece = os.read(pipe, 2**20)
        if not piece:
            return bytes(content)
        content += piece
    raise ValueError
