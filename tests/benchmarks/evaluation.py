"""Kernels, SVMs and a whole evaluation at the size of VOC 2007, as ratios of one run.

The features are made up, of AlexNet's widths; the labels are VOC's own where the lists
of the devkit are there. Prints a table and writes the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn
from numpy.typing import NDArray
from scipy.linalg.blas import sgemm, ssyrk
from sklearn.svm import SVC

from fishing.evaluate import decision_function
from fishing.kernels import FEATURES, Kernels, feature_blobs
from fishing.nets import BLOBS
from fishing.store import FeaturesFile, Split, write_features

ROOT = Path(__file__).parents[2]
LISTS = ROOT.parent / "shared" / "data" / "voc2007-imagesets-main.tar.xz"
WIDTHS = dict(zip(BLOBS, (9216, 4096, 4096, 1000, 1000, 4096, 4096, 1000), strict=True))
N_CLASSES = 20
#: What grows is measured on these, which need three of the eight blobs.
GROWING = ("x6", "x7", "dW7")

Row = tuple[str, float, str]
Labels = NDArray[np.int8]

_CHILD = """
import json, resource, sys, time
from pathlib import Path
from fishing.evaluate import evaluation as module

spent = {"kernels": 0.0, "SVMs": 0.0}

def timing(run, stage):
    def timed(*args, **options):
        start = time.perf_counter()
        result = run(*args, **options)
        spent[stage] += time.perf_counter() - start
        return result
    return timed

module.Kernels.__call__ = timing(module.Kernels.__call__, "kernels")
module.decision_function = timing(module.decision_function, "SVMs")
start = time.perf_counter()
outcome = module.evaluate(Path(sys.argv[1]), features=sys.argv[2:])
spent["all"] = time.perf_counter() - start
# Unlike ru_maxrss, this is not inherited from the parent.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
spent["memory"] = int(status["VmHWM"].split()[0]) * 1024
print(json.dumps(spent))
"""


def main() -> None:
    """Run the benchmarks and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="turns of each product")
    parser.add_argument(
        "--growth",
        type=int,
        nargs="*",
        default=[],
        metavar="FACTOR",
        help="evaluate as many times the images too, such as 2 4",
    )
    parser.add_argument("--lists", type=Path, default=LISTS, help="ImageSets/Main, tar")
    output = Path("build/bench/evaluation.json")
    parser.add_argument("--output", type=Path, default=output)
    options = parser.parse_args()
    labels = [voc_labels(options.lists, split) for split in ("trainval", "test")]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.h5"
        make_features(path, labels, WIDTHS)
        with FeaturesFile(path) as file:
            train, test = file.split("trainval"), file.split("test")
            rows += gram_speed(train, test, options.repeats)
            for feature in ("x7", "dW7"):
                rows += svm_speed(train, test, feature)
        rows += whole(path, "eleven features", FEATURES)
        path.unlink()
        needed = set().union(*map(feature_blobs, GROWING))
        narrow = {b: w if b in needed else 8 for b, w in WIDTHS.items()}
        for factor in [1, *options.growth] if options.growth else []:
            more = [np.tile(y, (factor, 1)) for y in labels]
            make_features(path, more, narrow)
            name = f"{' '.join(GROWING)}, {factor} times the images"
            rows += whole(path, name, GROWING)
            path.unlink()
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__,
        "images": [len(y) for y in labels],
        "figures": {name: {"value": value, "unit": unit} for name, value, unit in rows},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    for name, value, unit in rows:
        print(f"{name:<64} {value:>10.4g} {unit}")
    print(f"written to {options.output}")


def voc_labels(lists: Path, split: str) -> Labels:
    """Read VOC 2007's labels, or make up as many with its share of each label."""
    if not lists.exists():
        n = {"trainval": 5011, "test": 4952}[split]
        rng = np.random.default_rng(n)
        share = {-1: 0.916, 0: 0.008, 1: 0.076}
        values = np.array(list(share), np.int8)
        return rng.choice(values, (n, N_CLASSES), p=list(share.values()))
    with tarfile.open(lists) as archive:
        names = [m.name for m in archive if m.name.endswith(f"_{split}.txt")]
        texts = [archive.extractfile(name).read() for name in sorted(names)]  # type: ignore[union-attr]
    return np.array([text.split()[1::2] for text in texts]).T.astype(np.int8)


class MadeUp:
    """Features that hint at the labels, made when sliced by rows; float32 (n, d)."""

    dtype = np.dtype(np.float32)

    def __init__(self, blob: str, labels: Labels, width: int) -> None:
        self.shape = (len(labels), width)
        self._blob, self._labels = blob, labels
        rng = np.random.default_rng(BLOBS.index(blob))
        self._mix = rng.standard_normal((N_CLASSES + 128, width), dtype=np.float32)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Make some rows: the same ones each time."""
        labels = self._labels[rows]
        rng = np.random.default_rng([rows.start, *self.shape, BLOBS.index(self._blob)])
        others = rng.standard_normal((len(labels), 128), dtype=np.float32)
        latent = np.hstack([0.45 * (labels + 1.0), others]).astype(np.float32)
        noise = rng.standard_normal((len(labels), self.shape[1]), dtype=np.float32)
        x = noise + 0.12 * latent @ self._mix
        match self._blob.split("/"):
            case "forward", "x8":
                x = np.exp(3 * x)
                x /= x.sum(1, keepdims=True)
            case "backward", "y8":
                x *= np.float32(1e-4)
            case "backward", _:  # masked where the unit is silent
                silent = rng.random(x.shape, dtype=np.float32) > 0.2
                x = np.where(silent, 0, np.float32(1e-4) * x)
            case "forward", "x5" | "x6" | "x7":
                x = np.maximum(x - 1, 0)
        return x.astype(np.float32, copy=False)


def make_features(path: Path, labels: Sequence[Labels], widths: dict[str, int]) -> None:
    """Write a features file of two splits."""
    made = {}
    for name, y in zip(("trainval", "test"), labels, strict=True):
        made[name] = Split(
            image_id=tuple(map(str, range(len(y)))),
            labels=y,
            classes=tuple(f"class{i:02d}" for i in range(N_CLASSES)),
            blobs={blob: MadeUp(blob, y, width) for blob, width in widths.items()},
            failed_id=(),
            failed_reason=(),
            failed_index=np.empty(0, np.int64),
            failed_labels=np.empty((0, N_CLASSES), np.int8),
            devkit="VOC2007",
            list_sha256="",
        )
    write_features(path, {"preprocess": {}}, made)


def gram_speed(train: Split, test: Split, repeats: int) -> list[Row]:
    """Compare Gram matrices, made from the file, with bare products, in turns."""
    n, m, d = len(train), len(test), 4096
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((k, d), dtype=np.float32).T for k in (n, m))
    K, K_test = (np.zeros((n, k), np.float32, order="F") for k in (n, m))

    def product() -> None:
        sgemm(1.0, a, b, trans_a=1, beta=1.0, c=K_test, overwrite_c=1)

    def symmetric() -> None:
        ssyrk(1.0, a, trans=1, beta=1.0, c=K, lower=1, overwrite_c=1)

    bare = {"sgemm": [timed(product)], "ssyrk": [timed(symmetric)]}
    times: dict[str, list[float]] = {blob: [] for blob in BLOBS}
    bounds: dict[str, list[float]] = {blob: [] for blob in BLOBS}
    for _ in range(repeats):
        bare["ssyrk"].append(timed(symmetric))
        for blob in BLOBS:
            # Untimed first: a virtual machine may have to fetch memory from its host.
            Kernels(train, test)._gram(blob)
            kernels = Kernels(train, test)
            times[blob].append(timed(lambda: kernels._gram(blob)))  # noqa: B023
            bare["sgemm"].append(timed(product))
            # Compared with the products just before and after, as the load may change.
            seconds = sum(bare["sgemm"][-2:]) / 2 / (2 * n * m * d)
            bounds[blob].append(seconds * (n * (n + 1) + 2 * n * m) * WIDTHS[blob])
    sgemm_best, ssyrk_best = min(bare["sgemm"]), min(bare["ssyrk"])
    rows = [
        ("sgemm", 2e-9 * n * m * d / sgemm_best, "GFLOP/s"),
        ("ssyrk, time over that of a full product", ssyrk_best / sgemm_best, ""),
    ]
    for blobs in (("forward/x6",), ("forward/x5",), BLOBS):
        name = blobs[0] if len(blobs) == 1 else f"all {len(blobs)} blobs"
        shares = np.sum([bounds[blob] for blob in blobs], axis=0)
        shares /= np.sum([times[blob] for blob in blobs], axis=0)
        seconds = sum(min(times[blob]) for blob in blobs)
        rows += [
            (f"Gram matrices of {name}, from the file", seconds, "s"),
            ("  share of sgemm's rate, median", 100 * float(np.median(shares)), "%"),
        ]
    return rows


def svm_speed(train: Split, test: Split, feature: str) -> list[Row]:
    """Compare the SVMs of all classes with plain loops over scikit-learn's."""
    assert train.labels is not None
    labels = train.labels
    K_train, lazy = Kernels(train, test)(feature)
    K_test = lazy[:]
    found: dict[str, Any] = {}

    def plain(y: Labels) -> Any:
        kept = np.flatnonzero(y)
        svm = SVC(kernel="precomputed", C=1).fit(K_train[np.ix_(kept, kept)], y[kept])
        return svm.decision_function(K_test[:, kept])

    def ours() -> None:
        found["ours"] = decision_function(K_train, lazy, labels)

    def loop() -> None:
        found["loop"] = np.stack([plain(y) for y in labels.T], axis=1)

    def threads() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(plain, labels.T))

    before, slow, slow_threads = timed(ours), timed(loop), timed(threads)
    mine = min(before, timed(ours))
    difference = float(np.abs(found["ours"] - found["loop"]).max())
    return [
        (f"SVMs of {N_CLASSES} classes on {feature}", mine, "s"),
        ("  times as fast as a plain loop", slow / mine, ""),
        ("  times as fast as the loop in threads", slow_threads / mine, ""),
        ("  largest difference of a decision value", difference, ""),
    ]


def whole(path: Path, name: str, features: Sequence[str]) -> list[Row]:
    """Evaluate in a process of its own: time and peak memory."""
    command = [sys.executable, "-c", _CHILD, str(path), *features]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    return [
        (f"{name}, all in all", found["all"], "s"),
        *((f"  {stage}", found[stage], "s") for stage in ("kernels", "SVMs")),
        ("  peak memory", found["memory"] / 2**30, "GiB"),
    ]


def timed(run: Callable[[], Any]) -> float:
    """Measure the seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
