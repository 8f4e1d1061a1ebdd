"""Features by name and their kernels: eq. 12 of the paper.

In go two splits of a features file, out come Gram matrices. The blobs are read a few
columns at a time and never lie in memory whole. Each blob is l2-normalised by itself:
activations give the linear kernel x_A . x_B, gradients the trace kernel
Tr(A^T B) = (x_A . x_B) (g_A . g_B) of the rank-1 matrices x g^T.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import sgemm, ssyrk

from fishing.errors import EvaluationError
from fishing.store import Rows, Split

#: The eleven features, in the order of the paper's table 1.
FEATURES = (
    "x5",
    "x6",
    "x7",
    "y8",
    "x8",
    "x5+x6",
    "x6+x7",
    "x7+y8",
    "dW6",
    "dW7",
    "dW8",
)

#: The blobs whose Gram matrices are multiplied for one summand of a feature.
FACTORS = {
    "x5": ("forward/pool5",),
    "x6": ("forward/fc6",),
    "x7": ("forward/fc7",),
    "y8": ("forward/fc8",),
    "x8": ("forward/prob",),
    "dW6": ("forward/pool5", "backward/fc6"),
    "dW7": ("forward/fc6", "backward/fc7"),
    "dW8": ("forward/fc7", "backward/fc8"),
}

_PANEL_VALUES = 2**23
_BLOCK_ROWS = 512
Gram: TypeAlias = NDArray[np.float32]


def parse_feature(name: str) -> list[tuple[str, ...]]:
    """Split the name of a feature into summands, each a product of blobs.

    Raises
    ------
    EvaluationError
        If a part of it is unknown.

    Examples
    --------
    >>> parse_feature("x6+x7")
    [('forward/fc6',), ('forward/fc7',)]
    >>> parse_feature("dW7")
    [('forward/fc6', 'backward/fc7')]
    """
    parts = name.split("+")
    unknown = [part for part in parts if part not in FACTORS]
    if unknown:
        raise EvaluationError(
            f"expected a feature of {' '.join(FACTORS)} or a sum such as x6+x7, "
            f"found '{name}'"
        )
    return [FACTORS[part] for part in parts]


def feature_blobs(name: str) -> set[str]:
    """Name the blobs that a feature is made from."""
    return {blob for factors in parse_feature(name) for blob in factors}


class Kernels:
    """The kernels of two splits, with the Gram matrices that features share.

    Parameters
    ----------
    train, test : Split
        n_train and n_test images.
    """

    def __init__(self, train: Split, test: Split) -> None:
        self._train, self._test = train, test
        self._grams: dict[str, tuple[Gram, Gram]] = {}

    def __call__(self, feature: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute the kernel of one feature.

        A sum is the concatenation of its normalised parts, scaled back to unit norm:
        its kernel is the mean of theirs.

        Parameters
        ----------
        feature : str
            Such as ``x7``, ``x6+x7`` or ``dW7``.

        Returns
        -------
        K_train : ndarray of float64, shape (n_train, n_train)
        K_test : ndarray of float64, shape (n_test, n_train)

        Raises
        ------
        EvaluationError
            If the feature is unknown or a blob holds a value that is not finite.
        """
        summands = parse_feature(feature)
        n_train, n_test = len(self._train), len(self._test)
        K_train, K_test = np.zeros((n_train, n_train)), np.zeros((n_test, n_train))
        for factors in summands:
            for K, which in ((K_train, 0), (K_test, 1)):
                product = np.full_like(K, 1 / len(summands))
                for blob in factors:
                    product *= self._gram(blob)[which]
                K += product
        return K_train, K_test

    def keep(self, blobs: set[str]) -> None:
        """Forget the Gram matrices of all other blobs."""
        self._grams = {k: v for k, v in self._grams.items() if k in blobs}

    def _gram(self, blob: str) -> tuple[Gram, Gram]:
        if blob not in self._grams:
            train, test = self._train.blobs[blob], self._test.blobs[blob]
            scales = (_inverse_norms(train, blob), _inverse_norms(test, blob))
            self._grams[blob] = (
                symmetric_gram(train, scales[0]),
                cross_gram(test, train, scales[1], scales[0]),
            )
        return self._grams[blob]


def symmetric_gram(rows: Rows, scale: NDArray[np.float32]) -> Gram:
    """Inner products of the scaled rows with each other.

    Parameters
    ----------
    rows : array_like of float32, shape (n, d)
        Sliced a few columns at a time.
    scale : ndarray of float32, shape (n,)

    Returns
    -------
    ndarray of float32, shape (n, n)
    """
    n, d = rows.shape
    K = np.zeros((n, n), np.float32, order="F")
    for columns in _panels(n, d):
        panel = _panel(rows, columns, scale)
        K = ssyrk(1.0, panel.T, trans=1, beta=1.0, c=K, lower=1, overwrite_c=1)
    for start in range(0, n, _BLOCK_ROWS):  # syrk leaves the upper triangle alone
        stop = min(start + _BLOCK_ROWS, n)
        block = K[start:stop, start:stop]
        block += np.tril(block, -1).T
        K[start:stop, stop:] = K[stop:, start:stop].T
    return K.T


def cross_gram(
    rows: Rows,
    others: Rows,
    scale: NDArray[np.float32],
    others_scale: NDArray[np.float32],
) -> Gram:
    """Inner products of the scaled rows with the scaled rows of others.

    Parameters
    ----------
    rows, others : array_like of float32, shape (n, d) and (m, d)
        Sliced a few columns at a time.
    scale, others_scale : ndarray of float32, shape (n,) and (m,)

    Returns
    -------
    ndarray of float32, shape (n, m)
    """
    (n, d), m = rows.shape, others.shape[0]
    K = np.zeros((m, n), np.float32, order="F")
    for columns in _panels(max(n, m), d):
        a = _panel(others, columns, others_scale)
        b = _panel(rows, columns, scale)
        K = sgemm(1.0, a.T, b.T, trans_a=1, beta=1.0, c=K, overwrite_c=1)
    return K.T


def _panels(n: int, d: int) -> Iterator[slice]:
    """Cut d columns so that a panel of n rows holds a bounded number of values."""
    width = max(1, _PANEL_VALUES // max(n, 1))
    return (slice(j, min(j + width, d)) for j in range(0, d, width))


def _panel(rows: Rows, columns: slice, scale: NDArray[np.float32]) -> Gram:
    return np.ascontiguousarray(rows[:, columns]) * scale[:, None]


def _inverse_norms(rows: Rows, blob: str) -> NDArray[np.float32]:
    """1 / ||row||_2, and 0 for a row of zeros; shape (n,)."""
    n = rows.shape[0]
    squares = np.empty(n)
    for start in range(0, n, _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS].astype(np.float64)
        squares[start : start + _BLOCK_ROWS] = np.einsum("ij,ij->i", block, block)
    if not np.isfinite(squares).all():
        bad = int(np.flatnonzero(~np.isfinite(squares))[0])
        raise EvaluationError(
            f"expected finite values, found others in {blob}, row {bad}; "
            "extract the features anew, or look at the weights of the net"
        )
    norms = np.sqrt(squares)
    inverse = np.divide(1, norms, out=np.zeros(n), where=norms > 0)
    return inverse.astype(np.float32)
