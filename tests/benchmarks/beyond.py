"""Experiments beyond the paper: fusion, tau, label, power, Fisher information and C.

They run on the photographs of Caltech-101 and on those that come with libraries, each
drawn anew ten times. Prints the tables of docs/beyond.md; draws that were measured
before are taken from the output folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fishing.evaluate import average_precision_11point, decision_function
from fishing.extract import extract
from fishing.extract.head_gradient import Step, gradient, read_steps
from fishing.images import read_splits, write_photographs
from fishing.kernels import FEATURES, gram, parse_feature
from fishing.nets import BLOBS, load_net
from fishing.store import ExtractionSettings, FeaturesFile

ROOT = Path(__file__).parents[2]
CALTECH = ROOT.parent / "shared" / "data" / "caltech20"
N_DRAWS = 10
GRADIENTS = ("dW6", "dW7", "dW8")
SUMS = (
    *("x5+x6", "x6+x7", "x7+dW7", "x6+dW7", "x5+dW7", "x5+dW6"),
    *("dW6+dW7", "dW7+dW8", "dW6+dW7+dW8", "x5+x6+dW6+dW7"),
)
TAUS = (0.5, 1, 2, 4, 8, 16, 32)
CS = (0.1, 0.3, 1, 3, 10, 30, 100)

Array = NDArray[np.float32]
Blobs = dict[str, Array]
Figures = dict[str, float]


@dataclass(frozen=True)
class Draw:
    """Images of which some are for training and others for testing."""

    blobs: Blobs
    labels: NDArray[np.int8]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    steps: Sequence[Step]


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "beyond")
    parser.add_argument("--only", choices=EXPERIMENTS, nargs="*", default=EXPERIMENTS)
    arguments = parser.parse_args()
    for name in arguments.only:
        results = {
            data: _measured(arguments.output, f"{data}-{name}.json", name, draws)
            for data, draws in (("caltech20", _caltech), ("photographs", _photographs))
        }
        print(f"\n{name}\n\n{_table(results)}", flush=True)


def _measured(
    folder: Path, file: str, name: str, draws: Callable[[Path], Iterator[Draw]]
) -> list[Figures]:
    """Run one experiment on all draws on which it was not run before."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    figures: list[Figures] = json.loads(path.read_text()) if path.is_file() else []
    if len(figures) <= N_DRAWS:
        for draw in itertools.islice(draws(folder), len(figures), None):
            figures.append(EXPERIMENTS[name](draw))
            path.write_text(json.dumps(figures))
    return figures


def _caltech(folder: Path) -> Iterator[Draw]:
    """Yield the split that is there, then ten of the same sizes, class by class."""
    blobs, labels, n_train, steps = _extract(CALTECH, folder / "caltech20.h5")
    order = np.arange(len(labels))
    yield Draw(blobs, labels, order[:n_train], order[n_train:], steps)
    for seed in range(N_DRAWS):
        rng, train = np.random.default_rng(seed), []
        for c in range(labels.shape[1]):
            of_class = np.flatnonzero(labels[:, c] > 0)
            n = int((of_class < n_train).sum())
            train += list(rng.permutation(of_class)[:n])
        rest = np.setdiff1d(order, train)
        yield Draw(blobs, labels, np.array(sorted(train)), rest, steps)


def _photographs(folder: Path) -> Iterator[Draw]:
    """Yield the patches of seed 0, which `make demo` has, then those of ten others."""
    for seed in range(N_DRAWS + 1):
        data = write_photographs(folder / f"photographs-{seed}", seed=seed)
        blobs, labels, n_train, steps = _extract(data, data.with_suffix(".h5"))
        order = np.arange(len(labels))
        yield Draw(blobs, labels, order[:n_train], order[n_train:], steps)


def _extract(
    data: Path, path: Path
) -> tuple[Blobs, NDArray[np.int8], int, Sequence[Step]]:
    """Extract trainval and test, one after the other."""
    spec = load_net("tinyalexnet")
    extract(
        ExtractionSettings(spec, backend="onnx"),
        read_splits(data, ["trainval", "test"]),
        path,
    )
    with FeaturesFile(path) as file:
        splits = file.split("trainval"), file.split("test")
        blobs = {b: np.concatenate([s.blobs[b][:] for s in splits]) for b in BLOBS}
        labels = np.concatenate([s.labels for s in splits if s.labels is not None])
        widths = {name: rows.shape[1] for name, rows in blobs.items()}
        return blobs, labels, len(splits[0]), read_steps(spec, widths)


def _fusion(draw: Draw) -> Figures:
    names = ("x5", "x6", "x7", *GRADIENTS, *SUMS)
    return {name: _mean_ap(draw, gram(name, draw.blobs)) for name in names}


def _tau(draw: Draw) -> Figures:
    figures = {}
    for tau in TAUS:
        blobs = _tempered(draw, tau)
        for name in GRADIENTS:
            figures[f"{name}, tau {tau:g}"] = _mean_ap(draw, gram(name, blobs))
    return figures


def _label(draw: Draw) -> Figures:
    y = draw.blobs["forward/y8"].astype(np.float64) / 2
    p = np.exp(y - y.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    labels = {
        "uniform": np.full_like(p, 1 / p.shape[1]),
        "predicted": np.eye(p.shape[1])[p.argmax(axis=1)],
        "priors": np.broadcast_to(
            draw.blobs["forward/x8"][draw.train].mean(axis=0), p.shape
        ),
        "none": np.zeros_like(p),
    }
    figures = {}
    for label, target in labels.items():
        blobs = draw.blobs | _back(draw, ((p - target) / 2).astype(np.float32))
        for name in GRADIENTS:
            figures[f"{name}, {label}"] = _mean_ap(draw, gram(name, blobs))
    return figures


def _power(draw: Draw) -> Figures:
    """Signed square roots; that of x g^T is the outer product of those of x and g."""
    root = {k: np.sign(v) * np.sqrt(np.abs(v)) for k, v in draw.blobs.items()}
    figures = {}
    for name in (*FEATURES[:5], *GRADIENTS):
        figures[f"{name}, as it is"] = _mean_ap(draw, gram(name, draw.blobs))
        figures[f"{name}, square root"] = _mean_ap(draw, gram(name, root))
    for name in GRADIENTS:
        mixed = draw.blobs | {k: v for k, v in root.items() if k.startswith("forward")}
        figures[f"{name}, square root of x"] = _mean_ap(draw, gram(name, mixed))
    return figures


def _fisher(draw: Draw) -> Figures:
    """F_ij = E[x_i^2 g_j^2] on the training split, and E[x_i^2] E[g_j^2]."""
    figures = {}
    for name, (x, g) in _PAIRS.items():
        figures[f"{name}, identity"] = _mean_ap(draw, gram(name, draw.blobs))
        white = {blob: _whitened(draw, draw.blobs[blob]) for blob in (x, g)}
        figures[f"{name}, product"] = _mean_ap(draw, gram(name, white))
        if name != "dW6":  # of 1.6 million numbers here
            K = _fisher_kernel(draw.blobs[x], draw.blobs[g], draw.train)
            figures[f"{name}, diagonal"] = _mean_ap(draw, K)
    return figures


def _choice_of_c(draw: Draw) -> Figures:
    """Choose C for all classes by a half of the training split, for each feature."""
    order = np.random.default_rng(0).permutation(draw.train)
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    figures = {}
    for name in FEATURES:
        K = gram(name, draw.blobs)
        inner = Draw(draw.blobs, draw.labels, *halves, draw.steps)
        best = max(CS, key=lambda C: _mean_ap(inner, K, C))
        figures[f"{name}, C = 1"] = _mean_ap(draw, K)
        figures[f"{name}, C chosen"] = _mean_ap(draw, K, best)
    return figures


def _together(draw: Draw) -> Figures:
    """Measure whether what helps by itself adds up."""
    soft = _tempered(draw, 8)
    return {
        "dW7, as it is": _mean_ap(draw, gram("dW7", draw.blobs)),
        "dW7, and dW6": _mean_ap(draw, gram("dW6+dW7", draw.blobs)),
        "dW7, tau 8": _mean_ap(draw, gram("dW7", soft)),
        "dW7, tau 8, and dW6": _mean_ap(draw, gram("dW6+dW7", soft)),
        "dW7, tau 8, and dW6, C = 3": _mean_ap(draw, gram("dW6+dW7", soft), 3),
    }


EXPERIMENTS: dict[str, Callable[[Draw], Figures]] = {
    "fusion": _fusion,
    "tau": _tau,
    "label": _label,
    "power": _power,
    "fisher": _fisher,
    "C": _choice_of_c,
    "together": _together,
}
_BACKWARD = ("backward/y8", "backward/y7", "backward/y6")
_PAIRS = {name: parse_feature(name)[0] for name in GRADIENTS}


def _mean_ap(draw: Draw, K: NDArray[np.float64], C: float = 1.0) -> float:
    """Mean average precision in per cent, of the classes that can be measured."""
    train, test = draw.labels[draw.train], draw.labels[draw.test]
    usable = (train > 0).any(0) & (train < 0).any(0) & (test > 0).any(0)
    scores = decision_function(
        np.ascontiguousarray(K[np.ix_(draw.train, draw.train)]),
        np.ascontiguousarray(K[np.ix_(draw.test, draw.train)]),
        train[:, usable],
        C,
    )
    columns = zip(test[:, usable].T, scores.T, strict=True)
    return 100 * float(np.mean([average_precision_11point(*c) for c in columns]))


def _tempered(draw: Draw, tau: float) -> Blobs:
    """Blobs of another temperature, as `fishing temper` computes them."""
    return draw.blobs | {
        blob: gradient(draw.blobs, draw.steps[:depth], tau, slice(None))
        for depth, blob in enumerate(_BACKWARD)
    }


def _back(draw: Draw, g: Array) -> Blobs:
    """Take dE/dy8 down the head: eq. 10."""
    found = {"backward/y8": g}
    for step in draw.steps:
        g = g @ step.weights * step.derivative(draw.blobs[step.blob])
        found[step.blob.replace("forward/x", "backward/y")] = g
    return found


def _second_moment(values: Array) -> NDArray[np.float64]:
    """E[v^2] of each column, kept from vanishing; shape (d,)."""
    moment = np.einsum("ij,ij->j", values, values, dtype=np.float64) / len(values)
    return np.maximum(moment, 1e-4 * moment.mean())


def _whitened(draw: Draw, values: Array) -> Array:
    return (values / np.sqrt(_second_moment(values[draw.train]))).astype(np.float32)


def _fisher_kernel(x: Array, g: Array, train: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cosines of x g^T / sqrt(F), made a few columns at a time."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    g = g / np.linalg.norm(g, axis=1, keepdims=True)
    F = (x[train] ** 2).T @ (g[train] ** 2) / len(train)  # (d_x, d_g)
    scale = 1 / np.sqrt(np.maximum(F, 1e-4 * F.mean()))
    K = np.zeros((len(x), len(x)), np.float32)
    for columns in np.array_split(np.arange(g.shape[1]), max(1, g.shape[1] // 8)):
        part = x[:, :, None] * (g[:, None, columns] * scale[None, :, columns])
        part = part.reshape(len(x), -1)
        K += part @ part.T
    norms = np.sqrt(np.diag(K).astype(np.float64))
    return K / np.outer(norms, norms)


def _table(results: Mapping[str, list[Figures]]) -> str:
    """Lay out figures, and how far they are from what they are compared with."""
    header = "".join(f" {data} | difference |" for data in results)
    lines = [f"| |{header}", "|---|" + "---|---|" * len(results)]
    variants = list(next(iter(results.values()))[0])
    for variant in variants:
        cells = []
        for data, draws in results.items():
            values = np.array([draw[variant] for draw in draws])
            other = np.array([d[_compared_with(variant, draws)] for d in draws])
            cells += [f"{values[0]:.1f}", _difference(values[1:] - other[1:], data)]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _compared_with(variant: str, draws: list[Figures]) -> str:
    """Name the paper's setting of the same feature, or the best part of a sum."""
    feature, comma, _ = variant.partition(", ")
    if not comma:
        means = {p: np.mean([d[p] for d in draws]) for p in variant.split("+")}
        return max(means, key=lambda part: float(means[part]))
    settings = ("tau 2", "uniform", "as it is", "identity", "C = 1")
    return next(n for s in settings if (n := f"{feature}, {s}") in draws[0])


def _difference(values: NDArray[np.float64], data: str) -> str:
    """Mean difference over the draws and its 95 % interval (Student's t)."""
    if not values.any():
        return ""
    n = len(values)
    # Draws of Caltech-101 share images: Nadeau and Bengio's correction of the variance.
    factor = 1 / n + (595 / 600 if data == "caltech20" else 0)
    half = 2.262 * values.std(ddof=1) * np.sqrt(factor)
    return f"{values.mean():+.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()
