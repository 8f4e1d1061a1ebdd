"""The command line, run by forks of a process that has imported it already.

Most of the time of a short command goes into imports. The program that
`ForkedCommands` writes looks like `fishing`: a fork gets its arguments, its variables,
its current folder and its standard streams. Signals do not reach the fork.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_PROGRAM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({address!r})
    job = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [job], [0, 1, 2])
    code = server.recv(10)
sys.exit(int(code or 1))
"""


class ForkedCommands:
    """A program `fishing` in a folder, and the process that forks.

    A context manager; the process gets these variables.

    Attributes
    ----------
    program : Path
    environment : mapping of str to str
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.program, self.environment = folder / "fishing", environment
        address = folder / "socket"
        self.program.write_text(
            _PROGRAM.format(python=sys.executable, address=str(address))
        )
        self.program.chmod(0o755)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(address))
        self._listener.listen()
        number = self._listener.fileno()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(number)], env=environment, pass_fds=[number]
        )

    def __enter__(self) -> ForkedCommands:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._process.kill()
        self._process.wait()


def _main() -> None:
    from fishing.cli.main import main

    with tempfile.TemporaryFile() as imported:
        connection, descriptors, job = _next_job(int(sys.argv[1]), imported.fileno())
        arguments, folder, variables = job
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        # Python's own streams remember what they were opened on.
        sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="replace")  # noqa: SIM115
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(variables)
        code = 1
        try:
            main(arguments, prog_name="fishing")
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            os.write(imported.fileno(), "\n".join([*sys.modules, ""]).encode())
            connection.send(b"%d" % code)
            os._exit(code)  # threads of libraries did not survive the fork


def _next_job(
    number: int, imported: int
) -> tuple[socket.socket, list[int], tuple[list[str], str, dict[str, str]]]:
    """Fork for each job; return in the fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing is left of ended ones
    with socket.socket(fileno=number) as listener:
        while True:
            connection, _ = listener.accept()
            message, descriptors, *_ = socket.recv_fds(connection, 2**20, 3)
            _import(imported)
            if not os.fork():
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return connection, descriptors, json.loads(message)
            connection.close()
            for descriptor in descriptors:
                os.close(descriptor)


def _import(imported: int) -> None:
    """Import what earlier commands have, which spares the next fork the time."""
    names = os.pread(imported, os.fstat(imported).st_size, 0).decode().split()
    os.ftruncate(imported, 0)
    os.lseek(imported, 0, os.SEEK_SET)
    for name in names:
        if name not in sys.modules:
            with suppress(ImportError):
                importlib.import_module(name)


if __name__ == "__main__":
    _main()
