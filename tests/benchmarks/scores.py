"""Outliers and choices of images to label, measured on photographs with GoogLeNet.

Prints the tables of docs/scores.md. The features files in the output folder are made
by `fishing extract`; those that are there are used again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fishing.evaluate import (
    average_precision_11point,
    average_precision_area,
    decision_function,
)
from fishing.extract import extract, import_caffe, temper
from fishing.images import read_splits, write_photographs
from fishing.kernels import gram
from fishing.nets import load_net
from fishing.store import ExtractionSettings, FeaturesFile, Split, write_features
from fishing.uses import scores, select, separation

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
N_RESAMPLES, N_SEEDS = 1000, 10
OUTLIERS = ("caltech20", "patches", "noise")
SIZES = (25, 50, 100, 200, 400)
DATA_SETS: dict[str, Callable[..., float]] = {
    "caltech20": average_precision_11point,
    "voc2012-animals": average_precision_area,
}

Values = NDArray[np.float64]


def main() -> None:
    """Extract what is missing, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "scores")
    tables = ["outliers", "curves"]
    parser.add_argument("--only", choices=tables, nargs="*", default=tables)
    arguments = parser.parse_args()
    files = _extract_all(arguments.output)
    if "outliers" in arguments.only:
        _print_outliers(arguments.output, files)
    if "curves" in arguments.only:
        for name, average_precision in DATA_SETS.items():
            _print_curves(name, files[name], average_precision)


def _extract_all(folder: Path) -> dict[str, Path]:
    """Make the features files that are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    net, model = folder / "googlenet", SHARED / "models" / "googlenet"
    if not net.is_dir():
        prototxt, weights = model / "deploy.prototxt", model / "googlenet.caffemodel"
        import_caffe(prototxt, weights, net)
    if not (folder / "photographs").is_dir():
        write_photographs(folder / "photographs")
    if not (folder / "noise").is_dir():
        _write_noise(folder / "noise")
    data = {
        "voc2012-animals": (SHARED / "data" / "voc2012-animals", ["test", "trainval"]),
        "noise": (folder / "noise", []),
        "caltech20": (SHARED / "data" / "caltech20", ["test", "trainval"]),
        "patches": (folder / "photographs", ["test"]),
    }
    settings = ExtractionSettings(load_net(str(net)))
    for name, (images, splits) in data.items():
        extract(settings, read_splits(images, splits), folder / f"{name}.h5")
    return {name: folder / f"{name}.h5" for name in data}


def _write_noise(folder: Path) -> None:
    """Write 150 pictures of independent pixels, and 150 of smooth clouds."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(150):
        pixels = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"uniform{i:03d}.png"), pixels)
        clouds = cv2.GaussianBlur(rng.normal(size=(224, 224, 3)), (0, 0), 8)
        clouds = 128 + 48 * (clouds - clouds.mean()) / clouds.std()
        pixels = clouds.clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"smooth{i:03d}.png"), pixels)


def _print_outliers(folder: Path, files: Mapping[str, Path]) -> None:
    """Print AUROC and FPR at 95 % of each score, for each kind of outliers."""
    path, cooler = folder / "merged.h5", folder / "merged-t1.h5"
    with FeaturesFile(files["voc2012-animals"]) as file:
        splits = {"in": file.split("test"), "reference": file.split("trainval")}
        opened = [FeaturesFile(files[n]) for n in ("caltech20", "patches", "noise")]
        splits |= {
            name: next(iter(other.splits.values()))
            for name, other in zip(
                ("caltech20", "patches", "noise"), opened, strict=True
            )
        }
        if not path.exists():
            write_features(path, file.settings, splits)
    if not cooler.exists():
        temper(path, cooler, [1.0], spec=load_net(str(folder / "googlenet")))
    of = {k: dict(_all_scores(path, cooler, k)) for k in ("in", *OUTLIERS)}
    print("\n| score | " + " | ".join(f"{k}: AUROC | FPR95" for k in OUTLIERS) + " |")
    print("|---|" + "---|---|" * 3)
    rng = np.random.default_rng(0)
    for method, inside in of["in"].items():
        cells = []
        for kind in OUTLIERS:
            outside = of[kind][method]
            drawn = [
                separation(
                    rng.choice(inside, inside.size), rng.choice(outside, outside.size)
                )
                for _ in range(N_RESAMPLES)
            ]
            ends = 100 * np.percentile(drawn, [2.5, 97.5], axis=0)
            for value, (low, high) in zip(
                separation(inside, outside), ends.T, strict=True
            ):
                cells.append(f"{100 * value:.1f} [{low:.1f}, {high:.1f}]")
        print(f"| {method} | " + " | ".join(cells) + " |")


def _all_scores(path: Path, cooler: Path, kind: str) -> Iterator[tuple[str, Values]]:
    """Compute the scores of one kind of images, and the factors of GradNorm."""
    for method, values in scores(path, [kind]).scores.items():
        yield (f"{method}, tau = 2" if method == "gradnorm" else method), values
    (at_1,) = scores(cooler, [kind], methods=["gradnorm"]).scores.values()
    yield "gradnorm, tau = 1", at_1
    with FeaturesFile(cooler) as file:
        blobs = file.split(kind).blobs
        for factor, name in (("forward/x7", "x7"), ("backward/y8", "dE/dy8")):
            norm = np.abs(blobs[factor][:]).sum(axis=1, dtype=np.float64)
            yield f"its factor of {name}", norm
    for feature in ("x7", "dW8"):
        (near,) = scores(
            path, [kind], methods=["knn"], reference="reference", feature=feature
        ).scores.values()
        yield f"knn, {feature}", near


def _print_curves(
    name: str, path: Path, average_precision: Callable[..., float]
) -> None:
    """Print the mean average precision of SVMs on x7 by the number of labels."""
    with FeaturesFile(path) as file:
        pool, test = file.split("trainval"), file.split("test")
        K = gram("x7", pool)
        K_test = gram("x7", test, pool)
        row = {image_id: i for i, image_id in enumerate(pool.image_id)}
        ways = {
            "random": {"method": "random"},
            "k-centre, x7": {"method": "kcenter", "feature": "x7"},
            "k-centre, dW8": {"method": "kcenter", "feature": "dW8"},
            "BADGE": {"method": "badge"},
        }
        print(f"\n| {name} | " + " | ".join(map(str, SIZES)) + " |")
        print("|---|" + "---|" * len(SIZES))
        for way, options in ways.items():
            curves = np.empty((N_SEEDS, len(SIZES)))
            for seed in range(N_SEEDS):
                ids = select(path, "trainval", max(SIZES), seed=seed, **options)
                order = np.array([row[i] for i in ids])
                for j, n in enumerate(SIZES):
                    chosen = order[:n]
                    curves[seed, j] = _mean_ap(
                        *(K[np.ix_(chosen, chosen)], K_test[:, chosen]),
                        *(pool, test, chosen, average_precision),
                    )
            # Student's t of 9 degrees of freedom
            half = 2.262 * curves.std(axis=0, ddof=1) / np.sqrt(N_SEEDS)
            cells = [
                f"{m:.1f} ± {h:.1f}" for m, h in zip(curves.mean(0), half, strict=True)
            ]
            print(f"| {way} | " + " | ".join(cells) + " |", flush=True)


def _mean_ap(
    K: Values,
    K_test: Values,
    pool: Split,
    test: Split,
    chosen: NDArray[np.int64],
    average_precision: Callable[..., float],
) -> float:
    """Mean average precision in per cent; a class not found counts as its share."""
    assert pool.labels is not None
    assert test.labels is not None
    labels = pool.labels[chosen]
    known = (labels > 0).any(axis=0) & (labels < 0).any(axis=0)
    found = np.empty(labels.shape[1])
    if known.any():
        values = decision_function(K, K_test, labels[:, known])
        found[known] = [
            average_precision(y, s)
            for y, s in zip(test.labels[:, known].T, values.T, strict=True)
        ]
    counted = test.labels != 0
    found[~known] = ((test.labels > 0).sum(0) / counted.sum(0))[~known]
    return 100 * float(found.mean())


if __name__ == "__main__":
    main()
