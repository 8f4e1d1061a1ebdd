"""The rows of a blob, each scaled to unit norm when it is read."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError
from fishing.processes import in_threads
from fishing.store import Rows, row_blocks

_log = logging.getLogger(__name__)


class UnitRows:
    """The rows of a blob, each scaled to unit norm; rows of zeros stay zeros.

    Parameters
    ----------
    rows : array_like of float32, shape (n, d)
        They are read by blocks of rows here, and by panels of columns later.
    blob : str
        The name of the blob, for messages.

    Attributes
    ----------
    norms : ndarray of float64, shape (n,)
        The l2-norms of the rows, as they were.
    scale : ndarray of float32 or float64, shape (n,)
        1 / norms, or 0.
    unscaled : ndarray of float32, shape (n, d), or None
        The rows as they are, if they lie in memory and have no extreme norms.

    Raises
    ------
    EvaluationError
        If a value is not finite.
    """

    def __init__(self, rows: Rows, blob: str) -> None:
        n, self.width = rows.shape
        self._rows, self._blob = rows, blob
        squares = np.empty(n)

        def add_up(block: slice) -> None:
            squares[block] = _squared_norms(rows[block])

        in_threads(add_up, row_blocks(n))
        if not np.isfinite(squares).all():
            bad = int(np.flatnonzero(~np.isfinite(squares))[0])
            raise EvaluationError(
                f"expected finite values, found NaN or infinity in {blob}, row {bad}; "
                "extract the features anew, or look at the weights of the net"
            )
        self.norms = np.sqrt(squares)
        scale = np.divide(1, self.norms, out=np.zeros(n), where=self.norms > 0)
        # Twice as fast as float64, which inverses of extreme norms need.
        is_plain = bool((((scale > 1e-30) & (scale < 1e30)) | (scale == 0)).all())
        self.scale = scale.astype(np.float32) if is_plain else scale
        self.unscaled = rows if is_plain and isinstance(rows, np.ndarray) else None

    def __len__(self) -> int:
        return len(self.norms)

    def checked(self) -> UnitRows:
        """Warn of rows of zeros; raise an EvaluationError if there are no others."""
        n, n_zero = len(self), int((self.norms == 0).sum())
        if n_zero == n > 0:
            raise EvaluationError(
                f"expected values, found nothing but zeros in {self._blob}, where the "
                "net is dead; look at its weights, or leave out the features made of it"
            )
        if n_zero:
            _log.warning(
                "%d of %d rows of %s are all zeros; their similarity to any image is 0",
                *(n_zero, n, self._blob),
            )
        return self

    def panel(self, columns: slice) -> NDArray[np.float32]:
        """Read and scale some columns; shape (n, columns)."""
        panel = np.empty((len(self), columns.stop - columns.start), np.float32)

        def fill(block: slice) -> None:
            values, scale = self._rows[block, columns], self.scale[block, None]
            np.multiply(values, scale, out=panel[block], casting="same_kind")

        in_threads(fill, row_blocks(len(self)))
        return panel


def _squared_norms(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Add up the squares of each row; shape (n,)."""
    total: NDArray[np.float64] = np.zeros(len(values))
    for j in range(0, values.shape[1], 256):  # so many are exact enough in float32
        part = values[:, j : j + 256]
        total += np.einsum("ij,ij->i", part, part)
    if values.shape[1] >= 256 and ((total > 1e-20) & (total < 1e30)).all():
        return total
    # In float64 no square of a float32 overflows or vanishes.
    total = np.einsum("ij,ij->i", values, values, dtype=np.float64)
    return total
