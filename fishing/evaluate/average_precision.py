"""Average precision of a ranking, as the PASCAL VOC development kits define it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Thresholds as the development kit's 0:0.1:1 gives them: 3 * 0.1 is above 0.3.
RECALLS = np.arange(11) * 0.1


def average_precision_11point(labels: ArrayLike, scores: ArrayLike) -> float:
    """Compute average precision at eleven recalls (VOCevalcls of VOC 2007).

    It is the mean over t = 0, 0.1, ..., 1 of the best precision at a recall of at least
    t.

    Parameters
    ----------
    labels : array_like of int, shape (n_samples,)
        1 is positive and -1 negative; images with 0, which are difficult, are left out.
    scores : array_like of float, shape (n_samples,)
        The largest score ranks first, and -inf last. Equal scores keep their order.

    Returns
    -------
    float
        In [0, 1]; NaN if there is no positive.

    Raises
    ------
    ValueError
        If the shapes differ or a score is NaN.

    Examples
    --------
    >>> round(average_precision_11point([1, -1, 1], [0.9, 0.5, 0.4]), 4)
    0.8485
    """
    recall, precision = precision_recall(labels, scores)
    if not recall.size:
        return float("nan")
    best = [precision[recall >= t].max(initial=0.0) for t in RECALLS]
    return float(sum(best) / len(best))


def average_precision_area(labels: ArrayLike, scores: ArrayLike) -> float:
    """Compute average precision as the area under the monotone curve (VOCap, 2010 on).

    Precision is first made monotone: p(r) = max over r' >= r of p(r'). Parameters,
    Returns and Raises are those of `average_precision_11point`.

    Examples
    --------
    >>> round(average_precision_area([1, -1, 1], [0.9, 0.5, 0.4]), 4)
    0.8333
    """
    recall, precision = precision_recall(labels, scores)
    if not recall.size:
        return float("nan")
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(min(1.0, np.sum(np.diff(recall, prepend=0.0) * envelope)))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Compute average precision without interpolation, as is usual for retrieval.

    It is the mean over the positives of the precision at their ranks. Parameters,
    Returns and Raises are those of `average_precision_11point`.

    Examples
    --------
    >>> round(average_precision([-1, 1, -1, 1], [0.9, 0.5, 0.4, 0.3]), 4)
    0.5
    """
    recall, precision = precision_recall(labels, scores)
    if not recall.size:
        return float("nan")
    return float(precision[np.diff(recall, prepend=0.0) > 0].mean())


PROTOCOLS: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "voc2007": average_precision_11point,
    "voc2012": average_precision_area,
}


def precision_recall(
    labels: ArrayLike, scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute recall and precision after each image of the ranking.

    Parameters and Raises are those of `average_precision_11point`.

    Returns
    -------
    recall, precision : ndarray of float64, shape (n,)
        Without the difficult images; empty if there is no positive.

    Examples
    --------
    >>> precision_recall([1, -1, 1], [0.9, 0.5, 0.4])[0]
    array([0.5, 0.5, 1. ])
    """
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or y.shape != s.shape:
        raise ValueError(f"labels {y.shape} and scores {s.shape} must be equal in (n,)")
    if np.isnan(s).any():
        raise ValueError(f"{int(np.isnan(s).sum())} of {s.size} scores are NaN")
    y, s = y[y != 0], s[y != 0]
    positive = y[np.argsort(-s, kind="stable")] > 0
    if not positive.any():
        return np.empty(0), np.empty(0)
    hits = np.cumsum(positive)
    return hits / hits[-1], hits / np.arange(1, hits.size + 1)
