"""Is a difference real? Intervals by a paired bootstrap over the test images.

A resample draws as many test images as there are, with replacement. All features are
measured on the same resamples, so the luck of the draw cancels in their differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from fishing.evaluate.average_precision import RECALLS
from fishing.processes import in_threads
from fishing.progress import Progress, silent

LEVEL = 0.95  # of the intervals
SEED = 0
_BLOCK_VALUES = 2**18  # counts that a thread works on at a time, about 1 MiB


def bootstrap(
    labels: NDArray[np.int8],
    scores: Mapping[str, NDArray[np.float64]],
    *,
    classes: Sequence[str],
    protocol: str,
    n_resamples: int,
    reference: str,
    parts: Sequence[NDArray[np.int64]] = (),
    progress: Progress = silent,
) -> dict[str, dict[str, Any]]:
    """Compute intervals of average precisions, and of differences to one feature.

    An interval goes from the 2.5th to the 97.5th percentile of the resamples. A
    resample without a positive of a class does not count for that class.

    Parameters
    ----------
    labels : ndarray of int8, shape (n, n_classes)
        All test images, in the order of their list: 1, -1 or 0 (difficult).
    scores : mapping of str to ndarray of float64, shape (n, n_classes)
        By feature; -inf for an image that could not be read, NaN for a class without
        an SVM.
    classes : sequence of str, length n_classes
    protocol : str
        ``voc2007`` (11 points) or ``voc2012`` (area).
    n_resamples : int
        One byte of memory is needed for each of them and each image.
    reference : str
        The feature that the others are compared with.
    parts : sequence of ndarray of int64
        The places of the test images of each fold of a cross-validation. Images are
        drawn within each fold, and average precisions are means over the folds. By
        default, all images are one part.
    progress : Progress
        Counts classes.

    Returns
    -------
    dict of str to dict
        By feature, ``interval`` and, unless it is the reference, ``difference``: the
        interval of its average precision minus the reference's. Each has ``mAP`` and,
        by class, ``AP``: [low, high], or None for a class that is not measured.
    """
    parts = parts or [np.arange(len(labels))]
    counts = [
        draw_counts(len(part), n_resamples, [SEED, number])
        for number, part in enumerate(parts)
    ]
    features = list(scores)
    by_class = {}
    total, n_measured = np.zeros((len(features), n_resamples)), np.zeros(n_resamples)
    for j, name in enumerate(classes):
        progress("bootstrap", j, len(classes), "classes")
        AP = np.full((len(parts), len(features), n_resamples), np.nan)

        def measure(item: tuple[int, int], j: int = j, AP: Any = AP) -> None:
            p, f = item
            column = scores[features[f]][parts[p], j]
            if not np.isnan(column).any():
                y = labels[parts[p], j]
                AP[p, f] = resampled_precision(y, column, counts[p], protocol)

        in_threads(measure, np.ndindex(len(parts), len(features)))
        mean = mean_of_known(AP)
        by_class[name] = _intervals(features, mean, reference)
        is_measured = ~np.isnan(mean[0])  # the same for all features
        total[:, is_measured] += mean[:, is_measured]
        n_measured += is_measured
    progress("bootstrap", len(classes), len(classes), "classes")
    with np.errstate(invalid="ignore"):  # 0 / 0: a resample without any positive
        means = _intervals(features, total / n_measured, reference)
    return {
        feature: {
            kind: {
                "mAP": interval,
                "AP": {name: found[feature][kind] for name, found in by_class.items()},
            }
            for kind, interval in of_means.items()
        }
        for feature, of_means in means.items()
    }


def draw_counts(
    n_images: int, n_resamples: int, seed: int | Sequence[int]
) -> NDArray[np.uint8]:
    """Draw images with replacement; equal seeds give equal draws.

    Returns
    -------
    ndarray of uint8, shape (n_images, n_resamples)
        How often each image was drawn. A column adds up to `n_images`.

    Examples
    --------
    >>> draw_counts(4, 2, seed=0).sum(axis=0).tolist()
    [4, 4]
    """
    rng = np.random.default_rng(seed)
    counts = np.empty((n_images, n_resamples), np.uint8)
    for k in range(n_resamples):
        # A count beyond 255 has a chance of 1e-500.
        drawn = rng.integers(n_images, size=n_images)
        counts[:, k] = np.bincount(drawn, minlength=n_images)
    return counts


def resampled_precision(
    labels: NDArray[np.int8],
    scores: NDArray[np.float64],
    counts: NDArray[np.uint8],
    protocol: str,
) -> NDArray[np.float64]:
    """Compute the average precision of each resample of a ranking.

    It is what the protocol's function in `fishing.evaluate.average_precision` gives for
    ``np.repeat(labels, c)`` and ``np.repeat(scores, c)``, for each column c of
    `counts`.

    Parameters
    ----------
    labels : ndarray of int8, shape (n,)
        1, -1 or 0 (difficult: left out).
    scores : ndarray of float64, shape (n,)
        The largest ranks first, and -inf last. Equal scores keep their order.
    counts : ndarray of uint8, shape (n, n_resamples)
        How often each image was drawn.
    protocol : str
        ``voc2007`` (11 points) or ``voc2012`` (area).

    Returns
    -------
    ndarray of float64, shape (n_resamples,)
        NaN for a resample without a positive.

    Examples
    --------
    >>> labels, scores = np.array([1, -1, 1]), np.array([0.9, 0.5, 0.4])
    >>> counts = np.array([[1, 0], [1, 2], [1, 1]], np.uint8)
    >>> resampled_precision(labels, scores, counts, "voc2012").round(4)
    array([0.8333, 0.3333])
    """
    kept = np.flatnonzero(labels != 0)
    order = kept[np.argsort(-scores[kept], kind="stable")]
    ends = np.flatnonzero(labels[order] > 0) + 1
    found = np.full(counts.shape[1], np.nan)
    if not ends.size:
        return found
    # Row i sums up the images from one positive, exclusive, to the next, inclusive.
    order = order[: ends[-1]]
    ones = np.ones(len(order), np.int32)
    stretches = csr_matrix(
        (ones, order, [0, *ends]), shape=(len(ends), len(labels)), copy=False
    )
    step = max(1, _BLOCK_VALUES // len(labels))
    for start in range(0, len(found), step):
        drawn = counts[:, start : start + step].astype(np.int32)
        # The copies of a positive stand together, and precision does not fall from one
        # to the next. So it is enough to know it at the last copy of each.
        hits = np.cumsum(drawn[order[ends - 1]], axis=0, dtype=np.int32)
        ranks = np.cumsum(stretches @ drawn, axis=0, dtype=np.int32)
        precision = hits / np.maximum(ranks, 1)
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        with np.errstate(invalid="ignore"):  # 0 / 0: a resample without a positive
            recall = hits / hits[-1]
        found[start : start + step] = _MEASURES[protocol](recall, best)
    return found


def mean_of_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the first axis without NaN; NaN where there is nothing else."""
    is_known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing is known
        return np.asarray(
            np.where(is_known, values, 0.0).sum(axis=0) / is_known.sum(axis=0)
        )


def _eleven_points(
    recall: NDArray[np.float64], best: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average the best precision at or after each of eleven recalls, by column."""
    total = np.zeros(recall.shape[1])
    for t in RECALLS:
        first = (recall < t).sum(axis=0, dtype=np.int32)  # 0 for NaN
        total += best[first, np.arange(len(first))]
    total[np.isnan(recall[-1])] = np.nan
    return total / len(RECALLS)


def _area(
    recall: NDArray[np.float64], best: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum up the best precision at or after each hit, by column."""
    steps = np.diff(recall, axis=0, prepend=0.0)
    area: NDArray[np.float64] = np.einsum("ij,ij->j", steps, best)
    return np.minimum(1.0, area)


_MEASURES = {"voc2007": _eleven_points, "voc2012": _area}


def _intervals(
    features: Sequence[str], AP: NDArray[np.float64], reference: str
) -> dict[str, dict[str, list[float] | None]]:
    """Make the intervals of one class, or of the means, for each feature."""
    base = AP[features.index(reference)]
    found = {}
    for feature, samples in zip(features, AP, strict=True):
        found[feature] = {"interval": _interval(samples)}
        if feature != reference:
            found[feature]["difference"] = _interval(samples - base)
    return found


def _interval(samples: NDArray[np.float64]) -> list[float] | None:
    known = samples[~np.isnan(samples)]
    if not known.size:
        return None
    tail = (1 - LEVEL) / 2
    return [float(bound) for bound in np.quantile(known, [tail, 1 - tail])]
