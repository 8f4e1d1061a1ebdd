"""Which images of a pool to label next.

Images are points of a space whose inner product is a kernel, so their distances follow
from inner products of blobs: no gradient is ever written out. Blobs are kept in memory
as far as a gibibyte allows, and read once for each choice beyond that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from fishing.errors import EvaluationError
from fishing.extract import check_not_projected
from fishing.kernels import (
    UnitRows,
    blobs_of_feature,
    choose_features,
    main_feature,
    parse_feature,
)
from fishing.nets.blobs import forward_blob
from fishing.processes import blas_threads
from fishing.progress import Progress, silent
from fishing.store import FeaturesFile, Rows, Split, row_blocks

METHODS = ("badge", "kcenter", "random")
_X7, _Y8 = forward_blob("x7"), forward_blob("y8")
_MEMORY = 2**30  # bytes of blobs that are kept


def select(
    path: Path,
    split: str,
    k: int,
    *,
    labelled: str | None = None,
    method: str = "badge",
    feature: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[str]:
    r"""Choose the images of a pool that are most worth a label.

    ``badge`` (Ash et al., Deep batch active learning by diverse, uncertain gradient
    lower bounds, ICLR 2020) takes the gradient of the last inner product's weights for
    the class that the net predicts, :math:`g = (p - e_{\hat y}) \otimes x_7` with
    :math:`p = \mathrm{softmax}(y_8)`, and chooses by k-means++: first the image of the
    largest gradient, then each with a probability proportional to the squared distance
    to the nearest image that is chosen or labelled already,
    :math:`|g_A - g_B|^2 = k(A, A) + k(B, B) - 2 k(A, B)`, where :math:`k(A, B) =
    (x_A \cdot x_B)((p - e)_A \cdot (p - e)_B)`.

    ``kcenter`` (Sener and Savarese, Active learning for convolutional neural networks:
    a core-set approach, ICLR 2018) chooses the image that is farthest from all that are
    chosen or labelled, under the kernel of a feature. The first one is drawn at random
    if no image is labelled. ``random`` is the baseline of both.

    Parameters
    ----------
    path : Path
        A features file.
    split : str
        The pool.
    k : int
        How many images to choose.
    labelled : str, optional
        The split of the images that have labels already. What is in both is not chosen.
    method : str
        ``badge``, ``kcenter`` or ``random``.
    feature : str, optional
        The feature of ``kcenter``. The default is the file's deepest gradient but one,
        dW7 if the net has three inner products.
    seed : int
        Equal seeds give equal choices.
    progress : Progress
        Counts choices.

    Returns
    -------
    list of str
        Ids in the order in which they were chosen.

    Raises
    ------
    StoreError
        If the file is missing or lacks a split.
    EvaluationError
        If the method is unknown, needs blobs that are not there, or meets values that
        are not finite; or if the pool has fewer than k images.

    Examples
    --------
    >>> select(Path("features.h5"), "pool", 2)  # doctest: +SKIP
    ['000163', '000012']
    """
    if method not in METHODS:
        raise EvaluationError(
            f"expected a method of {' '.join(METHODS)}, found '{method}'"
        )
    with FeaturesFile(path) as file:
        pool, known = file.split(split), file.split(labelled) if labelled else None
        ids = set() if known is None else set(known.image_id)
        free = np.array([image_id not in ids for image_id in pool.image_id])
        if not 1 <= k <= free.sum():
            raise EvaluationError(
                f"expected k from 1 to {free.sum()}, the images of '{split}' without a "
                f"label, found {k}; choose another -k"
            )
        rng = np.random.default_rng(seed)
        if method == "random":
            chosen = rng.choice(np.flatnonzero(free), k, replace=False)
            return [pool.image_id[i] for i in chosen]
        if method == "badge":
            check_not_projected(file)
            points = _badge_points(pool)
            centres = _badge_points(known) if known else None
            draw = partial(_draw, rng)
            choices = _spread(points, centres, points.squares, free, draw)
        else:
            blobs = pool.blobs
            (feature,) = choose_features([feature or main_feature(blobs)], blobs)
            points = _unit_points(pool, feature)
            centres = _unit_points(known, feature) if known else None
            at_first = rng.random(len(pool))
            choices = _spread(points, centres, at_first, free, _farthest)
        points.keep(_MEMORY)
        order: list[str] = []
        for i in islice(choices, k):
            order.append(pool.image_id[i])
            progress(split, len(order), k, "images")
        return order


def _spread(
    points: _Points,
    centres: _Points | None,
    at_first: NDArray[np.float64],
    free: NDArray[np.bool_],
    choose: Callable[[NDArray[np.float64], NDArray[np.bool_]], int],
) -> Iterator[int]:
    """Choose free points by their squared distances to the nearest one chosen before.

    Centres count as chosen. Without any, the first point has the largest of `at_first`.
    """
    free, squares = free.copy(), np.full(len(points), np.inf)
    if centres is not None:
        for block in row_blocks(len(centres)):
            np.minimum(squares, points.squared_distances(centres, block), out=squares)
    i = _farthest(at_first, free) if centres is None else choose(squares, free)
    while True:
        free[i] = False
        yield i
        newest = points.squared_distances(points, slice(i, i + 1))
        np.minimum(squares, newest, out=squares)
        i = choose(squares, free)


def _draw(
    rng: np.random.Generator, squares: NDArray[np.float64], free: NDArray[np.bool_]
) -> int:
    """Draw an image with a probability proportional to its squared distance."""
    weights = np.where(free, squares, 0)
    if not weights.any():  # only copies of what is chosen are left
        weights = free.astype(np.float64)
    sums = np.cumsum(weights)
    place = np.searchsorted(sums, rng.random() * sums[-1], side="right")
    return int(min(place, np.flatnonzero(weights)[-1]))


def _farthest(squares: NDArray[np.float64], free: NDArray[np.bool_]) -> int:
    return int(np.argmax(np.where(free, squares, -1)))


class _Derived:
    """Rows that are computed from those of a blob when they are sliced, as `Rows`."""

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(
        self, rows: Rows, compute: Callable[[slice], NDArray[np.float32]]
    ) -> None:
        self.shape, self._compute = rows.shape, compute

    def __getitem__(self, key: slice) -> NDArray[np.float32]:
        return self._compute(key)


class _Points:
    """Images as points of a space whose inner product is a kernel.

    It is the mean over summands of the products of the inner products of their factors.

    Parameters
    ----------
    summands : sequence of sequences of Rows
        The rows of each factor, n of them.

    Attributes
    ----------
    squares : ndarray of float64, shape (n,)
        The squared norms of the points.
    """

    def __init__(self, summands: Sequence[Sequence[Rows]]) -> None:
        self._summands = [list(factors) for factors in summands]
        self.squares = np.empty(summands[0][0].shape[0])
        for block in row_blocks(len(self)):
            norms = [
                [np.einsum("ij,ij->i", a, a, dtype=np.float64) for a in factors]
                for factors in self._read(block)
            ]
            self.squares[block] = _kernel(norms)
        if not np.isfinite(self.squares).all():
            raise EvaluationError(
                "expected finite values, found NaN or infinity in the features; "
                "extract them anew, or look at the weights of the net"
            )

    def __len__(self) -> int:
        return len(self.squares)

    def keep(self, n_bytes: int) -> None:
        """Keep the rows of as many factors in memory as fit into so many bytes."""
        for factors in self._summands:
            for i, rows in enumerate(factors):
                n_bytes -= 4 * rows.shape[0] * rows.shape[1]
                if n_bytes >= 0:
                    kept = np.empty(rows.shape, np.float32)
                    for block in row_blocks(len(self)):
                        kept[block] = rows[block]
                    factors[i] = kept

    def squared_distances(self, centres: _Points, which: slice) -> NDArray[np.float64]:
        """Compute the distances of all points to the nearest of some centres; (n,)."""
        theirs = centres._read(which)
        squares = np.empty(len(self))
        with blas_threads():
            for block in row_blocks(len(self)):
                products = [
                    [a @ b.T for a, b in zip(ours, others, strict=True)]
                    for ours, others in zip(self._read(block), theirs, strict=True)
                ]
                distances = centres.squares[which] - 2 * _kernel(products)
                squares[block] = self.squares[block] + distances.min(axis=1)
        return np.maximum(squares, 0)

    def _read(self, rows: slice) -> list[list[NDArray[np.float32]]]:
        return [[factor[rows] for factor in factors] for factors in self._summands]


def _kernel(products: Sequence[Sequence[NDArray[Any]]]) -> NDArray[np.float64]:
    """Combine the inner products of factors, of one shape, into a kernel."""
    total: NDArray[np.float64] = np.zeros(products[0][0].shape)
    for factors in products:
        product = factors[0].astype(np.float64)
        for factor in factors[1:]:
            product *= factor
        total += product
    return total / len(products)


def _badge_points(images: Split) -> _Points:
    """Make points of the gradients for the predicted class."""
    missing = [blob for blob in (_X7, _Y8) if blob not in images.blobs]
    if missing:
        raise EvaluationError(
            f"expected {missing[0]}, which badge needs, found "
            f"{' '.join(images.blobs)}; choose another --method, or extract anew"
        )
    logits = images.blobs[_Y8]

    def gradient(rows: slice) -> NDArray[np.float32]:
        y = logits[rows]
        g: NDArray[np.float32] = softmax(y, axis=1)
        g[np.arange(len(y)), y.argmax(axis=1)] -= 1
        return g

    return _Points([[images.blobs[_X7], _Derived(logits, gradient)]])


def _unit_points(images: Split, feature: str) -> _Points:
    """Make points of a feature of unit norm."""
    factors = {}
    for name, rows in blobs_of_feature(feature, images).items():
        norms = UnitRows(rows, name).checked().norms
        factors[name] = _scaled(rows, np.where(norms > 0, norms, 1))
    return _Points([[factors[b] for b in blobs] for blobs in parse_feature(feature)])


def _scaled(rows: Rows, norms: NDArray[np.float64]) -> _Derived:
    def unit(key: slice) -> NDArray[np.float32]:
        return (rows[key] / norms[key, None]).astype(np.float32)

    return _Derived(rows, unit)
