"""Kill extractions at random moments, again while they go on, and compare the bytes.

A trial is an extraction of a few hundred images that is killed at a random operation on
its files (or tears it), taken up and killed again a random number of times, and then
left alone. SHA-256 of its file must be that of an uninterrupted run, and what was
committed must not have been done twice. `--backend` runs real commands, which takes
seconds a kill; without it a net that costs nothing runs in forks.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "reliability"))
from faults import Extractions, build, environment

# Runs a command; with a fault, until it is met. Gives the exit code and the rows that
# were committed, where that is known.
Run = Callable[[list[object], str, int], tuple[int, int, int]]


# Images that may have run and not be on the disk yet: the batch that is written and the
# one that runs, see fishing.backends.workers.run_ahead.
IN_FLIGHT = 2 * 7


def main() -> None:
    """Run the campaign and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="kills")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--backend", choices=["caffe", "onnx"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=450, help="at most")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = write_images(folder / "images", options.images)
        (folder / "disk").mkdir()
        with runner(folder, options.backend) as run:
            figures = campaign(run, rng, images, folder / "disk", options)
    print(", ".join(f"{value} {key}" for key, value in figures.items()))


def campaign(
    run: Run,
    rng: random.Random,
    images: Path,
    disk: Path,
    options: argparse.Namespace,
) -> dict[str, int]:
    """Kill until there were enough kills; an AssertionError tells of a breach."""
    path = disk / "f.h5"
    command: list[object] = ["extract", "--net", "tinyalexnet", "--data", images]
    command += ["--output", path, "--batch-size", 7]
    if options.backend:
        command += ["--backend", options.backend]
    code, n_operations, n_images = run(command, "count", 0)
    assert code == 0
    expected = _sha256(path)
    figures = dict.fromkeys(("kills", "tears", "trials"), 0)
    end = time.monotonic() + options.seconds
    while figures["kills"] < options.count and time.monotonic() < end:
        shutil.rmtree(disk)
        disk.mkdir()
        left, where = n_images, []
        figures["trials"] += 1
        for _ in range(rng.randint(1, 5)):
            mode = rng.choice(["kill", "tear"])
            # Early ones as well, which leave little done: of equal weight by its order.
            nth = int(n_operations ** rng.uniform(0.3, 1))
            code, _, n_run = run(command, mode, nth)
            where.append((mode, nth, code))
            assert code in (0, -9), where
            figures["kills"] += code == -9
            figures["tears"] += code == -9 and mode == "tear"
            left -= max(0, n_run - IN_FLIGHT)
            assert not path.exists() or _sha256(path) == expected, where
        code, _, n_run = run(command, "count", 0)
        assert code == 0, where
        assert _sha256(path) == expected, where
        names = {p.name for p in disk.iterdir()}
        assert names == {"f.h5", "f.h5.images"}, where
        assert n_run <= left, (where, n_run, left)
    return figures


@contextmanager
def runner(folder: Path, backend: str | None) -> Iterator[Run]:
    """Run real commands, or forks of one process with a net that costs nothing."""
    library = build(folder)
    if not backend:
        with Extractions(library, folder / "disk") as extractions:

            def fork(
                command: list[object], mode: str, nth: int
            ) -> tuple[int, int, int]:
                ended = extractions(command, mode, nth)
                return ended.code, ended.n_operations, ended.n_images

            yield fork
        return

    def real(command: list[object], mode: str, nth: int) -> tuple[int, int, int]:
        words = [sys.executable, "-m", "fishing", *map(str, command)]
        fault = environment(library, folder / "disk", mode, nth)
        fault["FAULTS_COUNT"] = str(folder / "count")
        done = subprocess.run(words, env=fault, capture_output=True)
        n_operations = 0
        if done.returncode == 0:
            n_operations = int((folder / "count").read_text())
        return done.returncode, n_operations, 0

    yield real


def write_images(folder: Path, n: int) -> Path:
    """Write small images, and bad files among them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        image = rng.integers(0, 256, (66, 70, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i:04d}.png"), image)
        if i % 17 == 5:
            os.truncate(folder / f"{i:04d}.png", 0)
    return folder


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
