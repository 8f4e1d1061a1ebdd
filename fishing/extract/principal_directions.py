"""The first principal directions of blobs, by a few passes over a sample of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fishing.errors import StoreError
from fishing.store import Split, row_blocks

MAX_SAMPLE = 10_000  # rows
# More directions are followed than are wanted, and in so many passes that what the
# wanted ones miss is far below what a value of 8 bits rounds away.
_SPARE, _PASSES = 32, 8


class RowSample:
    """At most `MAX_SAMPLE` rows of some splits, at equal distances from each other.

    Parameters
    ----------
    splits : sequence of Split
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        n = sum(map(len, splits))
        chosen = np.unique(np.linspace(0, n - 1, min(n, MAX_SAMPLE)).astype(int))
        self._n, self._parts, first = len(chosen), [], 0
        for split in splits:
            inside = (chosen >= first) & (chosen < first + len(split))
            self._parts.append((split, chosen[inside] - first))
            first += len(split)

    def __len__(self) -> int:
        return self._n

    def width(self, blob: str) -> int:
        """Count the values of each row of a blob."""
        return self._parts[0][0].blobs[blob].shape[1]

    def unit_rows(self, blob: str) -> Iterator[NDArray[np.float32]]:
        """Read the rows of a blob, some at a time, each scaled to unit norm.

        Raises
        ------
        StoreError
            If a value is not finite.
        """
        for split, rows in self._parts:
            for block in row_blocks(len(rows)):
                values = split.blobs[blob][rows[block]]
                if not np.isfinite(values).all():
                    raise StoreError(
                        f"expected finite {blob}, found NaN or infinity; extract anew"
                    )
                yield unit(values)


def principal_directions(sample: RowSample, blob: str, k: int) -> NDArray[np.float32]:
    """Find the directions along which normalised rows have the largest second moments.

    They are the first eigenvectors of the uncentred second moments M = sum of x x^T,
    found by subspace iteration: directions Y are replaced by an orthonormal basis of
    M Y, which is summed over blocks of rows, so that M itself (d by d) is never held
    (Halko, Martinsson and Tropp, SIAM Review 2011, algorithm 4.4).

    Parameters
    ----------
    sample : RowSample
    blob : str
    k : int
        How many; d at most.

    Returns
    -------
    ndarray of float32, shape (d, min(k, d))
        Orthonormal columns, that of the largest moment first. The largest entry of each
        is positive.

    Raises
    ------
    StoreError
        If a value is not finite.
    """
    d = sample.width(blob)
    shape = (d, min(d, k + _SPARE))
    Y = np.linalg.qr(np.random.default_rng(0).standard_normal(shape))[0]
    for _ in range(_PASSES if shape[1] < d else 1):
        Z = np.zeros(shape)
        for rows in sample.unit_rows(blob):
            Z += rows.T @ (rows @ Y.astype(np.float32))
        turn = np.linalg.eigh(Y.T @ Z)[1]
        directions = Y @ turn[:, ::-1][:, :k]
        Y = np.linalg.qr(Z)[0]
    signs = np.sign(
        directions[np.abs(directions).argmax(axis=0), range(directions.shape[1])]
    )
    bases: NDArray[np.float32] = (directions * signs).astype(np.float32)
    return bases


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row to unit norm; rows of zeros stay zeros."""
    # In float64 no square of a float32 overflows or vanishes.
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))[:, None]
    scaled: NDArray[np.float32] = np.zeros(rows.shape, np.float32)
    np.divide(rows, norms, out=scaled, where=norms > 0, casting="same_kind")
    return scaled
