"""Ways to store blobs: size, rates of writing and reading, and what rounding costs.

Prints tables and writes the same as JSON. The blobs are those of TinyAlexNet on real
photographs, and of an AlexNet with random weights, of which about half are zeros, less
than of a trained one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["GLOG_minloglevel"] = "2"  # noqa: SIM112, glog spells it so; before caffe
from fishing.evaluate import evaluate
from fishing.extract import extract
from fishing.images import ImageList, read_splits
from fishing.nets import NetSpec, load_net
from fishing.store import ExtractionSettings, FeaturesFile, Split, write_features
from fishing.store import write as storage
from fishing.store.settings import STORAGE

sys.path.insert(0, str(Path(__file__).parents[1] / "backends"))
from random_nets import random_net

# Columns and rows that are read at once: about what the kernel does.
_COLUMNS, _ROWS = 1664, 512
_OTHERS: dict[str, dict[str, Any]] = {
    "gzip level 4": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
}
Figures = dict[str, float]
Splits = dict[str, Split]


def main() -> None:
    """Run all benchmarks and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(__file__).parents[3] / "shared" / "data" / "caltech20"
    parser.add_argument("--data", type=Path, default=data, help="images and labels")
    parser.add_argument("--images", type=int, default=256, help="images for AlexNet")
    parser.add_argument(
        "--repeats", type=int, default=3, help="of which the best counts"
    )
    output = Path("build/bench/storage.json")
    parser.add_argument("--output", type=Path, default=output)
    options = parser.parse_args()
    storage._FILTERS.update(_OTHERS)  # as if they were choices, by the same code
    lists = read_splits(options.data, ["trainval", "test"])
    record: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings, tiny = _blobs(load_net("tinyalexnet"), lists, folder / "tiny.h5")
        record["TinyAlexNet"] = _compare("TinyAlexNet", settings, tiny, options.repeats)
        record["evaluation"] = _evaluation(folder / "f.h5", settings, tiny)
        some, spec = [_first(lists[0], options.images)], random_net("alexnet", folder)
        settings, large = _blobs(spec, some, folder / "large.h5")
        title = "AlexNet with random weights"
        record[title] = _compare(title, settings, large, options.repeats)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {options.output}")


def _compare(
    title: str, settings: dict[str, Any], splits: Splits, repeats: int
) -> dict[str, Figures]:
    """Store blobs in every way, those that `fishing extract` offers and others."""
    record = {"zeros, %": _zeros(splits)}
    print(f"\n{title}, {sum(map(len, splits.values()))} images; zeros in per cent")
    for blob, share in record["zeros, %"].items():
        print(f"  {blob:<15} {share:5.1f}")
    print(f"{'':31} size  write  read columns  rows")
    print(f"{'':31}    %   MB/s          MB/s  MB/s")
    for dtype in STORAGE["dtype"]:
        for compression in (*STORAGE["compression"], *_OTHERS):
            stored = {**settings, "dtype": dtype, "compression": compression}
            with tempfile.TemporaryDirectory() as folder:
                found = _measure(Path(folder) / "f.h5", stored, splits, repeats)
            record[f"{dtype} {compression}"] = found
            size, write, columns, rows = found.values()
            figures = f"{size:5.1f} {write:6.0f} {columns:13.0f} {rows:5.0f}"
            print(f"  {dtype} {compression:<20} {figures}", flush=True)
    return record


def _first(images: ImageList, n: int) -> ImageList:
    labels = None if images.labels is None else images.labels[:n]
    return dataclasses.replace(
        images, image_id=images.image_id[:n], path=images.path[:n], labels=labels
    )


def _blobs(
    spec: NetSpec, lists: list[ImageList], path: Path
) -> tuple[dict[str, Any], Splits]:
    """Extract, and take the blobs into memory, so that they cost nothing to read."""
    extract(ExtractionSettings(spec), lists, path, overwrite=True)
    with FeaturesFile(path) as file:
        splits = {
            name: dataclasses.replace(
                split, blobs={b: rows[:] for b, rows in split.blobs.items()}
            )
            for name, split in file.splits.items()
        }
        return file.settings, splits


def _zeros(splits: Splits) -> Figures:
    """Say how many per cent of each blob are zero."""
    first = next(iter(splits.values()))
    return {b: 100 * float((rows[:] == 0).mean()) for b, rows in first.blobs.items()}


def _measure(
    path: Path, settings: dict[str, Any], splits: Splits, repeats: int
) -> Figures:
    """Write a file and read it back, from the system's cache."""
    n_bytes = sum(
        4 * rows.shape[0] * rows.shape[1]
        for split in splits.values()
        for rows in split.blobs.values()
    )

    def rate(run: Callable[[], None]) -> float:
        return n_bytes / 1e6 / min(_timed(run) for _ in range(repeats))

    write = rate(lambda: write_features(path, settings, splits))
    return {
        "size, %": 100 * path.stat().st_size / n_bytes,
        "write, MB/s": write,
        "read by columns, MB/s": rate(lambda: _read(path, by_columns=True)),
        "read by rows, MB/s": rate(lambda: _read(path, by_columns=False)),
    }


def _read(path: Path, *, by_columns: bool) -> None:
    with FeaturesFile(path) as file:
        for split in file.splits.values():
            for rows in split.blobs.values():
                n, d = rows.shape
                if by_columns:
                    for start in range(0, d, _COLUMNS):
                        rows[:, start : start + _COLUMNS]
                else:
                    for start in range(0, n, _ROWS):
                        rows[start : start + _ROWS]


def _evaluation(path: Path, settings: dict[str, Any], splits: Splits) -> dict[str, Any]:
    """Evaluate the eleven features of a file stored in each way that we offer."""
    results: dict[str, Any] = {}
    for dtype in STORAGE["dtype"]:
        for compression in STORAGE["compression"]:
            stored = {**settings, "dtype": dtype, "compression": compression}
            write_features(path, stored, splits)
            start = time.perf_counter()
            features = evaluate(path).record["features"]
            results[f"{dtype} {compression}"] = {
                "seconds": time.perf_counter() - start,
                "mAP": {name: 100 * found["mAP"] for name, found in features.items()},
            }
    exact = results["float32 none"]["mAP"]
    print(f"\nevaluation{'':20}     s   mAP differs at most by")
    for name, found in results.items():
        differences = [abs(found["mAP"][feature] - exact[feature]) for feature in exact]
        found["largest difference"] = max(differences)
        print(f"  {name:<27} {found['seconds']:6.2f}   {max(differences):.3f} points")
    rounded = results["float16 none"]["mAP"]
    print(f"\nmAP{'':18} float32  float16")
    for feature in exact:
        print(f"  {feature:<18} {exact[feature]:8.2f} {rounded[feature]:8.2f}")
    return results


def _timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
