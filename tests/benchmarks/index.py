"""The recall, time and memory of an index, and the exact search beside FAISS's.

The images are made up: 100 around each of many centres. Their mean, the directions and
spectrum of the centres, and those of the images around them are those of x6 and dE/dy7
of the photographs of caltech20, in which the classes take the place of the centres.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from fishing.extract import extract
from fishing.images import read_splits
from fishing.kernels import feature_blobs
from fishing.nets import load_net
from fishing.processes import usable_cores
from fishing.progress import silent
from fishing.search import build_index, indexing, measure_index, search_id
from fishing.search.search import _Search
from fishing.store import (
    ExtractionSettings,
    FeaturesFile,
    Rows,
    Split,
    row_blocks,
    write_features,
)

ROOT = Path(__file__).parents[2]
CALTECH20 = ROOT.parent / "shared" / "data" / "caltech20"
FEATURE, PER_CENTRE = "dW7", 100
BLOBS = ("forward/x6", "backward/y7")
N_QUERIES = 9

Floats = NDArray[np.float32]


def main() -> None:
    """Make what is missing, measure, and print a few lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "index")
    parser.add_argument("--data", type=Path, default=CALTECH20)
    parser.add_argument("-n", type=int, default=100_000, help="made-up images")
    arguments = parser.parse_args()
    folder, n = arguments.output, arguments.n
    folder.mkdir(parents=True, exist_ok=True)
    real = folder / "caltech20.h5"
    settings = ExtractionSettings(load_net("tinyalexnet"))
    extract(settings, read_splits(arguments.data, ["trainval", "test"]), real)
    files = {half: folder / f"{half}.h5" for half in (n // 2, n)}
    for half, path in files.items():
        if not path.exists():
            MadeUp(real, half).write(path)
    print(f"{usable_cores()} threads")
    for path in (real, *files.values()):
        _print_build(path)
    _print_times(files[n])


class MadeUp:
    """Made-up images with the mean and the covariances of real ones."""

    def __init__(self, real: Path, n: int) -> None:
        self._n = n
        with FeaturesFile(real) as file:
            self._settings, splits = file.settings, list(file.splits.values())
            rows = np.concatenate([_unit_pairs(s.blobs, slice(None)) for s in splits])
            classes = np.concatenate([s.labels.argmax(axis=1) for s in splits])
        means = np.array([rows[classes == c].mean(0) for c in np.unique(classes)])
        around = rows - means[classes]
        self._around = (around / np.sqrt(len(around))).astype(np.float32)
        rng = np.random.default_rng(0)
        drawn = rng.normal(size=(n // PER_CENTRE, len(means))) / np.sqrt(len(means))
        centres = means.mean(0) + drawn @ (means - means.mean(0))
        self._centres = centres.astype(np.float32)
        self._centre = rng.integers(len(centres), size=n)

    def write(self, path: Path) -> None:
        """Write a features file."""
        width = self._around.shape[1] // 2
        columns = (slice(0, width), slice(width, None))
        blobs: dict[str, Rows] = {
            blob: _Slice((self._n, width), self._rows, blob, part)
            for blob, part in zip(BLOBS, columns, strict=True)
        }
        ids = tuple(f"{i:08d}" for i in range(self._n))
        nothing = np.empty(0, np.int64)
        split = Split(ids, None, (), blobs, (), (), nothing, None, "", "0" * 64)
        write_features(path, self._settings, {"all": split})

    def _rows(self, blob: str, columns: slice, rows: slice) -> Floats:
        """Make some rows of a blob, the same whenever they are asked for."""
        rng = np.random.default_rng([1, rows.start])
        weights = rng.standard_normal(
            (rows.stop - rows.start, len(self._around)), np.float32
        )
        values = weights @ self._around[:, columns]
        values += self._centres[self._centre[rows], columns]
        # Activations after a ReLU are not negative.
        return np.maximum(values, 0) if blob.startswith("forward") else values


class _Slice:
    """Rows that are made when they are sliced, as `fishing.store.Rows`."""

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, int], make: Any, *given: Any) -> None:
        self.shape, self._make, self._given = shape, make, given

    def __getitem__(self, key: slice) -> Floats:
        rows: Floats = self._make(*self._given, slice(*key.indices(self.shape[0])[:2]))
        return rows


def _unit_pairs(blobs: Any, rows: slice) -> Floats:
    """Read [x; g], each of unit norm."""
    parts = [blobs[blob][rows] for blob in BLOBS]
    scaled = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in parts]
    return np.concatenate(scaled, axis=1)


def _build(path: Path) -> tuple[Any, float, float]:
    """Build an index; return its header, the seconds and the peak memory in MiB."""
    start = time.perf_counter()
    path.with_suffix(".faiss").unlink(missing_ok=True)
    header = build_index(path, path.with_suffix(".faiss"), feature=FEATURE)
    seconds = time.perf_counter() - start
    return header, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _print_build(path: Path) -> None:
    """Build the index of a file in a process of its own, and measure its recall."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        header, seconds, peak = pool.submit(_build, path).result()
    index = path.with_suffix(".faiss")
    print(
        f"{header.n_images} images: built in {seconds:.0f} s, peak memory {peak:.0f} "
        f"MiB, file of {index.stat().st_size / 2**20:.1f} MiB; {header.n_probed} of "
        f"{header.n_lists} lists, {header.n_candidates} candidates; recall at 10 "
        f"{measure_index(path, index):.3f}",
        flush=True,
    )


def _print_times(path: Path) -> None:
    """Time single searches and many at once, by turns."""
    index, flat_path = path.with_suffix(".faiss"), path.with_suffix(".flat")
    faiss.omp_set_num_threads(usable_cores())
    with FeaturesFile(path) as file:
        split = file.split("all")
        flat = faiss.IndexFlatIP(_unit_pairs(split.blobs, slice(0, 1)).shape[1])
        for block in row_blocks(len(split)):
            flat.add(_unit_pairs(split.blobs, block))
        if not flat_path.exists():
            faiss.write_index(flat, str(flat_path))
        exact = _Search(file, [FEATURE], 10, (), None)
        indexed = _Search(file, [FEATURE], 10, (), index)
        places = np.linspace(0, len(split) - 1, N_QUERIES).astype(int)
        ways: dict[str, Callable[[int], object]] = {
            "exact": lambda i: exact(_query(split, i), (), silent),
            "index": lambda i: indexed(_query(split, i), (), silent),
            "flat, in memory": lambda i: flat.search(_pair(split, i), 10),
            "exact, file opened": lambda i: search_id(path, split.image_id[i]),
            "index, files opened": lambda i: search_id(
                path, split.image_id[i], index=index
            ),
            "flat, file read": lambda i: faiss.read_index(str(flat_path)).search(
                _pair(split, i), 10
            ),
        }
        _print_medians(ways, [int(i) for i in places])
        rows = {blob: split.blobs[blob] for blob in feature_blobs(FEATURE)}
        many = np.linspace(0, len(split) - 1, 100).astype(int)
        pairs = np.concatenate([_pair(split, int(i)) for i in many])
        at_once: dict[str, Callable[[int], object]] = {
            "100 at once: exact": lambda _: indexing._exact_nearest(
                FEATURE, rows, many, silent
            ),
            "100 at once: flat, in memory": lambda _: flat.search(pairs, 10),
        }
        _print_medians(at_once, [0] * 3)


def _query(split: Split, i: int) -> dict[str, Floats]:
    return {blob: split.blobs[blob][i : i + 1] for blob in BLOBS}


def _pair(split: Split, i: int) -> Floats:
    return _unit_pairs(split.blobs, slice(i, i + 1))


def _print_medians(ways: dict[str, Callable[[int], object]], places: list[int]) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in places:
        for name, search in ways.items():
            start = time.perf_counter()
            search(i)
            seconds[name].append(time.perf_counter() - start)
    for name, found in seconds.items():
        print(f"{name}: {1000 * np.median(found):.0f} ms", flush=True)


if __name__ == "__main__":
    main()
