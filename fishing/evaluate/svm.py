"""Support vector machines on a precomputed kernel, one class against the rest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.svm import SVC

from fishing.errors import EvaluationError
from fishing.kernels import Kernel
from fishing.processes import blas_threads, in_threads
from fishing.store import row_blocks

_MAX_C = 1e12  # beyond it LIBSVM may not end


def decision_function(
    K_train: NDArray[np.float64],
    K_test: NDArray[np.float64] | Kernel,
    labels: NDArray[np.int8],
    C: float = 1.0,
) -> NDArray[np.float64]:
    """Train one SVM for each class, and apply it.

    Parameters
    ----------
    K_train : ndarray of float64, shape (n_train, n_train)
    K_test : ndarray of float64 or Kernel, shape (n_test, n_train)
        It is sliced a few rows at a time.
    labels : ndarray of int8, shape (n_train, n_classes)
        1, -1 or 0 (neither).
    C : float
        Weight of the hinge loss; positive.

    Returns
    -------
    ndarray of float64, shape (n_test, n_classes)

    Raises
    ------
    EvaluationError
        As `train_svms`, or if a kernel or a decision value is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> decision_function(X @ X.T, X @ X.T, np.array([[1], [-1]])).round(3)
    array([[ 1.],
           [-1.]])
    """
    return train_svms(K_train, labels, C)(K_test)


def train_svms(
    K_train: NDArray[np.float64], labels: NDArray[np.int8], C: float = 1.0
) -> SVMs:
    """Train one SVM for each class.

    Each class is a binary problem for `sklearn.svm.SVC`. Images with label 0 play no
    part in the training of that class. Parameters are those of `decision_function`.

    Raises
    ------
    EvaluationError
        If C is not positive, if the kernel is not finite, or if a class lacks positives
        or negatives.
    """
    check_problem(labels, C)
    _check_finite(K_train)
    K_train = np.ascontiguousarray(K_train, dtype=np.float64)
    n_train, n_classes = labels.shape
    coefficients, intercepts = np.zeros((n_train, n_classes)), np.zeros(n_classes)
    numbers_all = _numbers_all_samples()

    def fit(column: int) -> None:
        y = labels[:, column]
        svm = SVC(kernel="precomputed", C=C)
        # Given weights, LIBSVM reads the one kernel in place. Otherwise each class
        # would need a copy of the part without label 0.
        with sklearn.config_context(assume_finite=True):  # checked once, above
            svm.fit(K_train, np.where(y > 0, 1, -1), sample_weight=np.abs(y))
        support = svm.support_ if numbers_all else np.flatnonzero(y)[svm.support_]
        coefficients[support, column] = svm.dual_coef_[0]
        intercepts[column] = svm.intercept_[0]

    # LIBSVM releases Python's lock, so threads are enough, and they share the kernel.
    in_threads(fit, range(n_classes))
    return SVMs(coefficients, intercepts, C)


@dataclass(frozen=True)
class SVMs:
    """SVMs of several classes, trained on one kernel.

    Attributes
    ----------
    coefficients : ndarray of float64, shape (n_train, n_classes)
        0 for images that are no support vectors.
    intercepts : ndarray of float64, shape (n_classes,)
    C : float
    """

    coefficients: NDArray[np.float64]
    intercepts: NDArray[np.float64]
    C: float

    def __call__(self, K_test: NDArray[np.float64] | Kernel) -> NDArray[np.float64]:
        """Compute decision values; parameters and errors as `decision_function`."""
        values = np.empty((K_test.shape[0], len(self.intercepts)))
        for block in row_blocks(len(values)):
            K = K_test[block]
            _check_finite(K)
            with blas_threads():
                values[block] = K @ self.coefficients + self.intercepts
        if not np.isfinite(values).all():
            raise EvaluationError(
                f"expected finite decision values, found NaN or infinity with C = "
                f"{self.C:g}; choose another C"
            )
        return values


def check_problem(labels: NDArray[np.int8], C: float) -> None:
    """Raise an EvaluationError if no SVM can be trained: see `decision_function`."""
    if not 0 < C <= _MAX_C:
        raise EvaluationError(f"expected a positive C of {_MAX_C:g} at most, found {C}")
    for column, y in enumerate(labels.T):
        if not ((y > 0).any() and (y < 0).any()):
            raise EvaluationError(
                f"expected positives and negatives for each class, found "
                f"{int((y > 0).sum())} and {int((y < 0).sum())} for class {column}"
            )


def _check_finite(K: NDArray[np.float64]) -> None:
    """Raise an EvaluationError if there is a NaN or an infinity."""
    # Unlike np.isfinite(K), these need no second matrix.
    if not (np.isfinite(K.min(initial=0)) and np.isfinite(K.max(initial=0))):
        raise EvaluationError("expected a finite kernel, found NaN or infinity in it")


@cache
def _numbers_all_samples() -> bool:
    """Find out whether the indices SVC.support_ count the samples of weight 0.

    So far they count only the others (scikit-learn #27763).
    """
    svm = SVC(kernel="precomputed")
    svm.fit(np.eye(3), [1, 1, -1], sample_weight=[0, 1, 1])
    return int(svm.support_.max()) == 2
