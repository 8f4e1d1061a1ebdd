"""The process that indexes a features file, forked from one that has h5py loaded.

A fork takes a fraction of the time that a new process does, under the same limits. What
becomes of its answer is the same. The process that forks holds nothing else, so that a
fork of it is cheap.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress

from fishing.store import index, index_process


class _Forks:
    """A process that forks one indexing process after another."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._socket, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            index_process.subprocess.Popen(
                [sys.executable, __file__, str(number)], pass_fds=[number]
            )

    def start(self, task: str, descriptor: int, pipe: int) -> int:
        """Start a fork, and give its process id."""
        seconds = index_process.CPU_SECONDS
        message = json.dumps([task, seconds]).encode()
        socket.send_fds(self._socket, [message], [descriptor, pipe])
        return int(self._socket.recv(100))

    def wait(self) -> int:
        """Wait until the fork ends, and give its exit code."""
        return int(self._socket.recv(100))


_forks: _Forks | None = None


class ForkedIndex:
    """A fork that answers; stands in for `fishing.store.index_process.start`."""

    def __init__(self, task: str, descriptor: int, pipe: int) -> None:
        global _forks
        if _forks is None or _forks.owner != os.getpid():
            _forks = _Forks()
        self._forks, self._code = _forks, None
        self._child = _forks.start(task, descriptor, pipe)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends, and give its exit code."""
        if self._code is None:
            self._code = self._forks.wait()
        return self._code

    def kill(self) -> None:
        """End it, if it still runs."""
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)


def use_forks(seconds: int) -> None:
    """Let forks index all features files from now on, each within so many seconds."""
    index_process.CPU_SECONDS = seconds
    index_process.start = ForkedIndex


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
