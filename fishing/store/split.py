"""One split of a features file: images, labels and blobs, each row beside its id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fishing.store.rows import Rows


@dataclass(frozen=True)
class Split:
    """One split of a features file.

    Attributes
    ----------
    image_id : tuple of str, length n
        In the order of the split file.
    labels : ndarray of int8, shape (n, n_classes), or None
        1 positive, -1 negative, 0 difficult.
    classes : tuple of str
    blobs : mapping of str to array_like of float32, shape (n, d)
        By names such as ``forward/x7`` and ``backward/y8``, which docs/format.md lists;
        read from the file when they are sliced.
    failed_id, failed_reason : tuple of str
        Images without a row.
    failed_index : ndarray of int64
        Their places in the split file, counted from 0.
    failed_labels : ndarray of int8, shape (n_failed, n_classes), or None
    devkit, list_sha256 : str
    """

    image_id: tuple[str, ...]
    labels: NDArray[np.int8] | None
    classes: tuple[str, ...]
    blobs: Mapping[str, Rows]
    failed_id: tuple[str, ...]
    failed_reason: tuple[str, ...]
    failed_index: NDArray[np.int64]
    failed_labels: NDArray[np.int8] | None
    devkit: str
    list_sha256: str

    def __len__(self) -> int:
        return len(self.image_id)

    def __repr__(self) -> str:
        n_classes, n_failed = len(self.classes), len(self.failed_id)
        return f"<Split: {len(self)} images, {n_failed} failed, {n_classes} classes>"
