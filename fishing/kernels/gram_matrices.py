"""Gram matrices of blobs, and the kernels of features that they make: eq. 12.

Each blob is l2-normalised by itself. The kernel of an activation is the linear kernel
x_A . x_B, and that of a gradient is the trace kernel of the rank-1 matrices x g^T,
Tr(A^T B) = (x_A . x_B) (g_A . g_B). A product such as x6*x7 is the outer product of its
factors, so its kernel is the product of theirs. Inner products are computed a panel of
columns at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import sgemm, ssyrk

from fishing.errors import EvaluationError
from fishing.kernels.features import choose_features, feature_blobs, parse_feature
from fishing.kernels.unit_rows import UnitRows
from fishing.processes import blas_threads, in_threads
from fishing.store import Rows, Split, row_blocks

Gram: TypeAlias = NDArray[np.float32]

# 128 MiB a panel: HDF5 is slow at reading a few columns of each row.
_PANEL_VALUES = 2**25
_PANEL_STEP = 512
# So few products with each row take less time than scaling the rows.
_FEW = 256


def gram(
    feature: str,
    A: Split | Mapping[str, Rows],
    B: Split | Mapping[str, Rows] | None = None,
) -> NDArray[np.float64]:
    """Compute the kernel of one feature between two sets of images: eq. 12.

    Parameters
    ----------
    feature : str
        Such as ``x7``, ``x6*x7``, ``x6+x7`` or ``dW7``.
    A, B : Split, or mapping of str to array_like of float32, shape (n, d)
        Blobs by their names, such as ``forward/x7``. By default, B is A.

    Returns
    -------
    ndarray of float64, shape (n_A, n_B)
        1 where two images have the same feature up to scale.

    Raises
    ------
    EvaluationError
        If the feature is unknown; if a blob is missing, has another width in B than in
        A, holds a value that is not finite, or holds only zeros.

    Examples
    --------
    >>> import numpy as np
    >>> A = {"forward/x7": np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)}
    >>> gram("x7", A).round(6)
    array([[1. , 0.8],
           [0.8, 1. ]])
    """
    a = blobs_of_feature(feature, A)
    b = a if B is None else blobs_of_feature(feature, B)
    return feature_kernel(feature, {k: cosines(k, a[k], b[k]) for k in a})[:]


def blobs_of_feature(
    feature: str, images: Split | Mapping[str, Rows]
) -> dict[str, Rows]:
    """Pick the blobs that a feature is made from.

    Raises
    ------
    EvaluationError
        If the feature is unknown, or a blob is missing.
    """
    blobs = images.blobs if isinstance(images, Split) else images
    if not isinstance(blobs, Mapping):
        raise EvaluationError(
            "expected a split of a features file, or blobs by name, found "
            f"{type(images).__name__}; fishing.load('features.h5')['test'] gives one"
        )
    choose_features([feature], blobs)
    return {blob: blobs[blob] for blob in feature_blobs(feature)}


class Kernel:
    """A kernel whose rows are computed when they are sliced.

    It is the mean over summands of the entrywise product of Gram matrices.

    Parameters
    ----------
    summands : sequence of sequences of ndarray of float32, shape (n, m)
        The Gram matrices of each summand.

    Attributes
    ----------
    shape : tuple of int
        (n, m)
    """

    def __init__(self, summands: Sequence[Sequence[Gram]]) -> None:
        self._summands = summands
        self.shape = summands[0][0].shape

    def __getitem__(self, rows: slice) -> NDArray[np.float64]:
        """Compute some rows, in float64."""
        total = np.zeros((len(range(self.shape[0])[rows]), self.shape[1]))
        for factors in self._summands:
            product = factors[0][rows].astype(np.float64)
            for factor in factors[1:]:
                product *= factor[rows]
            total += product
        total /= len(self._summands)
        return total


def feature_kernel(feature: str, grams: Mapping[str, Gram]) -> Kernel:
    """Combine the Gram matrices of blobs into the kernel of a feature.

    A sum is the concatenation of its normalised parts, scaled back to unit norm, so its
    kernel is the mean of theirs.
    """
    return Kernel([[grams[b] for b in factors] for factors in parse_feature(feature)])


class Kernels:
    """The kernels of two splits, with the Gram matrices that features share.

    Parameters
    ----------
    train, test : Split
        n_train and n_test images; they may be the same split.
    """

    def __init__(self, train: Split, test: Split) -> None:
        self._train, self._test = train, test
        self._grams: dict[str, Sequence[Gram]] = {}

    def __call__(self, feature: str) -> tuple[NDArray[np.float64], Kernel]:
        """Compute the kernel of one feature.

        Parameters
        ----------
        feature : str
            Such as ``x7``, ``x6*x7``, ``x6+x7`` or ``dW7``.

        Returns
        -------
        K_train : ndarray of float64, shape (n_train, n_train)
        K_test : Kernel, shape (n_test, n_train)
            To be sliced by rows.

        Raises
        ------
        EvaluationError
            If the feature is unknown, or a blob is missing, holds a value that is not
            finite, or holds only zeros.
        """
        train, test = self.by_rows(feature)
        K_train = np.empty(train.shape)
        for block in row_blocks(len(K_train)):
            K_train[block] = train[block]
        return K_train, test

    def by_rows(self, feature: str) -> tuple[Kernel, Kernel]:
        """Compute both kernels as `__call__` does, but K_train is to be sliced too."""
        choose_features([feature], self._train.blobs)
        grams = {blob: self._gram(blob) for blob in sorted(feature_blobs(feature))}
        train, test = (
            feature_kernel(feature, {blob: pair[which] for blob, pair in grams.items()})
            for which in (0, 1)
        )
        return train, test

    def keep(self, blobs: set[str]) -> None:
        """Forget the Gram matrices of all other blobs."""
        self._grams = {k: v for k, v in self._grams.items() if k in blobs}

    def _gram(self, blob: str) -> Sequence[Gram]:
        if blob not in self._grams:
            train = UnitRows(self._train.blobs[blob], blob).checked()
            if self._test is self._train:
                self._grams[blob] = gram_products(train, train) * 2
            else:
                test = UnitRows(self._test.blobs[blob], blob).checked()
                self._grams[blob] = gram_products(train, train, test)
        return self._grams[blob]


def cosines(blob: str, a: Rows, b: Rows) -> Gram:
    """Compute the cosines between the rows of a and those of b; shape (n_a, n_b)."""
    rows = UnitRows(a, blob).checked()
    columns = rows if b is a else UnitRows(b, blob).checked()
    return gram_products(columns, rows)[0]


def gram_products(rows: UnitRows, *others: UnitRows) -> list[Gram]:
    """Compute the inner products of n rows with others, which may be the same ones.

    Parameters
    ----------
    rows : UnitRows
        They are read once, however many others there are.
    *others : UnitRows

    Returns
    -------
    list of ndarray of float32, shape (n_other, n)

    Raises
    ------
    EvaluationError
        If the rows are not equally wide.
    """
    for other in others:
        if other.width != rows.width:
            raise EvaluationError(
                f"expected rows of one width, found {other.width} and {rows.width} "
                "values; both sides must come from the same net"
            )
    if rows.unscaled is not None and max(map(len, others)) <= _FEW:
        return [_few_products(rows.unscaled, other) * rows.scale for other in others]
    # BLAS wants columns one after the other: these are the transposes.
    K = [np.zeros((len(rows), len(other)), np.float32, order="F") for other in others]
    for columns in _panels(max(map(len, (rows, *others))), rows.width):
        a = rows.panel(columns).T
        for i, other in enumerate(others):
            into = {"beta": 1.0, "c": K[i], "overwrite_c": 1}
            if not K[i].size:
                continue  # BLAS takes no empty matrices
            b = a if other is rows else other.panel(columns).T
            with blas_threads():
                if other is rows:
                    K[i] = ssyrk(1.0, a, trans=1, lower=1, **into)
                else:
                    K[i] = sgemm(1.0, a, b, trans_a=1, **into)
    for product, other in zip(K, others, strict=True):
        if other is rows:
            _mirror(product)
    return [product.T for product in K]


def _few_products(values: Gram, few: UnitRows) -> Gram:
    """Compute the inner products of a few unit rows with n others; shape (few, n)."""
    products = np.zeros((len(few), len(values)), np.float32)
    with blas_threads():
        for columns in _panels(len(values), few.width):
            products += few.panel(columns) @ values[:, columns].T
    return products


def _mirror(K: Gram) -> None:
    """Fill the upper triangle, which ssyrk leaves alone."""

    def mirror(block: slice) -> None:
        corner = K[block, block]
        corner += np.tril(corner, -1).T
        K[block, block.stop :] = K[block.stop :, block].T

    in_threads(mirror, row_blocks(len(K)))


def _panels(n: int, d: int) -> Iterator[slice]:
    """Cut d columns so that a panel of n rows holds a bounded number of values."""
    width = _PANEL_VALUES // max(n, 1) // _PANEL_STEP * _PANEL_STEP or _PANEL_STEP
    return (slice(j, min(j + width, d)) for j in range(0, d, width))
