"""Time and memory of each stage, as ratios measured in one run.

``make bench`` prints a table and writes the same as JSON. AlexNet gets random weights:
what its numbers are does not change what they cost.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ["GLOG_minloglevel"] = "2"  # noqa: SIM112, glog spells it so; before caffe
import caffe
import cv2
import numpy as np

from fishing.backends.caffe.net import gradient_net
from fishing.evaluate import decision_function
from fishing.images import read_splits
from fishing.kernels import FEATURES, Kernels
from fishing.nets import BLOBS, NetSpec, read_net
from fishing.store import FeaturesFile, FeaturesWriter, Split, write_features

sys.path.insert(0, str(Path(__file__).parents[1] / "backends"))
from random_nets import random_net

Rows = list[tuple[str, float, str]]


def main() -> None:
    """Run all benchmarks and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256, help="images of the stages")
    parser.add_argument("--repeats", type=int, default=15, help="runs of the net")
    output = Path("build/bench/extraction.json")
    parser.add_argument("--output", type=Path, default=output)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spec = random_net("alexnet", Path(folder))
        rows = [
            *net_speed(spec, options.repeats),
            *stages(spec, Path(folder), options.images),
            *evaluation_speed(Path(folder), 1000),
        ]
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "caffe": json.loads(Path(caffe.__file__).with_name("build.json").read_text()),
        "figures": {name: {"value": value, "unit": unit} for name, value, unit in rows},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    for name, value, unit in rows:
        print(f"{name:<58} {value:>9.2f} {unit}")
    print(f"written to {options.output}")


def net_speed(spec: NetSpec, repeats: int) -> Rows:
    """Time pycaffe: forward alone against forward and backward, in turns."""
    rows: Rows = []
    for batch_size in (1, 32):
        derived = gradient_net(
            read_net(spec.model),
            spec.blobs,
            temperature=2.0,
            batch_size=batch_size,
            input_shape=spec.preprocess.shape,
        )
        with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
            file.write(str(derived.param))
            file.flush()
            weights = str(spec.folder / spec.weights.file)
            net = caffe.Net(file.name, weights, caffe.TEST)
        shape = net.blobs["data"].shape
        net.blobs["data"].data[...] = np.random.default_rng(1).normal(0, 60, shape)
        net.forward()
        net.backward()
        n = repeats * (4 if batch_size == 1 else 1)
        pairs = [(timed(net.forward), timed(net.backward)) for _ in range(n)]
        forward = median(f for f, _ in pairs)
        both = median(f + b for f, b in pairs)
        name = f"AlexNet, batch {batch_size}"
        rows += [
            (f"{name}: forward and backward", batch_size / both, "images/s"),
            (f"{name}: backward adds to forward", 100 * (both / forward - 1), "%"),
        ]
    return rows


def stages(spec: NetSpec, folder: Path, n: int) -> Rows:
    """Time each stage of an extraction of n JPEG files of 500 x 375 by itself."""
    images = folder / "images"
    images.mkdir()
    rng = np.random.default_rng(2)
    for i in range(n):
        coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(images / f"{i:05d}.jpg"), image)
    (data,) = read_splits(images, [])
    preprocess = spec.preprocess
    reading = timed(lambda: [preprocess(path) for path in data.path])

    output = folder / "features.h5"
    command = [sys.executable, "-m", "fishing", "extract", "--net", str(folder)]
    command += ["--backend", "caffe"]
    command += ["--data", str(images), "--output", str(output)]
    whole = timed(lambda: subprocess.run(command, check=True, capture_output=True))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024

    with FeaturesFile(output) as file:
        blobs = {name: rows[:] for name, rows in file.split("all").blobs.items()}
        settings = file.settings
    widths = {name: rows.shape[1] for name, rows in blobs.items()}
    with FeaturesWriter(folder / "again.h5", settings) as writer:
        writer.open_split(data, widths)

        def append() -> None:
            for i in range(0, n, 32):
                batch = {name: rows[i : i + 32] for name, rows in blobs.items()}
                writer.append("all", min(i + 32, n), batch, {})

        appending, publishing = timed(append), timed(writer.publish)
    return [
        (f"{n} JPEG files to features.h5, all in all", n / whole, "images/s"),
        ("share of it: reading and preparing, one thread", 100 * reading / whole, "%"),
        ("share of it: appending rows", 100 * appending / whole, "%"),
        ("share of it: writing features.h5", 100 * publishing / whole, "%"),
        ("peak memory of the largest process", peak, "MiB"),
    ]


def evaluation_speed(folder: Path, n: int) -> Rows:
    """Time kernels and SVMs of 20 classes on made-up blobs of AlexNet's widths."""
    rng = np.random.default_rng(3)
    widths = dict(
        zip(BLOBS, (9216, 4096, 4096, 1000, 1000, 4096, 4096, 1000), strict=True)
    )
    made = {}
    for name in ("trainval", "test"):
        labels = np.where(rng.random((n, 20)) < 0.1, 1, -1).astype(np.int8)
        blobs: dict[str, Any] = {
            blob: np.maximum(rng.standard_normal((n, d), dtype=np.float32), 0)
            for blob, d in widths.items()
        }
        made[name] = Split(
            image_id=tuple(map(str, range(n))),
            labels=labels,
            classes=tuple(f"class{i:02d}" for i in range(20)),
            blobs=blobs,
            failed_id=(),
            failed_reason=(),
            failed_index=np.empty(0, np.int64),
            failed_labels=np.empty((0, 20), np.int8),
            devkit="",
            list_sha256="",
        )
    path = folder / "made.h5"
    settings = {"preprocess": {}}
    write_features(path, settings, made)
    with FeaturesFile(path) as file:
        train, test = file.split("trainval"), file.split("test")
        kernels = Kernels(train, test)
        gram_time = timed(lambda: [kernels(feature) for feature in FEATURES])
        K_train, K_test = kernels("dW7")
        assert train.labels is not None
        labels = train.labels
        svm_time = timed(lambda: decision_function(K_train, K_test, labels))
    return [
        (f"{n} + {n} images: kernels of eleven features", gram_time, "s"),
        ("SVMs of 20 classes, one feature", svm_time, "s"),
    ]


def timed(run: Callable[[], Any]) -> float:
    """Measure the seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
