"""The time and memory of `fishing select` on 100,000 images of 1,000 classes.

The file is made of random numbers; x7 has 1,024 values, as GoogLeNet's.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.store import Split, write_features
from fishing.uses import select

ROOT = Path(__file__).parents[2]
N, WIDTHS = 100_000, {"forward/x7": 1024, "forward/y8": 1000}
SETTINGS = {
    **{"net": "none", "net_sha256": "0" * 64, "weights_sha256": "0" * 64},
    **{"backend": "onnx", "temperature": 2.0, "label": "uniform", "preprocess": {}},
}


class _Random:
    """Rows of random numbers, which are made when they are sliced."""

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, n: int, width: int) -> None:
        self.shape = (n, width)

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        rows = range(self.shape[0])[key]
        rng = np.random.default_rng([rows.start, self.shape[1]])
        values = rng.standard_normal((len(rows), self.shape[1]), np.float32)
        return np.maximum(values, 0) if self.shape[1] == 1024 else 2 * values


def main() -> None:
    """Make the file if it is not there, and choose 100 images of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "select")
    parser.add_argument("--method", choices=["badge", "kcenter"], default="badge")
    parser.add_argument("-k", type=int, default=100)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "large.h5"
    if not path.exists():
        blobs = {name: _Random(N, width) for name, width in WIDTHS.items()}
        nothing = np.empty(0, np.int64)
        ids = tuple(f"{i:06d}" for i in range(N))
        split = Split(ids, None, (), blobs, (), (), nothing, None, "", "0" * 64)
        write_features(path, SETTINGS, {"pool": split})
        print(f"made {path}; run again to measure")
        return
    start = time.perf_counter()
    feature = "x7" if arguments.method == "kcenter" else None
    found = select(path, "pool", arguments.k, method=arguments.method, feature=feature)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{arguments.method}: {len(found)} of {N} images in {seconds:.0f} s, peak "
        f"memory {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
