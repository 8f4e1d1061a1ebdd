"""From decision values to average precisions, their spread and their intervals."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError
from fishing.evaluate.average_precision import PROTOCOLS
from fishing.evaluate.intervals import LEVEL, SEED, bootstrap, mean_of_known
from fishing.images import FIRST_AREA_YEAR, year_of_ids, year_of_name
from fishing.kernels import choose_features, feature_blobs
from fishing.progress import Progress
from fishing.store import Split

_log = logging.getLogger(__name__)


def measure(
    scores: Mapping[str, NDArray[np.float64]],
    labels: NDArray[np.int8],
    classes: Sequence[str],
    *,
    protocol: str,
    parts: Sequence[NDArray[np.int64]],
    resampling: Mapping[str, Any] | None,
    progress: Progress,
) -> dict[str, Any]:
    """Measure rankings of test images.

    Parameters
    ----------
    scores : mapping of str to ndarray of float64, shape (n, n_classes)
        By feature; -inf for an image without a row, NaN for a class without an SVM.
    labels : ndarray of int8, shape (n, n_classes)
    classes : sequence of str
    protocol : str
    parts : sequence of ndarray of int64
        The places of the images that are ranked together: all of them, or those of each
        fold of a cross-validation.
    resampling : mapping, optional
        What `check_resampling` returns.
    progress : Progress
        Counts classes.

    Returns
    -------
    dict
        By feature, ``AP`` by class, its mean over parts or None, and ``mAP``, the mean
        over classes. With several parts, ``spread`` has their standard deviations. With
        a bootstrap, there is also what `bootstrap` returns.
    """
    found: dict[str, Any] = {}
    for feature, values in scores.items():
        AP = _by_part(values, labels, protocol, parts)
        means = dict(zip(classes, map(_known, mean_of_known(AP)), strict=True))
        known = [value for value in means.values() if value is not None]
        found[feature] = {"mAP": float(np.mean(known)), "AP": means}
        if len(parts) > 1:
            found[feature]["spread"] = {
                "mAP": _spread(mean_of_known(AP.T)),
                "AP": dict(zip(classes, map(_spread, AP.T), strict=True)),
            }
    if resampling:
        intervals = bootstrap(
            labels,
            scores,
            classes=classes,
            protocol=protocol,
            n_resamples=resampling["resamples"],
            reference=resampling["reference"],
            parts=parts,
            progress=progress,
        )
        for feature, kinds in intervals.items():
            found[feature] |= kinds
    return found


def check_resampling(
    n_resamples: int, reference: str | None, features: Sequence[str]
) -> dict[str, Any] | None:
    """Describe a bootstrap as results.json does; None if there are no resamples.

    The reference is x7 by default, or else the first feature. Raises an EvaluationError
    if it is not among the features.
    """
    if not n_resamples:
        return None
    reference = reference or ("x7" if "x7" in features else features[0])
    (reference,) = choose_features([reference], feature_blobs(reference))  # its order
    if reference not in features:
        raise EvaluationError(
            f"expected a reference among the features {' '.join(features)}, found "
            f"'{reference}'; add it with --feature, or choose one of them"
        )
    return {
        "resamples": n_resamples,
        "reference": reference,
        "level": LEVEL,
        "seed": SEED,
    }


def choose_protocol(protocol: str | None, images: Split) -> tuple[str, str]:
    """Return the protocol, by default that of the devkit's year, and say why.

    VOC changed to the area in 2010. Raises an EvaluationError if there is no such
    protocol.
    """
    if protocol is not None:
        if protocol not in PROTOCOLS:
            raise EvaluationError(
                f"expected a protocol of {' '.join(PROTOCOLS)}, found '{protocol}'"
            )
        return protocol, "--protocol asks for it"
    ids = (*images.image_id, *images.failed_id)
    named, in_ids = year_of_name(images.devkit), year_of_ids(ids)
    year = named or in_ids
    if not year:
        return "voc2007", "the images are of no devkit whose year is known"
    because = f"the {'devkit is' if named else 'ids are those of'} VOC{year}"
    return "voc2012" if year >= FIRST_AREA_YEAR else "voc2007", because


def usable_classes(
    classes: Sequence[str],
    train_labels: Sequence[NDArray[np.int8]],
    test_labels: NDArray[np.int8],
    place: str,
) -> NDArray[np.bool_]:
    """Tell which classes can be trained and measured, and warn of the others.

    Parameters
    ----------
    classes : sequence of str
    train_labels : sequence of ndarray of int8, shape (n_train, n_classes)
        The labels of each training set; a class must be learnt from all of them.
    test_labels : ndarray of int8, shape (n_test, n_classes)
    place : str
        Where the images are, for the message.

    Raises
    ------
    EvaluationError
        If there is no such class.
    """
    counts = np.array(
        [
            np.min([(y > 0).sum(axis=0) for y in train_labels], axis=0),
            np.min([(y < 0).sum(axis=0) for y in train_labels], axis=0),
            (test_labels > 0).sum(axis=0),
        ]
    )
    usable = counts.all(axis=0)
    for name, of_class in zip(classes, counts.T, strict=True):
        if not of_class.all():
            _log.warning(
                "class '%s' has %d positives and %d negatives to learn from and %d "
                "positives to find; it gets no average precision",
                name,
                *of_class,
            )
    if not usable.any():
        raise EvaluationError(
            "expected a class with positives and negatives to learn from and positives "
            f"to find in {place}, found none"
        )
    return np.asarray(usable)


def _by_part(
    values: NDArray[np.float64],
    labels: NDArray[np.int8],
    protocol: str,
    parts: Sequence[NDArray[np.int64]],
) -> NDArray[np.float64]:
    """Compute average precisions; shape (n_parts, n_classes), NaN where there is none.

    A part without a positive of a class has no average precision of that class.
    """
    AP = np.full((len(parts), labels.shape[1]), np.nan)
    for row, part in zip(AP, parts, strict=True):
        for j, (y, column) in enumerate(
            zip(labels[part].T, values[part].T, strict=True)
        ):
            if not np.isnan(column).any():
                row[j] = PROTOCOLS[protocol](y, column)
    return AP


def _spread(values: NDArray[np.float64]) -> float | None:
    """Compute the standard deviation of two values or more."""
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if known.size > 1 else None


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
