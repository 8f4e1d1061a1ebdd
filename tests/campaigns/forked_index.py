"""The process that indexes a features file, forked from one that has h5py loaded.

A fork takes a fraction of the time that a new process does, under the same limits. What
becomes of its answer is the same. The process that forks holds nothing else, so that a
fork of it is cheap. Files that no test has damaged may be indexed without any process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

from fishing.errors import StoreError
from fishing.store import index, index_process
from fishing.store.values import OpenFile


def index_here(task: str, file: OpenFile) -> tuple[bytes, int]:
    """Index in this process; stands in for `fishing.store.index_process.run`."""
    assert file.descriptor is not None
    try:
        answer = getattr(index, task)(file.descriptor.number)
    except StoreError as error:
        answer = {"refusal": str(error)}
    return json.dumps(answer).encode(), 0


class Forks:
    """A process that forks one indexing process after another.

    Parameters
    ----------
    seconds : int
        Of the processor's time that a fork may take, and one more.
    """

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._socket, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs:
            number = str(theirs.fileno())
            subprocess.Popen(
                [sys.executable, __file__, number], pass_fds=[theirs.fileno()]
            )

    def start(self, task: str, descriptor: int, pipe: int) -> Fork:
        """Start a fork; stands in for `fishing.store.index_process.start`."""
        message = json.dumps([task, self._seconds]).encode()
        socket.send_fds(self._socket, [message], [descriptor, pipe])
        return Fork(int(self._socket.recv(100)), self._socket)


class Fork:
    """A fork that answers, as `subprocess.Popen` shows it."""

    def __init__(self, child: int, forks: socket.socket) -> None:
        self._child, self._socket = child, forks
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends, and give its exit code."""
        if self._code is None:
            self._code = int(self._socket.recv(100))
        return self._code

    def kill(self) -> None:
        """End it, if it still runs."""
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)


def use_forks(seconds: int = 0) -> None:
    """Let forks index all features files from now on, each within so many seconds."""
    index_process.start = Forks(seconds).start


def serve(number: int) -> None:
    """Fork until the other process hangs up."""
    with socket.socket(fileno=number) as requests:
        while True:
            message, numbers, *_ = socket.recv_fds(requests, 1000, 2)
            if not message:
                return
            task, seconds = json.loads(message)
            descriptor, pipe = numbers
            child = os.fork()
            if not child:
                try:
                    index.answer(getattr(index, task), descriptor, pipe, seconds)
                finally:
                    os._exit(1)
            os.close(descriptor)
            os.close(pipe)
            requests.send(b"%d" % child)
            _, status = os.waitpid(child, 0)
            requests.send(b"%d" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    serve(int(sys.argv[1]))
