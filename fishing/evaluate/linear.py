"""Linear support vector machines for all classes at once, in one pass over rows a time.

They solve the problem of LIBLINEAR's dual solver (Hsieh et al., ICML 2008), which
scikit-learn's LinearSVC calls for the hinge loss. LIBLINEAR itself would copy the rows
for each class and hold 16 bytes a value; here the classes share the rows, which are
read a block at a time (Yu et al., KDD 2010) and may lie on disk.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError
from fishing.evaluate.svm import check_problem
from fishing.progress import Progress, silent
from fishing.store import row_blocks

_TOLERANCE = 0.05  # of the gradient of the dual; LIBLINEAR takes 0.1
_MAX_PASSES = 300

_log = logging.getLogger(__name__)


def train_linear(
    X: NDArray[np.float32],
    labels: NDArray[np.int8],
    C: float = 1.0,
    progress: Progress = silent,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Train one linear SVM for each class, by coordinate descent in the dual.

    Minimises ``|w|^2 / 2 + b^2 / 2 + C sum_i max(0, 1 - y_i (w . x_i + b))`` for each
    class. Rows with label 0 play no part in the training of that class.

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
    >>> W.round(3).tolist(), b.round(3).tolist()
    ([[1.0], [-1.0]], [0.0])
    """
    check_problem(labels, C)
    (n, m), n_classes = X.shape, labels.shape[1]
    blocks = list(row_blocks(n))
    own = [_products(X[block]) for block in blocks]  # each row with those of its block
    signs, most = np.sign(labels).astype(np.float64), C * np.abs(labels)
    alpha, W = np.zeros((n, n_classes)), np.zeros((m + 1, n_classes))
    rng = np.random.default_rng(0)
    for done in range(1, _MAX_PASSES + 1):
        violations = []
        for i in rng.permutation(len(blocks)):
            block = blocks[i]
            rows = X[block]
            change, violation = _improve(
                alpha[block],
                rows @ W[:-1].astype(np.float32) + W[-1],
                *(own[i], signs[block], most[block], rng),
            )
            W[:-1] += rows.T @ change.astype(np.float32)
            W[-1] += change.sum(axis=0)
            violations.append(violation)
        progress("linear SVMs", done, None, "passes")
        if max(violations) < _TOLERANCE:
            return W[:-1], W[-1]
    _log.warning(
        "the linear SVMs have not converged after %d passes: the largest violation is "
        "%.2g; a smaller C converges faster",
        *(_MAX_PASSES, max(violations)),
    )
    return W[:-1], W[-1]


def _products(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply rows with each other, with the 1 that stands for the intercept."""
    products: NDArray[np.float32] = rows @ rows.T + np.float32(1)
    if not np.isfinite(products).all():
        raise EvaluationError("expected finite vectors, found NaN or infinity")
    return products


def _improve(
    alpha: NDArray[np.float64],
    values: NDArray[np.float64],
    products: NDArray[np.float32],
    signs: NDArray[np.float64],
    most: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], float]:
    """Improve the dual variables of a block in place, one row after the other.

    `values` are the rows' decision values, which are kept up to date. Returns the
    change of y alpha, and by how much the largest gradient was not optimal.
    """
    before, violation = signs * alpha, 0.0
    for i in rng.permutation(len(alpha)):
        gradient = signs[i] * values[i] - 1
        found = np.clip(alpha[i] - gradient / products[i, i], 0, most[i])
        step = found - alpha[i]
        if step.any():
            # A gradient that leads out of the box is no violation: it moves nothing.
            moved = np.abs(gradient[step != 0]).max()
            violation = max(violation, float(moved))
            alpha[i] = found
            values += np.outer(products[:, i], signs[i] * step)
    return signs * alpha - before, violation
