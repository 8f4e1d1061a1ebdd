"""Cross-validation on one split, for data without a split of their own to test on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError
from fishing.evaluate.evaluation import rank_all, versions
from fishing.evaluate.failed_images import all_ids, all_labels, places, with_failed
from fishing.evaluate.measure import (
    check_resampling,
    choose_protocol,
    measure,
    usable_classes,
)
from fishing.evaluate.results import Evaluation
from fishing.evaluate.svm import decision_function
from fishing.kernels import Kernels, choose_features
from fishing.progress import Progress, silent
from fishing.store import FeaturesFile, remembered_data

_SEED = 0


def cross_validate(
    path: Path,
    *,
    split: str = "all",
    n_folds: int = 5,
    features: Sequence[str] = (),
    protocol: str | None = None,
    C: float = 1.0,
    n_resamples: int = 0,
    reference: str | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Rank the images of each fold of a split by SVMs trained on the other folds.

    Parameters
    ----------
    path : Path
        A features file.
    split : str
        A labelled split in it.
    n_folds : int
        2 or more.
    features, protocol, C, n_resamples, reference, progress
        As for `fishing.evaluate.evaluate`. The bootstrap draws images within each fold.

    Returns
    -------
    Evaluation
        Its scores are those of each image by the SVMs that did not see it. Average
        precisions are means over the folds, and ``spread`` has their standard
        deviations.

    Raises
    ------
    StoreError
        If the file is missing or lacks the split.
    EvaluationError
        As for `evaluate`, or if there are fewer images than folds.
    """
    with FeaturesFile(path) as file:
        images = file.split(split)
        chosen = choose_features(features, images.blobs)
        resampling = check_resampling(n_resamples, reference, chosen)
        protocol, because = choose_protocol(protocol, images)
        labels = all_labels(images, split, images.classes)
        fold = stratified_folds(labels, n_folds)
        parts = [np.flatnonzero(fold == k) for k in range(n_folds)]
        rows = places(images)
        tested = [np.flatnonzero(fold[rows] == k) for k in range(n_folds)]
        # An image with label 0 plays no part in training, and the kernel stays whole.
        train_labels = [labels[rows] for _ in tested]
        for y, test in zip(train_labels, tested, strict=True):
            y[test] = 0
        usable = usable_classes(
            images.classes, train_labels, labels, f"each fold of '{split}'"
        )
        kernels = Kernels(images, images)

        def rank(feature: str) -> NDArray[np.float64]:
            K, _ = kernels(feature)
            values = np.empty((len(K), int(usable.sum())))
            for y, test in zip(train_labels, tested, strict=True):
                values[test] = decision_function(K, K[test], y[:, usable], C)
            return values

        scores = {
            feature: with_failed(values, images, usable)
            for feature, values in rank_all(rank, kernels, chosen, progress).items()
        }
        record = {
            **{"protocol": protocol, "protocol_because": because},
            **{"train": split, "test": split, "C": float(C)},
            "folds": n_folds,
            **({"bootstrap": resampling} if resampling else {}),
            "classes": list(images.classes),
            "features": measure(
                scores,
                labels,
                images.classes,
                protocol=protocol,
                parts=parts,
                resampling=resampling,
                progress=progress,
            ),
            "source": file.settings,
            "lists": {split: images.list_sha256},
            "versions": versions(),
        }
        return Evaluation(record, all_ids(images), scores, path, remembered_data(path))


def stratified_folds(
    labels: NDArray[np.int8], n_folds: int, seed: int = _SEED
) -> NDArray[np.int64]:
    """Deal images out to folds so that each fold has its share of each class.

    Images may have several labels, so shares cannot always be equal. Images of rare
    classes are dealt out first. Each goes to the fold that lacks most of its classes,
    as shares of each class, where the images as such count as one more class. This
    reduces the sum of squared deviations the most at each step.

    Parameters
    ----------
    labels : ndarray of int8, shape (n, n_classes)
        1 is positive.
    n_folds : int
    seed : int
        Equal seeds give equal folds.

    Returns
    -------
    ndarray of int64, shape (n,)
        The fold of each image, from 0.

    Raises
    ------
    EvaluationError
        If there are fewer than 2 folds, or fewer images than folds.

    Examples
    --------
    >>> labels = np.array([[1], [1], [-1], [-1], [-1], [-1]])
    >>> folds = stratified_folds(labels, 2)
    >>> [int((labels[folds == k] > 0).sum()) for k in range(2)], np.bincount(folds)
    ([1, 1], array([3, 3]))
    """
    n = len(labels)
    if not 2 <= n_folds <= n:
        raise EvaluationError(
            f"expected 2 folds or more, and at most one for each of {n} images, found "
            f"{n_folds}; choose another --folds"
        )
    of_class = np.column_stack([labels > 0, np.ones(n, bool)])
    n_images = np.maximum(of_class.sum(axis=0), 1)
    lacking = np.tile(of_class.sum(axis=0) / n_folds, (n_folds, 1))
    rarest = np.where(of_class, n_images, n + 1).min(axis=1)
    shuffled = np.random.default_rng(seed).permutation(n)
    fold = np.empty(n, np.int64)
    for image in shuffled[np.argsort(rarest[shuffled], kind="stable")]:
        classes = of_class[image]
        shares = lacking[:, classes] / n_images[classes]
        fold[image] = shares.sum(axis=1).argmax()
        lacking[fold[image], classes] -= 1
    return fold
