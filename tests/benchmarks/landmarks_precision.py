"""Mean average precision with training images as landmarks, and with exact kernels.

Prints a row for each number of landmarks, as `fishing evaluate --landmarks` gives it.
Without a features file, the patches of `fishing photographs` are taken, as many as
VOC 2007 has images, with TinyAlexNet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fishing.evaluate import evaluate
from fishing.extract import extract
from fishing.images import read_splits, write_photographs
from fishing.nets import load_net
from fishing.store import ExtractionSettings

ROOT = Path(__file__).parents[2]
VOC_2007 = 5011, 4952  # images to train on, and to test on


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("features_file", type=Path, nargs="?")
    parser.add_argument("--feature", nargs="+", default=["dW6", "dW7", "x6*x7", "x7"])
    parser.add_argument("--landmarks", type=int, nargs="+", required=True)
    parser.add_argument("--protocol")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "landmarks")
    arguments = parser.parse_args()
    path = arguments.features_file or _photographs(arguments.output)
    names = [name.replace("*", "\\*") for name in arguments.feature]
    print(f"| landmarks | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for landmarks in (*arguments.landmarks, None):
        record = evaluate(
            path,
            features=arguments.feature,
            protocol=arguments.protocol,
            landmarks=landmarks,
        ).record
        figures = (100 * f["mAP"] for f in record["features"].values())
        row = f"{landmarks:,}" if landmarks else "exact kernels"
        print(f"| {row} | {' | '.join(f'{v:.1f}' for v in figures)} |", flush=True)


def _photographs(folder: Path) -> Path:
    path = folder / "photographs.h5"
    data = write_photographs(folder / "photographs", *VOC_2007)
    extract(
        ExtractionSettings(load_net("tinyalexnet"), backend="onnx"),
        read_splits(data, ["trainval", "test"]),
        path,
    )
    return path


if __name__ == "__main__":
    main()
