"""Features by name and their kernels: eq. 12 of the paper.

In go two splits of a features file, out come kernels. Blobs are read a panel of columns
at a time. Each blob is l2-normalised by itself: activations give the linear kernel
x_A . x_B, gradients the trace kernel Tr(A^T B) = (x_A . x_B) (g_A . g_B) of the rank-1
matrices x g^T.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import sgemm, ssyrk

from fishing.errors import EvaluationError
from fishing.kernels.features import feature_blobs, parse_feature
from fishing.processes import in_threads
from fishing.store import Rows, Split

Gram: TypeAlias = NDArray[np.float32]

# 128 MiB a panel: HDF5 is slow at reading a few columns of each row.
_PANEL_VALUES = 2**25
# A chunk of a compressed file has as many rows, and at most as many columns.
_BLOCK_ROWS = 256
_PANEL_STEP = 512

_log = logging.getLogger(__name__)


class Kernel:
    """A kernel of which a row is computed when it is asked for.

    The mean over summands of the products, entry by entry, of Gram matrices.

    Parameters
    ----------
    summands : sequence of sequences of ndarray of float32, shape (n, m)

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
            for gram in factors[1:]:
                product *= gram[rows]
            total += product
        total /= len(self._summands)
        return total


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

    def __call__(self, feature: str) -> tuple[NDArray[np.float64], Kernel]:
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
        K_test : Kernel, shape (n_test, n_train)
            Sliced by rows.

        Raises
        ------
        EvaluationError
            If the feature is unknown, or a blob holds a value that is not finite or
            nothing but zeros.
        """
        summands = parse_feature(feature)
        train, test = (
            Kernel(
                [[self._gram(blob)[which] for blob in factors] for factors in summands]
            )
            for which in (0, 1)
        )
        K_train = np.empty(train.shape)
        for block in row_blocks(len(K_train)):
            K_train[block] = train[block]
        return K_train, test

    def keep(self, blobs: set[str]) -> None:
        """Forget the Gram matrices of all other blobs."""
        self._grams = {k: v for k, v in self._grams.items() if k in blobs}

    def _gram(self, blob: str) -> tuple[Gram, Gram]:
        if blob not in self._grams:
            train, test = self._train.blobs[blob], self._test.blobs[blob]
            self._grams[blob] = gram_matrices(
                train, test, inverse_norms(train, blob), inverse_norms(test, blob)
            )
        return self._grams[blob]


def gram_matrices(
    train: Rows,
    test: Rows,
    train_scale: NDArray[np.float64],
    test_scale: NDArray[np.float64],
) -> tuple[Gram, Gram]:
    """Inner products of scaled rows, among those of train and of test with train.

    Parameters
    ----------
    train, test : array_like of float32, shape (n, d) and (m, d)
        Sliced a panel of columns at a time.
    train_scale, test_scale : ndarray of float64, shape (n,) and (m,)

    Returns
    -------
    ndarray of float32, shape (n, n)
    ndarray of float32, shape (m, n)
    """
    (n, d), m = train.shape, test.shape[0]
    # BLAS wants columns one after the other: these are the transposes.
    K_train = np.zeros((n, n), np.float32, order="F")
    K_test = np.zeros((n, m), np.float32, order="F")
    for columns in panels(max(n, m), d):
        a = scaled_panel(train, columns, train_scale)
        b = scaled_panel(test, columns, test_scale)
        K_train = ssyrk(1.0, a.T, trans=1, beta=1.0, c=K_train, lower=1, overwrite_c=1)
        K_test = sgemm(1.0, a.T, b.T, trans_a=1, beta=1.0, c=K_test, overwrite_c=1)

    def mirror(block: slice) -> None:  # syrk leaves the upper triangle alone
        corner = K_train[block, block]
        corner += np.tril(corner, -1).T
        K_train[block, block.stop :] = K_train[block.stop :, block].T

    _for_blocks(mirror, n)
    return K_train.T, K_test.T


def row_blocks(n: int) -> Iterator[slice]:
    """Cut n rows into blocks that are small beside a kernel."""
    return (slice(i, min(i + _BLOCK_ROWS, n)) for i in range(0, n, _BLOCK_ROWS))


def _for_blocks(work: Callable[[slice], None], n: int) -> None:
    """Do the work of all blocks of n rows; numpy leaves the cores to threads."""
    in_threads(work, row_blocks(n))


def panels(n: int, d: int) -> Iterator[slice]:
    """Cut d columns so that a panel of n rows holds a bounded number of values."""
    width = _PANEL_VALUES // max(n, 1) // _PANEL_STEP * _PANEL_STEP or _PANEL_STEP
    return (slice(j, min(j + width, d)) for j in range(0, d, width))


def scaled_panel(rows: Rows, columns: slice, scale: NDArray[np.float64]) -> Gram:
    """Scale some columns; shape (n, columns)."""
    panel = np.empty((len(scale), columns.stop - columns.start), np.float32)

    def fill(block: slice) -> None:
        values, factor = rows[block, columns], scale[block, None]
        # In float64: the inverse of a small norm may be too large for float32.
        np.multiply(values, factor, out=panel[block], casting="same_kind")

    _for_blocks(fill, len(scale))
    return panel


def inverse_norms(rows: Rows, blob: str) -> NDArray[np.float64]:
    """1 / ||row||_2, and 0 for a row of zeros; shape (n,)."""
    n = rows.shape[0]
    squares = np.empty(n)

    def add_up(block: slice) -> None:
        values = rows[block]
        # In float64 no square of a float32 overflows or vanishes.
        squares[block] = np.einsum("ij,ij->i", values, values, dtype=np.float64)

    _for_blocks(add_up, n)
    if not np.isfinite(squares).all():
        bad = int(np.flatnonzero(~np.isfinite(squares))[0])
        raise EvaluationError(
            f"expected finite values, found others in {blob}, row {bad}; "
            "extract the features anew, or look at the weights of the net"
        )
    n_zero = int((squares == 0).sum())
    if n_zero == n > 0:
        raise EvaluationError(
            f"expected values, found nothing but zeros in {blob}: the net is dead "
            "there; look at its weights, or leave out the features made of it"
        )
    if n_zero:
        _log.warning(
            "%d of %d rows of %s are all zeros, as unlike any image as can be",
            n_zero,
            n,
            blob,
        )
    norms = np.sqrt(squares)
    return np.divide(1, norms, out=np.zeros(n), where=norms > 0)


#: Rows of a feature, factor by factor, summand by summand.
Factors: TypeAlias = Sequence[Sequence[Rows]]


def gram(
    feature: str,
    A: Split | Mapping[str, Rows],
    B: Split | Mapping[str, Rows] | None = None,
) -> NDArray[np.float64]:
    """Compute the kernel of one feature between two sets of images: eq. 12.

    Parameters
    ----------
    feature : str
        Such as ``x7``, ``x6+x7`` or ``dW7``.
    A, B : Split, or mapping of str to array_like of float32, shape (n, d)
        Blobs by the names of `fishing.backends.BLOBS`; B is A where it is left out.

    Returns
    -------
    ndarray of float64, shape (n_A, n_B)
        1 where two images have the same feature up to scale.

    Raises
    ------
    EvaluationError
        If the feature is unknown, a blob is missing or of two widths, or holds a value
        that is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> A = {"forward/x7": np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)}
    >>> gram("x7", A).round(6)
    array([[1. , 0.8],
           [0.8, 1. ]])
    """
    a = feature_factors(feature, A)
    return kernel_between(a, a if B is None else feature_factors(feature, B))[:]


def feature_factors(feature: str, images: Split | Mapping[str, Rows]) -> Factors:
    """Pick the blobs that a feature is made from, in their places in it."""
    blobs = images.blobs if isinstance(images, Split) else images
    if not isinstance(blobs, Mapping):
        raise EvaluationError(
            "expected a split of a features file, or blobs by name, found "
            f"{type(images).__name__}; fishing.load('features.h5')['test'] gives one"
        )
    for blob in sorted(feature_blobs(feature)):
        if blob not in blobs:
            raise EvaluationError(
                f"expected {blob}, which {feature} is made from, found "
                f"{' '.join(blobs) or 'nothing'}"
            )
    return [[blobs[blob] for blob in factors] for factors in parse_feature(feature)]


def kernel_between(a: Factors, b: Factors) -> Kernel:
    """Pair the factors of two sets of images; shape (n_a, n_b), sliced by rows."""
    return Kernel(
        [
            [_cosines(*pair) for pair in zip(*summands, strict=True)]
            for summands in zip(a, b, strict=True)
        ]
    )


def _cosines(a: Rows, b: Rows) -> Gram:
    """Inner products of the normalised rows of a and b; shape (n_a, n_b)."""
    (n, d), (m, d_b) = a.shape, b.shape
    if d != d_b:
        raise EvaluationError(
            f"expected rows of one width, found {d} and {d_b} values; both sides must "
            "come from the same net"
        )
    scale_a, scale_b = inverse_norms(a, "A"), inverse_norms(b, "B")
    K = np.zeros((n, m), np.float32)
    for columns in panels(max(n, m), d):
        K += scaled_panel(a, columns, scale_a) @ scaled_panel(b, columns, scale_b).T
    return K
