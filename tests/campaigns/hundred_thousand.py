"""Extract 100,000 small images: memory and rate on the way, and the file at the end.

Prints the resident memory and the rate near 10,000 and near 100,000 images, and the
seconds that opening the file and going on with it take.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fishing.images import read_splits
from fishing.store import FeaturesFile, FeaturesWriter, verify


def main() -> None:
    """Run it and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--backend", default="onnx")
    parser.add_argument("--folder", type=Path, help="keep the images and the file here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        images = write_images(folder / "images", options.images)
        path = folder / "features.h5"
        samples = extract(images, path, options.backend)
        for share in (0.1, 1.0):
            report(samples, share * options.images)
        lists = read_splits(images, ["all"])
        with FeaturesFile(path) as file:
            settings = file.settings
            widths = {k: rows.shape[1] for k, rows in file.split("all").blobs.items()}
            rows = {k: rows[:32] for k, rows in file.split("all").blobs.items()}
        print(f"opening the file: {seconds(lambda: FeaturesFile(path)):.2f} s")
        partial = folder / "interrupted.h5"
        with FeaturesWriter(partial, settings) as writer:
            writer.open_split(lists[0], widths)
            for start in range(0, options.images - 32, 32):
                writer.append("all", start + 32, rows, {})

        def go_on(path: Path) -> None:
            with FeaturesWriter(path, settings) as writer:
                for images in writer.pending(lists):
                    writer.open_split(images, widths)

        print(f"going on, finished: {seconds(lambda: go_on(path)):.2f} s")
        print(f"going on, interrupted: {seconds(lambda: go_on(partial)):.2f} s")
        print(f"verifying it: {seconds(lambda: verify(path)):.1f} s", end=", ")
        print(f"{path.stat().st_size / 1e9:.2f} GB")


def write_images(folder: Path, n: int) -> Path:
    """Write n small images and a list of them; leave them where they are."""
    if not (folder / "all.txt").exists():
        rng = np.random.default_rng(0)
        names = [f"{i // 1000:03d}/{i:06d}.jpg" for i in range(n)]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / name), cv2.resize(small, (80, 70)))
        (folder / "all.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def extract(images: Path, path: Path, backend: str) -> list[dict[str, Any]]:
    """Run the command, and look at it every half second."""
    command = [sys.executable, "-m", "fishing", "extract", "--net", "tinyalexnet"]
    command += ["--data", str(images), "--split", "all", "--backend", backend]
    process = subprocess.Popen([*command, "--output", str(path), "--overwrite"])
    journal = path.with_name(f"{path.name}.partial") / "all.journal"
    samples: list[dict[str, Any]] = []
    start = time.perf_counter()
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        memory = [line.split()[1] for line in status.splitlines() if "VmRSS" in line]
        n_done = _n_done(journal)
        if memory:
            record = {"seconds": time.perf_counter() - start, "n": n_done}
            samples.append({**record, "MiB": int(memory[0]) / 1024})
        time.sleep(0.5)
    if process.returncode:
        sys.exit(f"the extraction ended with {process.returncode}")
    print(f"{samples[-1]['seconds']:.0f} s, {max(s['MiB'] for s in samples):.0f} MiB")
    Path("build").mkdir(exist_ok=True)
    Path("build/hundred_thousand.json").write_text(json.dumps(samples))
    return samples


def _n_done(journal: Path) -> int:
    """Read the last whole line of the journal."""
    try:
        with journal.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 1000))
            lines = [line for line in file if line.endswith(b"}\n")]
        return int(json.loads(lines[-1]).get("done", 0))
    except (OSError, ValueError, IndexError):
        return 0


def report(samples: list[dict[str, Any]], n: float) -> None:
    """Print memory and rate over the last fifth before n images."""
    near = [s for s in samples if 0.8 * n < s["n"] < n]
    first, last = near[0], near[-1]
    rate = (last["n"] - first["n"]) / (last["seconds"] - first["seconds"])
    memory = float(np.median([s["MiB"] for s in near]))
    print(f"near {n:.0f} images: {memory:.1f} MiB, {rate:.0f} images/s")


def seconds(run: Callable[[], object]) -> float:
    """Measure a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
