"""Support vector machines on a precomputed kernel, one class against the rest.

In go Gram matrices and labels, out come decision values.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.svm import SVC

from fishing.errors import EvaluationError


def decision_function(
    K_train: NDArray[np.float64],
    K_test: NDArray[np.float64],
    labels: NDArray[np.int8],
    C: float = 1.0,
) -> NDArray[np.float64]:
    """Train one SVM per class and apply it.

    Each class is a binary problem of `sklearn.svm.SVC`. Images with label 0 take no
    part in the training of that class.

    Parameters
    ----------
    K_train : ndarray of float64, shape (n_train, n_train)
    K_test : ndarray of float64, shape (n_test, n_train)
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
        If C is not positive, the kernel is not finite, or a class lacks positives or
        negatives.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> decision_function(X @ X.T, X @ X.T, np.array([[1], [-1]])).round(3)
    array([[ 1.],
           [-1.]])
    """
    if not (C > 0 and np.isfinite(C)):
        raise EvaluationError(f"expected a positive C, found {C}")
    if not (np.isfinite(K_train).all() and np.isfinite(K_test).all()):
        raise EvaluationError("expected a finite kernel, found NaN or infinity in it")
    for column, y in enumerate(labels.T):
        if not ((y > 0).any() and (y < 0).any()):
            raise EvaluationError(
                f"expected positives and negatives for each class, found "
                f"{int((y > 0).sum())} and {int((y < 0).sum())} for class {column}"
            )
    K_train = np.ascontiguousarray(K_train, dtype=np.float64)

    def fit_and_decide(y: NDArray[np.int8]) -> NDArray[np.float64]:
        kept = np.flatnonzero(y)
        # A sample_weight of 0 would leave support_ misnumbered: scikit-learn #27763.
        K = K_train if len(kept) == len(y) else K_train[np.ix_(kept, kept)]
        svm = SVC(kernel="precomputed", C=C)
        with sklearn.config_context(assume_finite=True):  # checked once, above
            svm.fit(K, y[kept])
        support = kept[svm.support_]
        values: NDArray[np.float64] = (
            K_test[:, support] @ svm.dual_coef_[0] + svm.intercept_[0]
        )
        return values

    # LIBSVM lets go of Python's lock, so threads are enough and share the kernel.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(fit_and_decide, labels.T)), axis=1)
