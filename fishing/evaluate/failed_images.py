"""Test images that could not be read: they have no row, but keep their places.

The list of a split counts them, so a ranking of its images does too: they rank last.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError
from fishing.store import Split

_log = logging.getLogger(__name__)


def all_ids(split: Split) -> tuple[str, ...]:
    """List the ids of all images of a split, in the order of its list."""
    ids = np.empty(_n_images(split), dtype=object)
    ids[places(split)] = split.image_id
    ids[split.failed_index] = split.failed_id
    return tuple(ids)


def all_labels(split: Split, name: str, classes: Sequence[str]) -> NDArray[np.int8]:
    """Put the labels of all images of a split in the order of its list.

    Parameters
    ----------
    split : Split
    name : str
        Its name, for messages.
    classes : sequence of str
        One for each column of the labels. Where the split does not know a class, all of
        its images are negatives.

    Returns
    -------
    ndarray of int8, shape (n_images, n_classes)

    Raises
    ------
    EvaluationError
        If the split has no labels.
    """
    labels = required_labels(split.labels, name)
    failed_labels = required_labels(split.failed_labels, name)
    found = np.full((_n_images(split), len(classes)), -1, np.int8)
    for j, class_name in enumerate(classes):
        if class_name in split.classes:
            column = split.classes.index(class_name)
            found[places(split), j] = labels[:, column]
            found[split.failed_index, j] = failed_labels[:, column]
    for other in set(split.classes) - set(classes):
        _log.warning("class '%s' of split '%s' was not trained; left out", other, name)
    return found


def with_failed(
    values: NDArray[np.float64], split: Split, usable: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Put decision values in the places of their images; the others rank last.

    Parameters
    ----------
    values : ndarray of float64, shape (n, n_usable)
        For each image with a row, and each class with an SVM.
    split : Split
    usable : ndarray of bool, shape (n_classes,)
        Which classes have an SVM.

    Returns
    -------
    ndarray of float64, shape (n_images, n_classes)
        -inf for an image without a row, NaN for a class without an SVM.
    """
    scores = np.full((_n_images(split), len(usable)), -np.inf)
    scores[:, ~usable] = np.nan
    scores[np.ix_(places(split), np.flatnonzero(usable))] = values
    return scores


def required_labels(labels: NDArray[np.int8] | None, name: str) -> NDArray[np.int8]:
    """Return labels; raise an EvaluationError if the split has none."""
    if labels is None:
        raise EvaluationError(
            f"expected labels in split '{name}', found none; only labelled splits can "
            "be learnt from and evaluated"
        )
    return labels


def _n_images(split: Split) -> int:
    return len(split) + len(split.failed_id)


def places(split: Split) -> NDArray[np.int64]:
    """Find where the images with a row stand in the list of the split."""
    return np.delete(np.arange(_n_images(split)), split.failed_index)
