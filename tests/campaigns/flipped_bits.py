"""Flip bits of a features file, one at a time, and ask whether it is still whole.

Each flip is verified in a process that may crash or hang. A flip that is not found must
have changed nothing: all that can be read of the file is compared. Prints what became
of the flips, and which part of the file was named.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fishing.errors import StoreError
from fishing.store import FeaturesFile, storage_settings, verify, write_features

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from conftest import SETTINGS, make_split
from forked_index import use_forks

_SECONDS = 10  # for one flip; the file is of a few kB


def main() -> None:
    """Run the campaign and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=int, default=1, help="flip every Nth bit only")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compression", default="none")
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        path = Path(folder) / "f.h5"
        storage = storage_settings(options.dtype, options.compression)
        small_file(path, storage)
        n_bits = 8 * path.stat().st_size
        outcomes, silent = flip_all(path, range(0, n_bits, options.step))
    n = sum(outcomes.values())
    print(f"{n} of {n_bits} bits in {time.perf_counter() - start:.0f} s")
    for name, count in outcomes.most_common():
        print(f"{count:>8} {name}")
    for place in silent:
        print(f"bit {place} changed what is read, and was not found")
    sys.exit(bool(silent))


def small_file(path: Path, storage: dict[str, str]) -> None:
    """Write a features file that has everything in it, and little of it."""
    rng = np.random.default_rng(0)
    splits = {
        "trainval": make_split(rng, 3, failed=(1,), width=2),
        "test": make_split(
            rng, 2, labels=None, failed_labels=None, classes=(), width=2
        ),
    }
    write_features(path, {**SETTINGS, **storage}, splits)


def flip_all(path: Path, bits: Sequence[int]) -> tuple[Counter[str], list[int]]:
    """Flip bits in turn; count what becomes of them, and list those that go unseen."""
    outcomes: Counter[str] = Counter()
    silent: list[int] = []
    whole = path.read_bytes()
    expected = _everything(path)
    todo = list(bits)
    while todo:
        found = _in_a_child(path, whole, expected, todo)
        for bit, outcome in zip(todo, found, strict=False):
            outcomes[outcome] += 1
            if outcome == "SILENT":
                silent.append(bit)
        todo = todo[len(found) :]
    path.write_bytes(whole)
    return outcomes, silent


def _in_a_child(
    path: Path, whole: bytes, expected: Any, bits: Sequence[int]
) -> list[str]:
    """Try flips until the process ends; the last outcome may be that it crashed."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        use_forks()
        with os.fdopen(theirs, "w") as out:
            for bit in bits:
                signal.alarm(_SECONDS)
                print(_outcome(path, whole, bit, expected), file=out, flush=True)
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as answers:
        found = answers.read().splitlines()
    _, status = os.waitpid(child, 0)
    if len(found) < len(bits):
        how = signal.Signals(os.WTERMSIG(status)).name if status & 127 else status
        found.append(f"CRASH {how}")
    return found


def _outcome(path: Path, whole: bytes, bit: int, expected: Any) -> str:
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        verify(path)
    except StoreError as error:
        text = str(error)
        if "found damage in " in text:
            named = text.split("found damage in ")[1].split("; take a copy")[0]
            names = [part.split(": ")[0] for part in named.split("; ")]
            return "found in " + (names[0] if len(names) == 1 else "several parts")
        return "found: " + text.split("found ")[-1].split(";")[0].split(",")[0][:60]
    return "changes nothing" if _everything(path) == expected else "SILENT"


def _everything(path: Path) -> str:
    """Read all that a features file says."""
    with FeaturesFile(path) as file:
        return json.dumps(
            [
                file.settings,
                {
                    name: [
                        split.image_id,
                        split.classes,
                        None if split.labels is None else split.labels.tolist(),
                        {blob: rows[:].tolist() for blob, rows in split.blobs.items()},
                        split.failed_id,
                        split.failed_reason,
                        split.failed_index.tolist(),
                        None
                        if split.failed_labels is None
                        else split.failed_labels.tolist(),
                        split.devkit,
                        split.list_sha256,
                    ]
                    for name, split in file.splits.items()
                },
            ]
        )


def _memory() -> str | None:
    """Choose a disk that is none, where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    main()
