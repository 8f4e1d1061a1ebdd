"""Retrieval: every image of a split as a query, and how good the rankings are.

In goes a labelled split of a features file, out comes mean average precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError
from fishing.evaluate import average_precision
from fishing.kernels import FEATURES, feature_factors, kernel_between
from fishing.kernels.gram_matrices import row_blocks
from fishing.progress import Progress, silent
from fishing.store import FeaturesFile


def evaluate_retrieval(
    path: Path,
    split: str = "test",
    features: Sequence[str] = FEATURES,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Rank the images of a split by their kernel with each one of them.

    Each image is a query, itself left out of its ranking. Relevant are the images that
    share a class with it; those that may share one, since one of the two is labelled
    difficult, are left out. A query without a relevant image is left out. Average
    precision is the mean over the relevant images of the precision at their ranks;
    equal similarities keep the order of the file.

    Parameters
    ----------
    path : Path
        A features file.
    split : str
        A labelled split of it.
    features : sequence of str
        By default the eleven of the paper's table 1.
    progress : Progress
        Counts features.

    Returns
    -------
    dict
        ``split``, ``n_queries``, ``classes``, ``features`` (with ``mAP``, the mean over
        all queries, and ``AP`` by class, the mean over its images, in [0, 1], None for
        a class without a query) and ``source``: how the features were made.

    Raises
    ------
    StoreError
        If the file is missing or lacks the split.
    EvaluationError
        If there are no labels, no two images share a class, or a feature is unknown.
    """
    with FeaturesFile(path) as file:
        images = file.split(split)
        if images.labels is None:
            raise EvaluationError(
                f"expected labels in split '{split}', found none; only labelled splits "
                "can be evaluated"
            )
        relevance = _relevance(images.labels)
        queries = np.asarray((relevance > 0).any(axis=1))
        if not queries.any():
            raise EvaluationError(
                f"{path}: expected two images of one class in '{split}', found none"
            )
        results = {}
        for done, feature in enumerate(dict.fromkeys(features)):
            progress(feature, done, len(features), "features")
            factors = feature_factors(feature, images)
            kernel = kernel_between(factors, factors)
            ap = np.full(len(images), np.nan)
            for block in row_blocks(len(images)):
                scores = kernel[block]
                for i in np.flatnonzero(queries[block]):
                    row = block.start + i
                    ap[row] = average_precision(relevance[row], scores[i])
            results[feature] = _means(ap, images.labels, images.classes)
        progress(feature, len(features), len(features), "features")
        return {
            "split": split,
            "n_queries": int(queries.sum()),
            "classes": list(images.classes),
            "features": results,
            "source": file.settings,
        }


def _relevance(labels: NDArray[np.int8]) -> NDArray[np.int8]:
    """Say of each image, as a row, which others are relevant; shape (n, n).

    1 relevant, -1 not, 0 neither.
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
