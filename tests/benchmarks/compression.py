"""What small features cost: `fishing compress` beside other ways to make them small.

Takes a features file with the splits trainval and test, and prints mean average
precisions in per cent and the bytes of an image's feature, as docs/scale.md has them.
Everything that is learned comes from trainval alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.random_projection import GaussianRandomProjection

from fishing.evaluate import decision_function
from fishing.evaluate.average_precision import PROTOCOLS
from fishing.extract import compress
from fishing.kernels import parse_feature
from fishing.store import FeaturesFile, Split, integer_scales
from fishing.store.quantise import LARGEST

Array = NDArray[np.float64]
FEATURES = ("dW6", "dW7", "dW8", "x6*x7", "x7")
COMPRESSED = ((32, "int8"), (64, "int8"), (128, "int4"), (128, "int8"), (256, "int4"))


class Pair(NamedTuple):
    """The factors of a feature in both splits, or one vector that stands for them."""

    train: list[Array]
    test: list[Array]


# Each takes the normalised factors, and returns other vectors and bytes an image.
Method = Callable[[Pair], tuple[Pair, int]]


def main() -> None:
    """Print a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("features_file", type=Path)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="voc2007")
    arguments = parser.parse_args()
    with FeaturesFile(arguments.features_file) as file:
        splits = file["trainval"], file["test"]
        print("|", *(f"{cell} |" for cell in ("", *FEATURES)))
        print("|", "---|" * (1 + len(FEATURES)))
        for name, method in METHODS.items():
            row = []
            for feature in FEATURES:
                found, n_bytes = method(_factors(feature, *splits))
                figure = _mean_ap(found, *splits, arguments.protocol)
                row.append(f"{100 * figure:.1f} ({n_bytes:,} B) |")
            print("|", name, "|", *row, flush=True)
        for dimensions, dtype in COMPRESSED:
            with tempfile.TemporaryDirectory() as folder:
                small = Path(folder) / "small.h5"
                compress(
                    arguments.features_file, small, dimensions=dimensions, dtype=dtype
                )
                with FeaturesFile(small) as other:
                    row = []
                    for feature in FEATURES:
                        pair = _factors(feature, other["trainval"], other["test"])
                        n_values = sum(part.shape[1] for part in pair.train)
                        n_bytes = n_values * (1 if dtype == "int8" else 0.5)
                        figure = _mean_ap(pair, *splits, arguments.protocol)
                        row.append(f"{100 * figure:.1f} ({n_bytes:,.0f} B) |")
                    print(f"| compress, {dimensions}, {dtype} |", *row, flush=True)


def _factors(feature: str, train: Split, test: Split) -> Pair:
    (blobs,) = parse_feature(feature)
    return Pair(*([_unit(s.blobs[b][:]) for b in blobs] for s in (train, test)))


def _unit(rows: NDArray[np.floating]) -> Array:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros(rows.shape), where=norms > 0)


def _mean_ap(found: Pair, train: Split, test: Split, protocol: str) -> float:
    """Multiply the kernels of the factors, train SVMs and measure their rankings."""
    kernels = [
        np.prod([a @ b.T for a, b in zip(side, found.train, strict=True)], axis=0)
        for side in found
    ]
    assert train.labels is not None
    assert test.labels is not None
    scores = decision_function(*kernels, labels=train.labels)
    precision = PROTOCOLS[protocol]
    columns = zip(test.labels.T, scores.T, strict=True)
    return float(np.mean([precision(*column) for column in columns]))


def _exact(pair: Pair) -> tuple[Pair, int]:
    return pair, 4 * sum(part.shape[1] for part in pair.train)


def _random_projections(k: int) -> Method:
    """Project each factor at random, in 8 bits."""

    def method(pair: Pair) -> tuple[Pair, int]:
        sides: list[list[Array]] = [[], []]
        for seed, parts in enumerate(zip(*pair, strict=True)):
            project = GaussianRandomProjection(k, random_state=seed).fit(parts[0])
            a, b = (_unit(project.transform(part)) for part in parts)
            scales = integer_scales(a, "int8")
            for side, rows in zip(sides, (a, b), strict=True):
                whole = np.clip(np.rint(rows / scales), -127, LARGEST["int8"])
                side.append(_unit(whole * scales))
        return Pair(*sides), k * len(sides[0])

    return method


def _tensor_sketch(size: int) -> Method:
    """Sketch the outer product of the factors (Pham and Pagh, KDD 2013), in float32."""

    def method(pair: Pair) -> tuple[Pair, int]:
        rng = np.random.default_rng(0)
        spectra: list[Array | complex] = [1, 1]
        for parts in zip(*pair, strict=True):
            d = parts[0].shape[1]
            count_sketch = np.zeros((d, size))
            count_sketch[np.arange(d), rng.integers(size, size=d)] = rng.choice(
                (-1, 1), d
            )
            for i, part in enumerate(parts):
                spectra[i] = spectra[i] * np.fft.rfft(part @ count_sketch)
        sides = ([_unit(np.fft.irfft(s, size))] for s in spectra)
        return Pair(*sides), 4 * size

    return method


def _nystroem(n_landmarks: int) -> Method:
    """Map to so many values in float32 that their products are the kernel's."""

    def method(pair: Pair) -> tuple[Pair, int]:
        a, b = (
            np.prod([x @ y.T for x, y in zip(side, pair.train, strict=True)], axis=0)
            for side in pair
        )
        rng = np.random.default_rng(0)
        chosen = rng.choice(len(a), min(n_landmarks, len(a)), replace=False)
        values, vectors = np.linalg.eigh(a[np.ix_(chosen, chosen)])
        half = vectors / np.sqrt(np.maximum(values, 1e-12))
        sides = ([k[:, chosen] @ half] for k in (a, b))
        return Pair(*sides), 4 * n_landmarks

    return method


def _product_quantisation(n_parts: int) -> Method:
    """Replace each of so many parts of each factor by one of 256 centres: a byte."""

    def method(pair: Pair) -> tuple[Pair, int]:
        sides: list[list[Array]] = [[], []]
        for parts in zip(*pair, strict=True):
            coded: list[list[Array]] = [[], []]
            for columns in np.array_split(np.arange(parts[0].shape[1]), n_parts):
                cut = [part[:, columns] for part in parts]
                model = KMeans(256, n_init=1, max_iter=25, random_state=0).fit(cut[0])
                for side, rows in zip(coded, cut, strict=True):
                    side.append(model.cluster_centers_[model.predict(rows)])
            for side, found in zip(sides, coded, strict=True):
                side.append(_unit(np.concatenate(found, axis=1)))
        return Pair(*sides), n_parts * len(sides[0])

    return method


METHODS: dict[str, Method] = {
    "exact": _exact,
    "random projections, 128, int8": _random_projections(128),
    "Tensor Sketch, 64": _tensor_sketch(64),
    "Tensor Sketch, 1024": _tensor_sketch(1024),
    "Nystroem, 64 landmarks": _nystroem(64),
    "Nystroem, 512 landmarks": _nystroem(512),
    "product quantisation, 48 parts": _product_quantisation(48),
    "product quantisation, 64 parts": _product_quantisation(64),
}

if __name__ == "__main__":
    main()
