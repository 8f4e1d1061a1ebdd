"""Time and memory of `fishing evaluate --landmarks` as the number of images grows.

Makes features up, as `fishing compress --dimensions 64` would leave them, for n images
to train on and n to test; evaluates dW7 in a process of its own; and prints processor
time, which other work hardly changes, peak memory and the exponents of growth.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from fishing.evaluate import evaluate
from fishing.store import Split, write_features

N_CLASSES, WIDTH = 20, 64
SETTINGS = {"net": "made up", "temperature": 2.0, "preprocess": {"size": 1}}


def main() -> None:
    """Print a line for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--landmarks", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.file:
        _measure(arguments.file, *arguments.landmarks)
        return
    print("| images | landmarks | processor seconds | peak memory, GB | mAP |")
    print("|---|---|---|---|---|")
    points: dict[int, list[tuple[float, float]]] = {}
    for n in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "features.h5"
            _make(path, n)
            for m in arguments.landmarks:
                seconds, memory, ap = _run(path, m)
                points.setdefault(m, []).append((math.log(n), math.log(seconds)))
                print(
                    f"| {n:,} | {m:,} | {seconds:.0f} | {memory:.2f} | {ap:.1f} |",
                    flush=True,
                )
    for m, logarithms in points.items():
        if len(logarithms) > 1:
            slope = np.polyfit(*zip(*logarithms, strict=True), 1)[0]
            print(f"exponent with {m:,} landmarks: {slope:.2f}")


def _run(path: Path, landmarks: int) -> list[float]:
    command = [sys.executable, __file__, "--file", str(path)]
    command += ["--landmarks", str(landmarks)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [float(word) for word in done.stdout.split()]


def _measure(path: Path, landmarks: int) -> None:
    """Print processor seconds, peak memory in GB, and mAP in per cent."""
    before = sum(os.times()[:4])
    record = evaluate(path, features=["dW7"], landmarks=landmarks).record
    seconds = sum(os.times()[:4]) - before
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(seconds, memory, 100 * record["features"]["dW7"]["mAP"])


def _make(path: Path, n: int) -> None:
    """Draw classes as clusters, in directions whose variances fall off."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, WIDTH + 1) ** -0.5
    centres = rng.normal(size=(2, N_CLASSES, WIDTH)) * spectrum
    splits = {}
    for name in ("trainval", "test"):
        classes = rng.integers(N_CLASSES, size=n)
        rows = (
            (centres[side, classes] + 1.5 * rng.normal(size=(n, WIDTH)) * spectrum)
            for side in (0, 1)
        )
        names = ("forward/x6", "backward/y7")
        splits[name] = Split(
            image_id=tuple(f"{name}{i:07d}" for i in range(n)),
            labels=np.where(np.arange(N_CLASSES) == classes[:, None], 1, -1).astype(
                np.int8
            ),
            classes=tuple(f"class{j:02d}" for j in range(N_CLASSES)),
            blobs={b: v.astype(np.float32) for b, v in zip(names, rows, strict=True)},
            failed_id=(),
            failed_reason=(),
            failed_index=np.zeros(0, np.int64),
            failed_labels=np.zeros((0, N_CLASSES), np.int8),
            devkit="",
            list_sha256="0" * 64,
        )
    write_features(path, SETTINGS, splits)


if __name__ == "__main__":
    main()
