"""Kill workers, the scheduler and the client of a Dask cluster, and compare the bytes.

A trial is an extraction into shards by a scheduler and workers on the loopback. Every
few seconds one of the processes, drawn at random, is killed by SIGKILL and replaced.
The same command goes on after the client or the scheduler was lost. Once a client ends
with exit code 0, all files must have the bytes of an undisturbed run, and no others may
be there.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kills import write_images

sys.path.insert(0, str(Path(__file__).parents[1]))
from extract.dask_processes import DaskProcesses

_BATCH_SIZE = 8
# How the command may end after the scheduler was killed, in its last line.
_LOST = (
    "expected the Dask scheduler to stay",
    "expected a Dask scheduler at",
    "expected --scheduler local, an address",  # before there was another file
)
_ENVIRONMENT = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}


def main() -> None:
    """Run the campaign and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=120, help="kills")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--interval", type=float, default=4, help="seconds, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600, help="at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = Campaign(Path(name), options).run()
    print(", ".join(f"{value} {key}" for key, value in figures.items()))


class Campaign:
    """Kills until there were enough kills; an AssertionError tells of a breach."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._folder, self._options = folder, options
        self._rng = random.Random(options.seed)
        self._images = write_images(folder / "images", options.images)
        targets = ("workers", "schedulers", "clients")
        self._figures = dict.fromkeys((*targets, "trials", "images"), 0)
        self._end = time.monotonic() + options.seconds

    def run(self) -> dict[str, int]:
        """Run trials, and return how many processes of each kind were killed."""
        expected = self._folder / "expected"
        command = self._command(expected)
        subprocess.run(command, check=True, capture_output=True)
        while self._n_kills() < self._options.count and time.monotonic() < self._end:
            self._trial(self._folder / f"trial{self._figures['trials']}", expected)
            self._figures["trials"] += 1
            self._figures["images"] += self._options.images
            print(self._figures, flush=True)
        return self._figures

    def _n_kills(self) -> int:
        return sum(self._figures[key] for key in ("workers", "schedulers", "clients"))

    def _command(self, output: Path, *options: object) -> list[str]:
        words = [sys.executable, "-m", "fishing", "extract", "--net", "tinyalexnet"]
        words += ["--data", str(self._images), "--output", str(output)]
        words += ["--threads", "1", "--batch-size", str(_BATCH_SIZE)]
        return [*words, "--shards", str(self._options.shards), *map(str, options)]

    def _trial(self, folder: Path, expected: Path) -> None:
        folder.mkdir()
        output = folder / "features"
        with DaskProcesses(folder, self._options.workers) as processes:
            command = self._command(output, "--scheduler", processes.file)
            while True:
                client = subprocess.Popen(
                    command,
                    env=_ENVIRONMENT,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                killed = self._disturb(client, processes)
                _, stderr = client.communicate()
                if client.returncode == 0:
                    break
                last = ["", *stderr.splitlines()][-1].removeprefix("fishing: ")
                assert (client.returncode, killed) == (-9, "clients") or (
                    client.returncode == 2
                    and killed == "schedulers"
                    and last.startswith(_LOST)
                ), (client.returncode, killed, stderr)
                assert "Traceback" not in stderr, stderr
        _check_same(output, expected)

    def _disturb(self, client: subprocess.Popen[str], processes: DaskProcesses) -> str:
        """Kill now and then, until the client has ended or will end."""
        while True:
            try:
                client.wait(self._rng.uniform(0.2, self._options.interval))
                return ""
            except subprocess.TimeoutExpired:
                pass
            if self._n_kills() >= self._options.count:
                client.wait()
                return ""
            kinds = ("workers", "schedulers", "clients")
            kind = self._rng.choices(kinds, weights=(6, 1, 1))[0]
            self._figures[kind] += 1
            if kind == "workers":
                worker = self._rng.choice(processes.workers)
                self._replace(worker, processes)
            elif kind == "clients":
                client.kill()
                return kind
            else:
                processes.scheduler.kill()
                processes.scheduler.wait()
                before = list(processes.workers)
                processes.start_scheduler()
                client.wait()
                for worker in before:  # they may still be at work meanwhile
                    time.sleep(self._rng.uniform(0, 1))
                    self._replace(worker, processes)
                return kind

    def _replace(
        self, worker: subprocess.Popen[bytes], processes: DaskProcesses
    ) -> None:
        worker.kill()
        worker.wait()
        processes.workers.remove(worker)
        processes.start_worker()


def _check_same(folder: Path, expected: Path) -> None:
    files = {p.relative_to(expected) for p in expected.rglob("*")}
    assert {p.relative_to(folder) for p in folder.rglob("*")} == files
    for file in files:
        one, other = expected / file, folder / file
        assert one.is_dir() or one.read_bytes() == other.read_bytes(), file


if __name__ == "__main__":
    main()
