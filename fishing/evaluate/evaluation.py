"""The evaluation of a features file: kernels, SVMs and average precisions."""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray

from fishing import __version__
from fishing.errors import EvaluationError
from fishing.evaluate.average_precision import PROTOCOLS
from fishing.evaluate.failed_images import (
    all_ids,
    all_labels,
    required_labels,
    with_failed,
)
from fishing.evaluate.landmarks import landmark_decision_function, landmarks_needed
from fishing.evaluate.results import Evaluation
from fishing.evaluate.svm import decision_function
from fishing.kernels import Kernels, choose_features, feature_blobs, in_order_of_depth
from fishing.progress import Progress, silent
from fishing.store import FeaturesFile

_log = logging.getLogger(__name__)


def evaluate(
    path: Path,
    *,
    train: str = "trainval",
    test: str = "test",
    features: Sequence[str] = (),
    protocol: str | None = None,
    C: float = 1.0,
    landmarks: int | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Train SVMs on one split, rank the images of another, and measure the rankings.

    Parameters
    ----------
    path : Path
        A features file.
    train, test : str
        Names of splits in it.
    features : sequence of str
        By default, all features that the file has, in the order of the paper's table 1.
    protocol : str, optional
        ``voc2007`` (11 points) or ``voc2012`` (area). By default, the one of the
        devkit's year: the area from 2010 on, else 11 points.
    C : float
        Weight of the SVMs' hinge loss.
    landmarks : int, optional
        How many training images approximate the kernels, by Nystroem's method. By
        default, kernels are exact, or 4096 where those would not fit into memory.
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
        If there are no labels, if the file lacks a feature, if the protocol or C is not
        allowed, if values are not finite, or if the kernels do not fit into memory.
    """
    with FeaturesFile(path) as file:
        training, testing = file.split(train), file.split(test)
        chosen = choose_features(features, training.blobs)
        order = in_order_of_depth(chosen)
        labels = all_labels(testing, test, training.classes)
        protocol = protocol or _protocol(testing.devkit)
        if protocol not in PROTOCOLS:
            raise EvaluationError(
                f"expected a protocol of {' '.join(PROTOCOLS)}, found '{protocol}'"
            )
        train_labels = required_labels(training.labels, train)
        usable = _usable_classes(training.classes, train_labels, labels)
        if not usable.any():
            raise EvaluationError(
                f"{path}: expected a class with positives and negatives in '{train}' "
                f"and positives in '{test}', found none"
            )
        landmarks = landmarks or landmarks_needed(training, testing)
        kernels = Kernels(training, testing)
        scores: dict[str, Any] = dict.fromkeys(chosen)  # in the order of the table
        for done, feature in enumerate(order):
            kernels.keep(set().union(*map(feature_blobs, order[done:])))
            progress(feature, done, len(order), "features")
            try:
                if landmarks:
                    values = landmark_decision_function(
                        *(feature, training, testing, train_labels[:, usable]),
                        C=C,
                        n_landmarks=landmarks,
                        progress=progress,
                    )
                else:
                    # No name holds the kernels: they are gone before the next ones.
                    values = decision_function(
                        *kernels(feature), labels=train_labels[:, usable], C=C
                    )
            except MemoryError:
                raise EvaluationError(
                    f"expected memory for kernels of {len(training)} by "
                    f"{len(training)} and {len(testing)} by {len(training)}, found "
                    "too little; use fewer images"
                ) from None
            scores[feature] = with_failed(values, testing, usable)
        progress(order[-1], len(order), len(order), "features")
        record = {
            "protocol": protocol,
            "train": train,
            "test": test,
            "C": float(C),
            **({"landmarks": landmarks} if landmarks else {}),
            "classes": list(training.classes),
            "features": {
                feature: _measure(values, labels, training.classes, usable, protocol)
                for feature, values in scores.items()
            },
            "source": file.settings,
            "lists": {train: training.list_sha256, test: testing.list_sha256},
            "versions": _versions(),
        }
        return Evaluation(record, all_ids(testing), scores, path)


def _measure(
    scores: NDArray[np.float64],
    labels: NDArray[np.int8],
    classes: Sequence[str],
    usable: NDArray[np.bool_],
    protocol: str,
) -> dict[str, Any]:
    """Compute average precision by class, and the mean over those that have one."""
    average_precision = PROTOCOLS[protocol]
    ap = {
        name: average_precision(labels[:, j], scores[:, j]) if usable[j] else None
        for j, name in enumerate(classes)
    }
    return {"mAP": float(np.mean([v for v in ap.values() if v is not None])), "AP": ap}


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
    """Choose the protocol of the devkit's year: VOC changed to the area in 2010."""
    year = re.fullmatch(r"VOC(\d{4})", devkit)
    return "voc2012" if year and int(year[1]) >= 2010 else "voc2007"


def _versions() -> dict[str, str]:
    """List the versions of the libraries that compute an evaluation."""
    return {
        "fishing": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }
