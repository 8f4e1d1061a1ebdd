from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import PredefinedSplit
from sklearn.svm import SVC

from fishing.errors import EvaluationError
from fishing.evaluate import cross_validated_sigmoids
from fishing.evaluate.cross_validation import stratified_folds
from fishing.evaluate.probabilities import fit_sigmoids


@pytest.fixture
def problem(rng) -> tuple[np.ndarray, np.ndarray]:
    """Make features and labels of three classes, which overlap."""
    X = rng.normal(size=(90, 4))
    y = X @ rng.normal(size=(4, 3)) + rng.normal(size=(90, 3)) > 0.7
    return X, np.where(y, 1, -1).astype(np.int8)


def test_the_likelihood_is_as_large_as_it_can_be(problem) -> None:
    X, labels = problem
    labels[5:9, 1] = 0
    values = X[:, :3] * [1, 3, 0.1]
    sigmoids = fit_sigmoids(values, labels)
    for j in range(3):
        y, f = labels[labels[:, j] != 0, j], values[labels[:, j] != 0, j]
        n_positive, n_negative = (y > 0).sum(), (y < 0).sum()
        t = np.where(y > 0, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))

        def loss(ab, f=f, t=t) -> float:
            p = 1 / (1 + np.exp(ab[0] * f + ab[1]))
            return float(-(t * np.log(p) + (1 - t) * np.log(1 - p)).sum())

        best = minimize(loss, [-1.0, 0.0], method="Nelder-Mead", tol=1e-10).x
        np.testing.assert_allclose([sigmoids.A[j], sigmoids.B[j]], best, rtol=1e-4)
        p = 1 / (1 + np.exp(best[0] * values[:, j] + best[1]))
        np.testing.assert_allclose(sigmoids(values)[:, j], p, atol=1e-5)


def test_probabilities_are_those_of_scikit_learn(problem) -> None:
    X, labels = problem
    K = X @ X.T
    sigmoids = cross_validated_sigmoids(K, labels, ("a", "b", "c"), C=0.3)
    fold = stratified_folds(labels, 5)
    for j, y in enumerate(labels.T):
        svm = SVC(kernel="linear", C=0.3, tol=1e-6)
        other = CalibratedClassifierCV(svm, cv=PredefinedSplit(fold), ensemble=False)
        expected = other.fit(X, y).predict_proba(X)[:, 1]
        found = sigmoids(np.tile(svm.fit(X, y).decision_function(X)[:, None], 3))[:, j]
        np.testing.assert_allclose(found, expected, atol=5e-3)


def test_a_class_that_cannot_be_cross_validated(problem) -> None:
    X, labels = problem
    labels[:, 2] = -1
    labels[7, 2] = 1
    with pytest.raises(EvaluationError, match="the probabilities of 'c', found fewer"):
        cross_validated_sigmoids(X @ X.T, labels, ("a", "b", "c"))
