"""The evaluation of a features file: kernels, SVMs and average precisions."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray

from fishing import __version__
from fishing.errors import EvaluationError
from fishing.evaluate.failed_images import (
    all_ids,
    all_labels,
    required_labels,
    with_failed,
)
from fishing.evaluate.landmarks import landmark_decision_function, landmarks_needed
from fishing.evaluate.measure import (
    check_resampling,
    choose_protocol,
    measure,
    usable_classes,
)
from fishing.evaluate.results import Evaluation
from fishing.evaluate.svm import decision_function
from fishing.kernels import Kernels, choose_features, feature_blobs, in_order_of_depth
from fishing.progress import Progress, silent
from fishing.store import FeaturesFile, remembered_data


def evaluate(
    path: Path,
    *,
    train: str = "trainval",
    test: str = "test",
    features: Sequence[str] = (),
    protocol: str | None = None,
    C: float = 1.0,
    n_resamples: int = 0,
    reference: str | None = None,
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
        devkit's year: the area from 2010 on, else 11 points. The record says
        why under ``protocol_because``.
    C : float
        Weight of the SVMs' hinge loss.
    n_resamples : int
        Resamples of the test images, for 95 % intervals by a paired bootstrap; 0 for
        none.
    reference : str, optional
        The feature that the others are compared with in the bootstrap. By default, x7,
        or else the first one.
    landmarks : int, optional
        How many training images approximate the kernels, by Nystroem's method. By
        default, kernels are exact, or 4096 where those would not fit into memory.
    progress : Progress
        Counts features, and then the classes of the bootstrap.

    Returns
    -------
    Evaluation

    Raises
    ------
    StoreError
        If the file is missing or lacks a split.
    EvaluationError
        If there are no labels, if the file lacks a feature, if the protocol, C or the
        reference is not allowed, if values are not finite, or if the kernels do not fit
        into memory.
    """
    with FeaturesFile(path) as file:
        training, testing = file.split(train), file.split(test)
        chosen = choose_features(features, training.blobs)
        resampling = check_resampling(n_resamples, reference, chosen)
        labels = all_labels(testing, test, training.classes)
        protocol, because = choose_protocol(protocol, testing)
        train_labels = required_labels(training.labels, train)
        usable = usable_classes(
            training.classes, [train_labels], labels, f"'{train}' and '{test}'"
        )
        if wanted := landmarks or landmarks_needed(training, testing):
            landmarks = min(wanted, len(training))
        kernels = Kernels(training, testing)

        def rank(feature: str) -> NDArray[np.float64]:
            if landmarks:
                return landmark_decision_function(
                    *(feature, training, testing, train_labels[:, usable]),
                    C=C,
                    n_landmarks=landmarks,
                    progress=progress,
                )
            # No name holds the kernels, so they are gone before the next ones.
            return decision_function(
                *kernels(feature), labels=train_labels[:, usable], C=C
            )

        scores = {
            feature: with_failed(values, testing, usable)
            for feature, values in rank_all(rank, kernels, chosen, progress).items()
        }
        record = {
            **{"protocol": protocol, "protocol_because": because},
            **{"train": train, "test": test, "C": float(C)},
            **({"landmarks": landmarks} if landmarks else {}),
            **({"bootstrap": resampling} if resampling else {}),
            "classes": list(training.classes),
            "features": measure(
                scores,
                labels,
                training.classes,
                protocol=protocol,
                parts=[np.arange(len(labels))],
                resampling=resampling,
                progress=progress,
            ),
            "source": file.settings,
            "lists": {train: training.list_sha256, test: testing.list_sha256},
            "versions": versions(),
        }
        return Evaluation(record, all_ids(testing), scores, path, remembered_data(path))


def rank_all(
    rank: Callable[[str], NDArray[np.float64]],
    kernels: Kernels,
    features: Sequence[str],
    progress: Progress,
) -> dict[str, NDArray[np.float64]]:
    """Compute the decision values of features, keeping few Gram matrices at a time.

    Parameters
    ----------
    rank : callable
        Computes the decision values of one feature from `kernels`.
    kernels : Kernels
    features : sequence of str
    progress : Progress
        Counts features.

    Returns
    -------
    dict of str to ndarray of float64
        In the order of the features.

    Raises
    ------
    EvaluationError
        As `rank` does, or if the kernels do not fit into memory.
    """
    order = in_order_of_depth(features)
    values: dict[str, Any] = dict.fromkeys(features)
    for done, feature in enumerate(order):
        kernels.keep(set().union(*map(feature_blobs, order[done:])))
        progress(feature, done, len(order), "features")
        try:
            values[feature] = rank(feature)
        except MemoryError:
            raise EvaluationError(
                f"expected memory for the kernels of {feature}, found too little; use "
                "fewer images"
            ) from None
    progress(order[-1], len(order), len(order), "features")
    return values


def versions() -> dict[str, str]:
    """List the versions of the libraries that compute an evaluation."""
    return {
        "fishing": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }
