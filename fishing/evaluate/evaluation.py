"""Evaluation: features file -> kernels -> SVMs -> average precision.

In goes a features file, out comes an `Evaluation`: the record that results.json holds,
and the scores of all test images.
"""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray

from fishing import __version__
from fishing.errors import EvaluationError
from fishing.evaluate.average_precision import PROTOCOLS
from fishing.evaluate.svm import decision_function
from fishing.kernels import FEATURES, Kernels, feature_blobs, in_order_of_depth
from fishing.progress import Progress, silent
from fishing.store import FeaturesFile, Split

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes
    ----------
    record : dict
        ``protocol``, ``train``, ``test``, ``C``, ``classes``, ``features`` (with
        ``mAP`` and ``AP`` by class, in [0, 1], None for a class that has no positive
        in one of the splits), ``source``: how the features were made, ``lists``: the
        SHA-256 of both splits' lists, and ``versions`` of what computed it.
    image_id : tuple of str, length n
        All images of the test split, in the order of its list.
    scores : dict of str to ndarray of float64, shape (n, n_classes)
        By feature; -inf for an image without a row, NaN for a class without an SVM.
    path : Path
        Of the features file.
    """

    record: dict[str, Any]
    image_id: tuple[str, ...]
    scores: dict[str, NDArray[np.float64]]
    path: Path


def evaluate(
    path: Path,
    *,
    train: str = "trainval",
    test: str = "test",
    features: Sequence[str] = FEATURES,
    protocol: str | None = None,
    C: float = 1.0,
    progress: Progress = silent,
) -> Evaluation:
    """Train SVMs on one split, rank another, and measure the rankings.

    Parameters
    ----------
    path : Path
        A features file.
    train, test : str
        Names of splits in it.
    features : sequence of str
        By default the eleven of the paper's table 1.
    protocol : str, optional
        ``voc2007`` (11 points) or ``voc2012`` (area). By default the one of the
        devkit's year: area from 2010 on, else 11 points.
    C : float
        Of the SVMs.
    progress : Progress
        Counts features.

    Returns
    -------
    Evaluation

    Raises
    ------
    StoreError
        If the file is missing or lacks a split.
    EvaluationError
        If there are no labels, features, protocol or C are not known ones, values are
        not finite, or the kernels do not fit into memory.
    """
    order = in_order_of_depth(dict.fromkeys(features))
    needed = [feature_blobs(name) for name in order]
    with FeaturesFile(path) as file:
        training, testing = file.split(train), file.split(test)
        image_id, labels = all_labels(testing, test, training.classes)
        protocol = protocol or _protocol(testing.devkit)
        if protocol not in PROTOCOLS:
            raise EvaluationError(
                f"expected a protocol of {' '.join(PROTOCOLS)}, found '{protocol}'"
            )
        train_labels = _required(training.labels, train)
        usable = _usable_classes(training.classes, train_labels, labels)
        if not usable.any():
            raise EvaluationError(
                f"{path}: expected a class with positives and negatives in '{train}' "
                f"and positives in '{test}', found none"
            )
        kernels = Kernels(training, testing)
        scores: dict[str, NDArray[np.float64]] = dict.fromkeys(features, np.empty(0))
        for done, feature in enumerate(order):
            kernels.keep(set().union(*needed[done:]))
            progress(feature, done, len(order), "features")
            try:
                kernel = kernels(feature)
                values = decision_function(*kernel, train_labels[:, usable], C)
            except MemoryError:
                raise EvaluationError(
                    f"expected memory for kernels of {len(training)} by "
                    f"{len(training)} and {len(testing)} by {len(training)}, found "
                    "too little of it; use fewer images"
                ) from None
            scores[feature] = with_failed(values, testing, usable)
        results = {
            feature: _measure(values, labels, training.classes, usable, protocol)
            for feature, values in scores.items()
        }
        progress(order[-1], len(order), len(order), "features")
        record = {
            "protocol": protocol,
            "train": train,
            "test": test,
            "C": float(C),
            "classes": list(training.classes),
            "features": results,
            "source": file.settings,
            "lists": {train: training.list_sha256, test: testing.list_sha256},
            "versions": _versions(),
        }
    return Evaluation(record, image_id, scores, path)


def _measure(
    scores: NDArray[np.float64],
    labels: NDArray[np.int8],
    classes: Sequence[str],
    usable: NDArray[np.bool_],
    protocol: str,
) -> dict[str, Any]:
    """Average precision by class, and the mean over those that have one."""
    average_precision = PROTOCOLS[protocol]
    ap = {
        name: average_precision(labels[:, j], scores[:, j]) if usable[j] else None
        for j, name in enumerate(classes)
    }
    return {"mAP": float(np.mean([v for v in ap.values() if v is not None])), "AP": ap}


def all_labels(
    testing: Split, test: str, classes: Sequence[str]
) -> tuple[tuple[str, ...], NDArray[np.int8]]:
    """Ids and labels of all test images, those that failed in their places.

    The columns follow `classes`; a class that the test split does not know has no
    positive in it.
    """
    found = _required(testing.labels, test)
    found_failed = _required(testing.failed_labels, test)
    n = len(testing) + len(testing.failed_id)
    place = _places(testing)
    labels = np.full((n, len(classes)), -1, np.int8)
    for j, name in enumerate(classes):
        if name in testing.classes:
            column = testing.classes.index(name)
            labels[place, j] = found[:, column]
            labels[testing.failed_index, j] = found_failed[:, column]
    for name in set(testing.classes) - set(classes):
        _log.warning("class '%s' of split '%s' was not trained; left out", name, test)
    return all_ids(testing), labels


def all_ids(testing: Split) -> tuple[str, ...]:
    """Ids of all images of a split, those that failed in their places."""
    ids = np.empty(len(testing) + len(testing.failed_id), dtype=object)
    ids[_places(testing)] = testing.image_id
    ids[testing.failed_index] = testing.failed_id
    return tuple(ids)


def _places(testing: Split) -> NDArray[np.int64]:
    """Where the images with a row stand in the list of the split."""
    n = len(testing) + len(testing.failed_id)
    return np.delete(np.arange(n), testing.failed_index)


def with_failed(
    values: NDArray[np.float64], testing: Split, usable: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Put decision values in the places of their images; the others rank last."""
    n = len(testing) + len(testing.failed_id)
    scores = np.full((n, len(usable)), -np.inf)
    scores[:, ~usable] = np.nan
    scores[np.ix_(_places(testing), np.flatnonzero(usable))] = values
    return scores


def _required(labels: NDArray[np.int8] | None, split: str) -> NDArray[np.int8]:
    """Refuse a split without labels."""
    if labels is None:
        raise EvaluationError(
            f"expected labels in split '{split}', found none; only labelled splits "
            "can be evaluated"
        )
    return labels


def _usable_classes(
    classes: Sequence[str],
    train_labels: NDArray[np.int8],
    test_labels: NDArray[np.int8],
) -> NDArray[np.bool_]:
    """Tell which classes can be trained and measured, and warn of the others."""
    usable = np.zeros(len(classes), bool)
    for j, name in enumerate(classes):
        counts = (
            int((train_labels[:, j] > 0).sum()),
            int((train_labels[:, j] < 0).sum()),
            int((test_labels[:, j] > 0).sum()),
        )
        usable[j] = all(counts)
        if not usable[j]:
            _log.warning(
                "class '%s' has %d positives and %d negatives to learn from and %d "
                "positives to find; it gets no average precision",
                name,
                *counts,
            )
    return usable


def _protocol(devkit: str) -> str:
    """Choose the measure of the devkit's year: VOC went over to the area in 2010."""
    year = re.fullmatch(r"VOC(\d{4})", devkit)
    return "voc2012" if year and int(year[1]) >= 2010 else "voc2007"


def _versions() -> dict[str, str]:
    """Say what computed an evaluation."""
    return {
        "fishing": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }
