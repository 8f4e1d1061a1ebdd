"""The data sets of beyond.py: the features of each, and splits that are drawn anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fishing.evaluate import average_precision_11point, average_precision_area
from fishing.extract import extract
from fishing.extract.head_gradient import Step, read_steps
from fishing.images import read_splits, write_photographs
from fishing.nets import BLOBS, load_net
from fishing.store import ExtractionSettings, FeaturesFile

SHARED = Path(__file__).parents[3] / "shared"
N_DRAWS = 10

Array = NDArray[np.float32]
Blobs = dict[str, Array]


@dataclass(frozen=True)
class Draw:
    """Images of which some are for training and others for testing."""

    blobs: Blobs
    labels: NDArray[np.int8]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    steps: Sequence[Step]
    average_precision: Callable[..., float] = average_precision_11point


@dataclass(frozen=True)
class DataSet:
    """A way to draw splits, and how much the draws share.

    `draws` takes a folder for features, and yields the original split and then ten
    others. If the draws share images, `test_to_train` is the ratio of their numbers.
    """

    draws: Callable[[Path], Iterator[Draw]]
    test_to_train: float = 0.0


def _caltech(folder: Path) -> Iterator[Draw]:
    """Yield the split that is there, then ten of the same sizes, class by class."""
    whole = _extract(SHARED / "data" / "caltech20", folder / "caltech20.h5")
    yield whole
    n_train, order = len(whole.train), np.arange(len(whole.labels))
    for seed in range(N_DRAWS):
        rng, train = np.random.default_rng(seed), []
        for c in range(whole.labels.shape[1]):
            of_class = np.flatnonzero(whole.labels[:, c] > 0)
            n = int((of_class < n_train).sum())
            train += list(rng.permutation(of_class)[:n])
        rest = np.setdiff1d(order, train)
        yield replace(whole, train=np.array(sorted(train)), test=rest)


def _photographs(folder: Path) -> Iterator[Draw]:
    """Yield the patches of seed 0, which `make demo` has, then those of ten others."""
    for seed in range(N_DRAWS + 1):
        data = write_photographs(folder / f"photographs-{seed}", seed=seed)
        yield _extract(data, data.with_suffix(".h5"))


def _animals(folder: Path) -> Iterator[Draw]:
    """Yield the split that is there, then ten random ones of the same sizes."""
    path = folder / "voc2012-animals.h5"
    net = str(SHARED / "models" / "googlenet-fc3")
    whole = _extract(SHARED / "data" / "voc2012-animals", path, net)
    whole = replace(whole, average_precision=average_precision_area)
    yield whole
    for seed in range(N_DRAWS):
        order = np.random.default_rng(seed).permutation(len(whole.labels))
        train, test = np.split(order, [len(whole.train)])
        yield replace(whole, train=np.sort(train), test=np.sort(test))


def _extract(data: Path, path: Path, net: str = "tinyalexnet") -> Draw:
    """Extract trainval and test, one after the other."""
    spec = load_net(net)
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
    train, test = np.split(np.arange(len(labels)), [len(splits[0])])
    return Draw(blobs, labels, train, test, read_steps(spec, widths))


DATA_SETS = {
    "caltech20": DataSet(_caltech, 595 / 600),
    "photographs": DataSet(_photographs),
    "voc2012-animals": DataSet(_animals, 600 / 600),
}
