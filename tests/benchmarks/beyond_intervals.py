"""The eleven features by two backends, with 95 % intervals over the test images.

ONNX Runtime and patched Caffe extract the three data sets of beyond.py, and
`fishing temper` gives gradients at other temperatures. Prints the tables of
docs/beyond.md that the bootstrap makes: each feature by both backends, and how far
gradients are from products of activations.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from beyond_draws import SHARED

from fishing.evaluate import evaluate
from fishing.extract import extract, temper
from fishing.images import read_splits, write_photographs
from fishing.kernels import FEATURES
from fishing.nets import load_net
from fishing.store import ExtractionSettings

ROOT = Path(__file__).parents[2]
BACKENDS = ("onnx", "caffe")
NETS = {
    "caltech20": "tinyalexnet",
    "photographs": "tinyalexnet",
    "voc2012-animals": str(SHARED / "models" / "googlenet-fc3"),
}
GRADIENTS = FEATURES[-3:]
PRODUCTS = {"dW6": "x5*x6", "dW7": "x6*x7"}
TAU, OTHER_TAUS = 2.0, (1.0, 4.0, 8.0)

Figure = tuple[float, float, float]  # in per cent, and its interval
Measured = dict[str, Any]


def main() -> None:
    """Extract what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "beyond")
    parser.add_argument("--resamples", type=int, default=1000)
    arguments = parser.parse_args()
    n = arguments.resamples
    eleven, beside, differences = {}, {}, []
    for data in NETS:
        files = [_files(arguments.output, data, backend) for backend in BACKENDS]
        onnx, caffe = (dict(_eleven(of_backend, n)) for of_backend in files)
        eleven[data] = {row: _side_by_side(onnx[row], caffe[row]) for row in onnx}
        differences += [abs(onnx[row][0] - caffe[row][0]) for row in onnx]
        beside[data] = dict(_beside_products(files[0], n))
    print(f"ONNX Runtime / patched Caffe\n\n{_table(eleven)}")
    print(f"\nlargest difference: {max(differences):.3f}")
    print(f"\nminus the product\n\n{_table(beside)}")


def _files(folder: Path, data: str, backend: str) -> dict[float, Path]:
    """Extract a data set, and compute its other temperatures."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{data}-{backend}.h5"
    spec, place = load_net(NETS[data]), SHARED / "data" / data
    if data == "photographs":
        place = write_photographs(folder / data)
    extract(
        ExtractionSettings(spec, backend=backend),
        read_splits(place, ["trainval", "test"]),
        path,
    )
    output = folder / f"{data}-{backend}-t{{tau}}.h5"
    others = temper(path, output, OTHER_TAUS, spec=spec)
    files = {TAU: path, **dict(zip(OTHER_TAUS, others, strict=True))}
    return dict(sorted(files.items()))


def _measure(path: Path, features: Sequence[str], n: int, reference: str) -> Measured:
    record = evaluate(path, features=features, n_resamples=n, reference=reference)
    measured: Measured = record.record["features"]
    return measured


def _eleven(files: dict[float, Path], n: int) -> Iterator[tuple[str, Figure]]:
    """Name each feature, and measure it and its interval."""
    measured = _measure(files[TAU], FEATURES, n, "x7")
    for name in FEATURES:
        if name not in GRADIENTS:
            yield name, _figure(measured[name])
    for tau, path in files.items():
        measured = _measure(path, GRADIENTS, n, "dW7")
        for name in GRADIENTS:
            yield f"{name}, tau {tau:g}", _figure(measured[name])


def _figure(measured: Measured) -> Figure:
    low, high = measured["interval"]["mAP"]
    return 100 * measured["mAP"], 100 * low, 100 * high


def _side_by_side(*figures: Figure) -> str:
    """Write both figures down, and their interval once if it is the same."""
    intervals = {f"[{low:.1f}, {high:.1f}]": None for _, low, high in figures}
    values = " / ".join(f"{value:.1f}" for value, *_ in figures)
    return f"{values} {' / '.join(intervals)}"


def _beside_products(files: dict[float, Path], n: int) -> Iterator[tuple[str, str]]:
    """Name each gradient, and write down how far it is from its product."""
    for gradient, product in PRODUCTS.items():
        for tau, path in files.items():
            measured = _measure(path, [gradient, product], n, product)
            here, there = measured[gradient], measured[product]
            low, high = here["difference"]["mAP"]
            yield (
                f"{gradient} at tau {tau:g} minus {product}",
                f"{100 * (here['mAP'] - there['mAP']):+.1f} "
                f"[{100 * low:+.1f}, {100 * high:+.1f}]",
            )


def _table(columns: dict[str, dict[str, str]]) -> str:
    """Lay out columns that have the same rows."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in next(iter(columns.values())):
        cells = " | ".join(column[name] for column in columns.values())
        lines.append(f"| {name.replace('*', chr(92) + '*')} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
