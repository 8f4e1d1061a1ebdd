"""Experiments beyond the paper: fusion, tau, label, power, Fisher information, C, and
products of activations.

They run on the photographs of Caltech-101, on those that come with libraries, and, with
a larger net, on photographs of VOC 2012; each data set is drawn anew ten times. Prints
the tables of docs/beyond.md; draws that were measured before are taken from the output
folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from beyond_draws import DATA_SETS, N_DRAWS, Array, Blobs, DataSet, Draw
from numpy.typing import NDArray

from fishing.evaluate import decision_function
from fishing.extract.head_gradient import gradient
from fishing.kernels import FEATURES, gram, parse_feature

ROOT = Path(__file__).parents[2]
GRADIENTS = ("dW6", "dW7", "dW8")
SUMS = (
    *("x5+x6", "x6+x7", "x7+dW7", "x6+dW7", "x5+dW7", "x5+dW6"),
    *("dW6+dW7", "dW7+dW8", "dW6+dW7+dW8", "x5+x6+dW6+dW7"),
)
TAUS = (0.5, 1, 2, 4, 8, 16, 32)
CS = (0.1, 0.3, 1, 3, 10, 30, 100)

Figures = dict[str, float]


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "beyond")
    parser.add_argument("--only", choices=EXPERIMENTS, nargs="*", default=EXPERIMENTS)
    arguments = parser.parse_args()
    for name in arguments.only:
        experiment = EXPERIMENTS[name]
        results = {
            data: _measured(
                *(arguments.output, f"{data}-{name}.json"),
                *(experiment.measure, DATA_SETS[data]),
            )
            for data in experiment.data
        }
        print(f"\n{name}\n\n{_table(results, experiment.reference)}", flush=True)


def _measured(
    folder: Path, file: str, measure: Callable[[Draw], Figures], data: DataSet
) -> list[Figures]:
    """Run one experiment on all draws on which it was not run before."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    figures: list[Figures] = json.loads(path.read_text()) if path.is_file() else []
    if len(figures) <= N_DRAWS:
        for draw in itertools.islice(data.draws(folder), len(figures), None):
            figures.append(measure(draw))
            path.write_text(json.dumps(figures))
    return figures


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
        if name != "dW6":  # of 1.6 million numbers in TinyAlexNet
            K = _fisher_kernel(draw.blobs[x], draw.blobs[g], draw.train)
            figures[f"{name}, diagonal"] = _mean_ap(draw, K)
    return figures


def _choice_of_c(draw: Draw) -> Figures:
    figures = {}
    for name in FEATURES:
        figures |= _by_c(draw, name, gram(name, draw.blobs))
    return figures


def _by_c(draw: Draw, name: str, K: NDArray[np.float64]) -> Figures:
    """Choose one C for all classes by a half of the training split, or take 1."""
    order = np.random.default_rng(0).permutation(draw.train)
    train, test = np.split(order, [len(order) // 2])
    inner = replace(draw, train=train, test=test)
    best = max(CS, key=lambda C: _mean_ap(inner, K, C))
    return {
        f"{name}, C = 1": _mean_ap(draw, K),
        f"{name}, C chosen": _mean_ap(draw, K, best),
    }


def _products(draw: Draw) -> Figures:
    """Put an activation, or where it is positive, in the place of dE/dy."""
    mask = {b: (draw.blobs[x] > 0).astype(np.float32) for b, x in _ABOVE.items()}
    kernels = {
        **{name: gram(name, draw.blobs) for name in ("x5", "x6", "x7")},
        **{
            f"{name} at tau {tau}": gram(name, _tempered(draw, tau))
            for name in ("dW6", "dW7")
            for tau in (2, 8)
        },
        "x5*1[y6>0]": gram("dW6", draw.blobs | mask),
        "x6*1[y7>0]": gram("dW7", draw.blobs | mask),
        **{name: gram(name, draw.blobs) for name in ("x5*x6", "x6*x7", "x7*x7")},
    }
    figures = {}
    for name, K in kernels.items():
        figures |= _by_c(draw, name, K)
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


def _best_part(variant: str, draws: Sequence[Figures]) -> str:
    """Name the best part of a sum."""
    means = {p: np.mean([d[p] for d in draws]) for p in variant.split("+")}
    return max(means, key=lambda part: float(means[part]))


def _papers_setting(variant: str, draws: Sequence[Figures]) -> str:
    """Name the paper's setting of the same feature."""
    feature, _, _ = variant.partition(", ")
    settings = ("tau 2", "uniform", "as it is", "identity", "C = 1")
    return next(n for s in settings if (n := f"{feature}, {s}") in draws[0])


def _product_of_activations(variant: str, _: Sequence[Figures]) -> str:
    """Name the product that shares the lower factor, of the same choice of C."""
    name, _, choice = variant.partition(", ")
    return f"{'x5*x6' if name.startswith(('x5', 'dW6')) else 'x6*x7'}, {choice}"


class Experiment(NamedTuple):
    """What is measured on each draw, what a variant is compared with, and on what."""

    measure: Callable[[Draw], Figures]
    reference: Callable[[str, Sequence[Figures]], str] = _papers_setting
    data: Sequence[str] = tuple(DATA_SETS)


EXPERIMENTS = {
    "fusion": Experiment(_fusion, _best_part),
    "tau": Experiment(_tau),
    "label": Experiment(_label),
    "power": Experiment(_power),
    "fisher": Experiment(_fisher),
    "C": Experiment(_choice_of_c),
    "together": Experiment(_together),
    "products": Experiment(_products, _product_of_activations),
}
_BACKWARD = ("backward/y8", "backward/y7", "backward/y6")
_ABOVE = {"backward/y6": "forward/x6", "backward/y7": "forward/x7"}
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
    return 100 * float(np.mean([draw.average_precision(*c) for c in columns]))


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


def _table(
    results: Mapping[str, list[Figures]],
    reference: Callable[[str, Sequence[Figures]], str],
) -> str:
    """Lay out figures, and how far they are from what they are compared with."""
    header = "".join(f" {data} | difference |" for data in results)
    lines = [f"| |{header}", "|---|" + "---|---|" * len(results)]
    variants = list(next(iter(results.values()))[0])
    for variant in variants:
        cells = []
        for data, draws in results.items():
            values = np.array([draw[variant] for draw in draws])
            other = np.array([d[reference(variant, draws)] for d in draws])
            cells += [f"{values[0]:.1f}", _difference(values[1:] - other[1:], data)]
        lines.append(f"| {variant.replace('*', chr(92) + '*')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _difference(values: NDArray[np.float64], data: str) -> str:
    """Mean difference over the draws and its 95 % interval (Student's t)."""
    if not values.any():
        return ""
    # For draws that share images: Nadeau and Bengio's correction of the variance.
    factor = 1 / len(values) + DATA_SETS[data].test_to_train
    half = 2.262 * values.std(ddof=1) * np.sqrt(factor)
    return f"{values.mean():+.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()
