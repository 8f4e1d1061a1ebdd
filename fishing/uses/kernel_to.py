"""The kernel of a feature between any images and those of one split."""

from __future__ import annotations

from collections.abc import Mapping

from fishing.kernels import (
    Kernel,
    UnitRows,
    blobs_of_feature,
    feature_kernel,
    gram_products,
)
from fishing.store import Rows, Split

_MOST_VALUES = 2**25  # of a Gram matrix, 128 MiB


class KernelTo:
    """The kernel of a feature between any images and the n images of a split.

    Each call reads the blobs of the split once, so it pays to call it with many images.

    Parameters
    ----------
    feature : str
        Such as ``x7``, ``x6*x7``, ``x6+x7`` or ``dW7``.
    images : Split

    Attributes
    ----------
    blobs : list of str
        What the feature is made from.
    n_at_once : int
        How many images to give at once, so that memory is bounded.

    Raises
    ------
    EvaluationError
        If the feature is unknown, or a blob is missing, holds a value that is not
        finite, or holds only zeros.
    """

    def __init__(self, feature: str, images: Split) -> None:
        self._feature = feature
        blobs = blobs_of_feature(feature, images)
        self._rows = {k: UnitRows(rows, k).checked() for k, rows in blobs.items()}
        self.blobs = sorted(self._rows)
        self.n_at_once = max(1, min(1024, _MOST_VALUES // max(len(images), 1)))

    def __call__(self, blobs: Mapping[str, Rows]) -> Kernel:
        """Compute the kernel of m images; shape (m, n), to be sliced by rows."""
        ours = blobs_of_feature(self._feature, blobs)
        grams = {
            k: gram_products(rows, UnitRows(ours[k], k))[0]
            for k, rows in self._rows.items()
        }
        return feature_kernel(self._feature, grams)
