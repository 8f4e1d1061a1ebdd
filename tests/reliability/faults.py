"""Extractions on a disk that fails, or that are killed, at an operation of choice.

`Extractions` runs the command line in forks of one process, which has tests/faults.c
preloaded and a net that costs nothing; `environment` preloads it into any process.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def build(folder: Path) -> Path:
    """Compile faults.c."""
    library = folder / "faults.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", library, _HERE / "faults.c"]
    subprocess.run([*map(str, command), "-ldl"], check=True)
    return library


def environment(
    library: Path, folder: Path, mode: str, nth: int, errno: int = 0
) -> dict[str, str]:
    """Say by what variables a process gets a fault; folder holds no blanks."""
    fault = f"{os.path.realpath(folder)}/ {mode} {nth} {errno}"
    return {**os.environ, "LD_PRELOAD": str(library), "FAULTS": fault}


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes
    ----------
    code : int
        Exit code, or minus the signal.
    stderr : str
    n_operations : int
        How often it changed files, had it not been killed.
    n_committed : int
        Rows that it appended and was told are safe.
    n_images : int
        Images that went through its net.
    """

    code: int
    stderr: str
    n_operations: int
    n_committed: int
    n_images: int


class Extractions:
    """A process that forks extractions; a context manager.

    Parameters
    ----------
    library : Path
        As `build` makes it.
    folder : Path
        Faults are met by files in it.
    """

    def __init__(self, library: Path, folder: Path) -> None:
        self._folder = f"{os.path.realpath(folder)}/"
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "LD_PRELOAD": str(library)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Extractions:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def __call__(
        self,
        arguments: Sequence[object],
        mode: str = "count",
        nth: int = 0,
        errno: int = 0,
    ) -> Ended:
        """Run `fishing` with these arguments to its end."""
        job = [list(map(str, arguments)), self._folder, mode, nth, errno]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return Ended(**json.loads(self._process.stdout.readline()))


def _main() -> None:
    """Read jobs, and run each in a fork."""
    sys.path.append(str(_HERE.parent))
    import fishing.extract.to_file
    from campaigns.forked_index import index_here
    from conftest import MarkerNet
    from fishing.cli.main import main
    from fishing.store import FeaturesWriter, index_process

    index_process.run = index_here
    faults = ctypes.CDLL(None)
    append = FeaturesWriter.append

    for line in sys.stdin:
        arguments, folder, mode, nth, errno = json.loads(line)
        with (
            tempfile.TemporaryFile() as stderr,
            tempfile.TemporaryFile() as log,
            tempfile.TemporaryFile() as modules,
        ):

            def tell(kind: str, n: int, to: Any = log) -> None:
                os.write(to.fileno(), f"{kind} {n}\n".encode())

            child = os.fork()
            if not child:
                os.dup2(stderr.fileno(), 2)
                os.dup2(stderr.fileno(), 1)

                def logged(self: Any, split: str, n: int, blobs: Any, f: Any) -> None:
                    append(self, split, n, blobs, f)
                    tell("committed", max(map(len, blobs.values()), default=0))

                class Net(MarkerNet):
                    def run(self, data: Any) -> Any:
                        tell("images", len(data))
                        return super().run(data)

                FeaturesWriter.append = logged  # type: ignore[method-assign]

                def open_backend(*_: Any, batch_size: int, **__: Any) -> Net:
                    net = Net()
                    net.batch_size = batch_size
                    return net

                fishing.extract.to_file.open_backend = open_backend  # type: ignore
                code = 1
                try:
                    faults.faults_arm(folder.encode(), mode.encode(), nth, errno)
                    main(arguments, prog_name="fishing")
                except SystemExit as end:
                    code = int(end.code or 0)
                finally:
                    n = faults.faults_count()
                    modules.seek(0)
                    modules.write("\n".join(sys.modules).encode())
                    modules.flush()
                    faults.faults_arm(b"", b"count", 0, 0)
                    tell("operations", n)
                    sys.stderr.flush()
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            found: dict[str, list[int]] = {}
            log.seek(0)
            for entry in log.read().decode().splitlines():
                kind, number = entry.split()
                found.setdefault(kind, []).append(int(number))
            stderr.seek(0)
            record = {
                "code": os.waitstatus_to_exitcode(status),
                "stderr": stderr.read().decode(errors="replace"),
                "n_operations": sum(found.get("operations", [])),
                "n_committed": sum(found.get("committed", [])),
                "n_images": sum(found.get("images", [])),
            }
            modules.seek(0)
            for name in modules.read().decode().split():
                if name not in sys.modules:  # spare the next fork the time
                    with suppress(ImportError):
                        importlib.import_module(name)
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    _main()
