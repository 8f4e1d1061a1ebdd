"""The command line and scripts, run by forks of a process that has their imports.

Most of the time of a short command goes into imports. The programs that
`ForkedCommands` writes look like `fishing` and `python`: a fork gets their arguments,
variables, current folder and standard streams, unless these are closed. Signals do not
reach the fork.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_PROGRAM = """#!{python} -IS
import json, os, socket, sys
streams = []
for number in range(3):
    try:
        os.fstat(number)
    except OSError:
        continue
    streams.append(number)
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({address!r})
    job = [{name!r}, sys.argv[1:], os.getcwd(), dict(os.environ), streams]
    socket.send_fds(server, [json.dumps(job).encode()], streams)
    code = server.recv(10)
sys.exit(int(code or 1))
"""


class ForkedCommands:
    """Programs in a folder, and the process that forks.

    A context manager; the process gets these variables.

    Attributes
    ----------
    fishing : Path
        The command line.
    python : Path
        Runs scripts: ``python FILE ...`` or ``python -c CODE ...``.
    environment : mapping of str to str
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.fishing, self.python = folder / "fishing", folder / "python"
        self.environment = environment
        address = folder / "socket"
        for program in (self.fishing, self.python):
            program.write_text(
                _PROGRAM.format(
                    python=sys.executable, address=str(address), name=program.name
                )
            )
            program.chmod(0o755)
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
    del sys.path[0]  # what lies beside this file is no part of a command
    with tempfile.TemporaryFile() as imported:
        connection, descriptors, job = _next_job(int(sys.argv[1]), imported.fileno())
        name, arguments, folder, variables, streams = job
        _set_streams(dict(zip(streams, descriptors, strict=True)))
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(variables)
        code = 1
        try:
            _PROGRAMS[name](arguments)
            code = 0
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            atexit._run_exitfuncs()
            if sys.stdout is not None:
                sys.stdout.flush()
            os.write(imported.fileno(), "\n".join([*sys.modules, ""]).encode())
            connection.send(b"%d" % code)
            os._exit(code)  # threads of libraries did not survive the fork


def _set_streams(descriptors: dict[int, int]) -> None:
    """Give this process the standard streams that there are, and close the others."""
    for number in range(3):
        if number in descriptors:
            os.dup2(descriptors[number], number)
            os.close(descriptors[number])
        else:
            os.close(number)
    # Python's own streams remember what they were opened on.
    sys.stdin, sys.stdout, sys.stderr = None, None, None  # type: ignore[assignment]
    if 0 in descriptors:
        sys.stdin = open(0)  # noqa: SIM115
    if 1 in descriptors:
        sys.stdout = open(1, "w")  # noqa: SIM115
    if 2 in descriptors:
        sys.stderr = open(2, "w", buffering=1, errors="replace")  # noqa: SIM115


def _fishing(arguments: list[str]) -> None:
    from fishing.cli.main import main

    main(arguments, prog_name="fishing")


def _python(arguments: list[str]) -> None:
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        exec(arguments[1], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
        runpy.run_path(arguments[0], run_name="__main__")


_PROGRAMS = {"fishing": _fishing, "python": _python}


def _next_job(number: int, imported: int) -> tuple[socket.socket, list[int], list[Any]]:
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
