"""Compare two workers of one thread with one process of two threads, in one run.

Whole commands are timed in turns, the start of Python and of the client included. The
workers of the scheduler have the net of the turn before; those of `local` start anew.
A figure is the median over the turns of a ratio within a turn.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ["GLOG_minloglevel"] = "2"  # noqa: SIM112, glog spells it so; before caffe
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "backends"))
from random_nets import random_net

from extract.dask_processes import DaskProcesses


def main() -> None:
    """Run the benchmark and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="alexnet")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, DaskProcesses(Path(name), 2) as dask:
        folder = Path(name)
        command = [sys.executable, "-m", "fishing", "extract", "--net"]
        (folder / "net").mkdir()
        command += [str(random_net(options.net, folder / "net").folder)]
        command += ["--data", str(write_images(folder / "images", options.images))]
        command += ["--shards", str(options.shards), "--output", str(folder / "f")]
        kinds = {
            "one process of two threads": ["--threads", "2"],
            "two workers": ["--threads", "1", "--scheduler", str(dask.file)],
            "local": ["--threads", "1", "--scheduler", "local"],
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(options.turns + 1):
            for kind, words in kinds.items():
                begin = time.monotonic()
                subprocess.run([*command, *words], check=True, capture_output=True)
                seconds[kind].append(time.monotonic() - begin)
                shutil.rmtree(folder / "f")
        base = seconds.pop("one process of two threads")[1:]
        rate = options.images / median(base)
        print(f"one process of two threads: {rate:.1f} images/s")
        for kind, times in seconds.items():
            ratios = [a / b for a, b in zip(base, times[1:], strict=True)]
            print(f"{kind}: {median(ratios):.2f} times as many", *np.round(ratios, 2))


def write_images(folder: Path, n: int) -> Path:
    """Write JPEG files of the size of VOC's photographs."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        small = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i:05d}.jpg"), cv2.resize(small, (500, 375)))
    return folder


if __name__ == "__main__":
    main()
