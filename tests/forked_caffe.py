"""The process that runs Caffe, forked from one that has imported Caffe already."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import IO
from unittest.mock import patch

_FORKS = multiprocessing.get_context("forkserver")


def _main(
    stdin: Connection, stdout: Connection, stderr: Connection, variables: dict[str, str]
) -> None:
    from fishing.backends.caffe.process import main

    for number, stream in enumerate((stdin, stdout, stderr)):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin = open(0)  # noqa: SIM115 - multiprocessing has closed it
    os.environ.update(variables)
    main()


class ForkedCaffe:
    """A fork that runs Caffe, as `subprocess.Popen` shows it."""

    def __init__(
        self,
        work: Callable[..., str],
        *,
        environment: Mapping[str, str],
        stdin: int,
        stdout: int,
        stderr: IO[bytes],
    ) -> None:
        """Stand in for `fishing.processes.start_python`."""
        assert stdin == stdout == subprocess.PIPE
        assert "fishing.backends.caffe.process" in work()
        _FORKS.set_forkserver_preload(["fishing.backends.caffe.process", "caffe"])
        theirs_in, ours_in = _FORKS.Pipe(duplex=False)
        ours_out, theirs_out = _FORKS.Pipe(duplex=False)
        messages = Connection(os.dup(stderr.fileno()))
        self._process = _FORKS.Process(
            target=_main,
            args=(theirs_in, theirs_out, messages, dict(environment)),
            daemon=True,
        )
        with patch.dict(os.environ, environment):  # glog reads it on import
            self._process.start()
        for end in (theirs_in, theirs_out, messages):
            end.close()
        self.stdin = os.fdopen(os.dup(ours_in.fileno()), "wb")
        self.stdout = os.fdopen(os.dup(ours_out.fileno()), "rb")
        ours_in.close()
        ours_out.close()

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        self._process.join()
        code = self._process.exitcode
        assert code is not None
        return code

    def communicate(self) -> None:
        self.stdin.close()
        self.stdout.close()
        self.wait()
