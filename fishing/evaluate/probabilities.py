"""Probabilities of classes, made from the decision values of SVMs: Platt's method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from fishing.errors import EvaluationError
from fishing.evaluate.cross_validation import stratified_folds
from fishing.evaluate.svm import decision_function


@dataclass(frozen=True)
class Sigmoids:
    """The probability of each class as a function of its decision value f.

    It is 1 / (1 + exp(A f + B)), by itself for each class: as an image may show several
    classes, probabilities do not add up to 1.

    Attributes
    ----------
    A, B : ndarray of float64, shape (n_classes,)
    """

    A: NDArray[np.float64]
    B: NDArray[np.float64]

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn decision values, shape (n, n_classes), into probabilities."""
        return np.asarray(expit(-(self.A * values + self.B)))


def cross_validated_sigmoids(
    K: NDArray[np.float64],
    labels: NDArray[np.int8],
    classes: tuple[str, ...],
    C: float = 1.0,
    n_folds: int = 5,
) -> Sigmoids:
    """Fit sigmoids to the decision values of SVMs that did not see the images.

    Each fold of the training images gets its decision values from SVMs that were
    trained on the other folds. They are for the SVMs of the same C that are trained on
    all images.

    Parameters
    ----------
    K : ndarray of float64, shape (n, n)
    labels : ndarray of int8, shape (n, n_classes)
        1, -1 or 0 (neither).
    classes : tuple of str
        Names, for messages.
    C : float
    n_folds : int
        At most one for each image.

    Returns
    -------
    Sigmoids

    Raises
    ------
    EvaluationError
        As `decision_function`, or if a class has no positives or no negatives outside
        of a fold.
    """
    fold = stratified_folds(labels, min(n_folds, len(labels)))
    values = np.empty(labels.shape)
    for k in np.unique(fold):
        test = fold == k
        y = np.where(test[:, None], 0, labels).astype(np.int8)
        lacking = ~((y > 0).any(axis=0) & (y < 0).any(axis=0))
        if lacking.any():
            raise EvaluationError(
                "expected 2 positives and 2 negatives or more to cross-validate the "
                f"probabilities of '{classes[int(lacking.argmax())]}', found fewer; "
                "add images, or leave out the probabilities"
            )
        values[test] = decision_function(K, K[test], y, C)
    return fit_sigmoids(values, labels)


def fit_sigmoids(values: NDArray[np.float64], labels: NDArray[np.int8]) -> Sigmoids:
    """Fit a sigmoid to the decision values of each class by maximum likelihood.

    The target of a positive is (N+ + 1) / (N+ + 2), and that of a negative 1 / (N- + 2)
    (J. Platt, Probabilistic outputs for support vector machines, 1999, eq. 2 and 3).
    Images with label 0 do not count.

    Parameters
    ----------
    values : ndarray of float64, shape (n, n_classes)
    labels : ndarray of int8, shape (n, n_classes)
        At least one positive and one negative for each class.

    Returns
    -------
    Sigmoids

    Examples
    --------
    >>> values, labels = np.array([[2.0], [1.0], [-3.0]]), np.array([[1], [1], [-1]])
    >>> fit_sigmoids(values, labels)(np.array([[2.0], [-3.0]])).round(2)
    array([[0.78],
           [0.34]])
    """
    A, B = np.empty(labels.shape[1]), np.empty(labels.shape[1])
    for j, (f, y) in enumerate(zip(values.T, labels.T, strict=True)):
        f, y = f[y != 0, None], y[y != 0]
        n_positive, n_negative = int((y > 0).sum()), int((y < 0).sum())
        high, low = (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2)
        target = np.where(y > 0, high, low)
        # An image of target t counts t times as a positive, and 1 - t as a negative.
        sigmoid = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
        sigmoid.fit(
            np.concatenate([f, f]),
            np.repeat([1, 0], len(f)),
            sample_weight=np.concatenate([target, 1 - target]),
        )
        A[j], B[j] = -sigmoid.coef_[0, 0], -sigmoid.intercept_[0]
    return Sigmoids(A, B)
