"""A Dask scheduler on the loopback and its workers, each a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_OPTIONS = ["--host", "127.0.0.1", "--no-dashboard"]


class DaskProcesses:
    """A scheduler and workers, without the nannies that would start workers again.

    The scheduler file is `file`; `folder` has the log too. A context manager, whose end
    kills them.
    """

    def __init__(
        self,
        folder: Path,
        n_workers: int = 0,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.file, self._log = folder / "scheduler.json", folder / "dask.log"
        self._options = list(options)
        self._environment = {**os.environ, **(environment or {})}
        self.workers: list[subprocess.Popen[bytes]] = []
        self.start_scheduler()
        for _ in range(n_workers):
            self.start_worker()

    def start_scheduler(self) -> None:
        self.file.unlink(missing_ok=True)
        self.scheduler = self._start(
            ["dask_scheduler", "--port", "0", *_OPTIONS, *self._options]
        )
        while not self.file.exists():
            assert self.scheduler.poll() is None, self._log.read_text()
            time.sleep(0.02)

    def start_worker(
        self,
        threads: int = 1,
        shell: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a worker, after a line of a shell if there is one to run before."""
        options = ["--no-nanny", "--memory-limit", "0", "--nthreads", str(threads)]
        command = ["dask_worker", *options, *_OPTIONS, *self._options]
        worker = self._start(command, shell, environment)
        self.workers.append(worker)
        return worker

    def n_registered(self) -> int:
        """Count the workers that have ever reached the scheduler."""
        return self._log.read_text().count("Register worker")

    def _start(
        self,
        command: list[str],
        shell: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        name, *options = command
        words = [sys.executable, "-m", f"distributed.cli.{name}", *options]
        words += ["--scheduler-file", str(self.file)]
        if shell:
            words = ["bash", "-c", f'{shell}; exec "$0" "$@"', *words]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                words,
                stdout=log,
                stderr=log,
                cwd=self.file.parent,
                env={**self._environment, **(environment or {})},
            )

    def __enter__(self) -> DaskProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.scheduler):
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
