"""Linear support vector machines for all classes at once, on rows that may lie on disk.

They solve the problem of LIBLINEAR's dual solver (Hsieh et al., ICML 2008), which
scikit-learn's LinearSVC calls for the hinge loss. LIBLINEAR itself takes one class and
one row after the other, and holds 24 bytes a value. Here the alternating direction
method of multipliers (Boyd et al., 2011) needs the rows for products of matrices only,
which all classes share, a block at a time.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError
from fishing.evaluate.svm import check_problem
from fishing.processes import blas_threads
from fishing.progress import Progress, silent
from fishing.store import row_blocks

_GAP = 1e-3  # of the objective: how much of it may be left to gain
_MAX_PASSES = 2000
_PASSES_TO_CHECK = 10
_RELAXATION = 1.6  # Boyd et al., section 3.4.3
_BALANCE = 1.0, 8.0  # of residuals; in between, few passes were needed
_CHANGE = 2.0

_log = logging.getLogger(__name__)

Array = NDArray[np.float64]


def train_linear(
    X: NDArray[np.float32],
    labels: NDArray[np.int8],
    C: float = 1.0,
    progress: Progress = silent,
    *,
    residual: Array | None = None,
) -> tuple[Array, Array]:
    """Train one linear SVM for each class.

    Minimises ``|w|^2 / 2 + b^2 / 2 + C sum_i max(0, 1 - y_i (w . x_i + b))`` for each
    class, up to a thousandth of it. Rows with label 0 play no part in the training of
    that class.

    With a residual, ``sum_i v_i^2 / 2`` is added, and ``sqrt(r_i) v_i`` to the decision
    value of row i: the kernel that the SVMs see is ``X X^T + diag(r)``.

    Parameters
    ----------
    X : ndarray of float32, shape (n, m)
        It may be mapped from a file: it is read from start to end, a block at a time.
    labels : ndarray of int8, shape (n, n_classes)
        1, -1 or 0 (neither).
    C : float
        Weight of the hinge loss; positive.
    progress : Progress
        Counts passes over the rows; how many it takes is not known before.
    residual : ndarray of float64, shape (n,), optional
        What the kernel of each row with itself has beyond its squared norm; not
        negative.

    Returns
    -------
    W : ndarray of float64, shape (m, n_classes)
    b : ndarray of float64, shape (n_classes,)

    Raises
    ------
    EvaluationError
        If C is not positive, if values are not finite, or if a class lacks positives or
        negatives.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.float32([[1, 0], [0, 1]])
    >>> W, b = train_linear(X, np.array([[1], [-1]], np.int8))
    >>> (W.round(1) + 0).tolist(), (b.round(1) + 0).tolist()
    ([[1.0], [-1.0]], [0.0])
    """
    check_problem(labels, C)
    y, weights = np.sign(labels).astype(np.float64), C * np.abs(labels, dtype=float)
    r = np.zeros((len(X), 1)) if residual is None else residual[:, None]
    with blas_threads():
        spectrum, directions = np.linalg.eigh(_second_moments(X))
        # Decision values that are split off from W, and their scaled multipliers.
        split, multipliers = np.zeros(labels.shape), np.zeros(labels.shape)
        pulls = np.zeros((len(spectrum), labels.shape[1]))
        penalty = np.full(labels.shape[1], min(C, 1.0))
        for done in range(1, _MAX_PASSES + 1):
            shrunk = penalty / (1 + penalty * spectrum[:, None])
            W = directions @ (directions.T @ pulls * shrunk)
            values = _values(X, W)
            before = split
            relaxed = _RELAXATION * values + (1 - _RELAXATION) * split + multipliers
            alpha = np.clip((1 - y * relaxed) / (r + 1 / penalty), 0, weights)
            split = relaxed + y * alpha / penalty
            multipliers = relaxed - split
            if done % _PASSES_TO_CHECK == 0:
                progress("linear SVMs", done, None, "passes")
                gains = (alpha - r * alpha**2 / 2).sum(axis=0)
                losses = _losses(1 - y * values, r, weights)
                gap = _gap(W, losses, gains, _sums(X, y * alpha))
                if gap <= _GAP:
                    break
                change = _change(values - split, penalty * (split - before))
                penalty, multipliers = penalty * change, multipliers / change
            pulls = _sums(X, split - multipliers)
        else:
            _log.warning(
                "the linear SVMs have not converged after %d passes: %.2g of the "
                "objective may be left to gain; a smaller C converges faster",
                *(_MAX_PASSES, gap),
            )
    return W[:-1], W[-1]


def _losses(lacking: Array, r: Array, weights: Array) -> Array:
    """Sum the loss of each class, given what margins lack, at the best v_i of all rows.

    Without a residual this is the hinge loss; with one, the corner is rounded off.
    """
    limit = np.where(lacking > 0, weights, 0)
    alpha = np.clip(np.divide(lacking, r, out=limit.copy(), where=r > 0), 0, limit)
    losses: Array = (alpha * lacking - r * alpha**2 / 2).sum(axis=0)
    return losses


def _gap(W: Array, losses: Array, gains: Array, dual_W: Array) -> float:
    """Compute the largest duality gap of a class, as a share of its objective."""
    primal = (W * W).sum(axis=0) / 2 + losses
    dual = gains - (dual_W * dual_W).sum(axis=0) / 2
    return float(((primal - dual) / primal).max())


def _change(primal: Array, dual: Array) -> Array:
    """Say by what to multiply the penalty of each class, so that residuals balance."""
    r, s = np.linalg.norm(primal, axis=0), np.linalg.norm(dual, axis=0)
    change: Array = np.where(r < _BALANCE[0] * s, 1 / _CHANGE, 1.0)
    change[r > _BALANCE[1] * s] = _CHANGE
    return change


def _second_moments(X: NDArray[np.float32]) -> Array:
    """Compute X^T X, with a column of ones for the intercept; shape (m + 1, m + 1)."""
    moments = np.zeros((X.shape[1] + 1, X.shape[1] + 1))
    for block in row_blocks(len(X)):
        rows = X[block]
        moments[:-1, :-1] += rows.T @ rows
        moments[-1, :-1] += rows.sum(axis=0)
    moments[:-1, -1] = moments[-1, :-1]
    moments[-1, -1] = len(X)
    if not np.isfinite(moments).all():
        raise EvaluationError("expected finite vectors, found NaN or infinity")
    return moments


def _values(X: NDArray[np.float32], W: Array) -> Array:
    """Compute decision values; shape (n, n_classes)."""
    values, weights = np.empty((len(X), W.shape[1])), W[:-1].astype(np.float32)
    for block in row_blocks(len(X)):
        values[block] = X[block] @ weights + W[-1]
    return values


def _sums(X: NDArray[np.float32], factors: Array) -> Array:
    """Sum rows, each times its factors, and the factors; shape (m + 1, n_classes)."""
    sums = np.zeros((X.shape[1] + 1, factors.shape[1]))
    for block in row_blocks(len(X)):
        sums[:-1] += X[block].T @ factors[block].astype(np.float32)
    sums[-1] = factors.sum(axis=0)
    return sums
