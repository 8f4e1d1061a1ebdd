"""The quality of retrieval: each image of a split is a query for the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError
from fishing.evaluate import average_precision, required_labels
from fishing.kernels import (
    Kernel,
    Kernels,
    choose_features,
    feature_blobs,
    in_order_of_depth,
)
from fishing.progress import Progress, silent
from fishing.store import FeaturesFile, row_blocks


def evaluate_retrieval(
    path: Path,
    split: str = "test",
    features: Sequence[str] = (),
    progress: Progress = silent,
) -> dict[str, Any]:
    """Rank the images of a split by their kernel with each one of them.

    Each image is a query, and is left out of its own ranking. The images that share a
    class with it are relevant. Images that may share a class with it, because one of
    the two is labelled difficult, are left out, and so are queries without a relevant
    image. Average precision is the mean over the relevant images of the precision at
    their ranks. Equal similarities keep the order of the file.

    Parameters
    ----------
    path : Path
        A features file.
    split : str
        A labelled split of it.
    features : sequence of str
        By default, all features that the file has, in the order of the paper's table 1.
    progress : Progress
        Counts features.

    Returns
    -------
    dict
        ``split``, ``n_queries``, ``classes``, ``source`` (how the features were made)
        and ``features``. Each feature has ``mAP``, the mean over all queries, and
        ``AP``, by class the mean over its queries; both are in [0, 1], and the latter
        is None for a class without a query.

    Raises
    ------
    StoreError
        If the file is missing or lacks the split.
    EvaluationError
        If there are no labels, if no two images share a class, or if the file lacks a
        feature.
    """
    with FeaturesFile(path) as file:
        images = file.split(split)
        chosen = choose_features(features, images.blobs)
        labels = required_labels(images.labels, split)
        relevance = _relevance(labels)
        queries = np.asarray((relevance > 0).any(axis=1))
        if not queries.any():
            raise EvaluationError(
                f"{path}: expected two images of one class in '{split}', found none; "
                "choose another --split"
            )
        kernels, order = Kernels(images, images), in_order_of_depth(chosen)
        results: dict[str, Any] = dict.fromkeys(chosen)
        for done, feature in enumerate(order):
            kernels.keep(set().union(*map(feature_blobs, order[done:])))
            progress(feature, done, len(order), "features")
            kernel, _ = kernels.by_rows(feature)
            ap = _average_precisions(kernel, relevance, queries)
            results[feature] = _means(ap, labels, images.classes)
        progress(order[-1], len(order), len(order), "features")
        return {
            "split": split,
            "n_queries": int(queries.sum()),
            "classes": list(images.classes),
            "features": results,
            "source": file.settings,
        }


def _average_precisions(
    kernel: Kernel, relevance: NDArray[np.int8], queries: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Measure the ranking of each query; NaN for an image that is not a query."""
    ap = np.full(len(queries), np.nan)
    for block in row_blocks(len(queries)):
        scores = kernel[block]
        for i in np.flatnonzero(queries[block]):
            row = block.start + i
            ap[row] = average_precision(relevance[row], scores[i])
    return ap


def _relevance(labels: NDArray[np.int8]) -> NDArray[np.int8]:
    """Find which images, as columns, are relevant to each image, a row; shape (n, n).

    1 means relevant, -1 not relevant, and 0 neither.
    """
    is_, may_be = (labels > 0).astype(np.float32), (labels >= 0).astype(np.float32)
    relevance = np.full((len(labels), len(labels)), -1, np.int8)
    for block in row_blocks(len(labels)):
        relevance[block][may_be[block] @ may_be.T > 0] = 0
        relevance[block][is_[block] @ is_.T > 0] = 1
    np.fill_diagonal(relevance, 0)
    return relevance


def _means(
    ap: NDArray[np.float64], labels: NDArray[np.int8], classes: Sequence[str]
) -> dict[str, Any]:
    """Average over all queries, and over those of each class."""
    by_class = {}
    for j, name in enumerate(classes):
        found = ap[(labels[:, j] > 0) & ~np.isnan(ap)]
        by_class[name] = float(found.mean()) if found.size else None
    return {"mAP": float(np.nanmean(ap)), "AP": by_class}
