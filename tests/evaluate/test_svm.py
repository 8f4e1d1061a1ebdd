from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn.svm import SVC

from fishing.errors import EvaluationError
from fishing.evaluate import decision_function
from fishing.evaluate import svm as module


def _problem(rng, n: int = 60, m: int = 25, n_classes: int = 4):
    x, z = rng.normal(size=(n, 8)), rng.normal(size=(m, 8))
    labels = rng.choice(np.array([-1, -1, 0, 1], np.int8), (n, n_classes))
    return x @ x.T, z @ x.T, labels


@pytest.mark.parametrize("C", [0.1, 1.0, 10.0])
def test_equals_one_svc_per_class_without_the_difficult_images(rng, C: float) -> None:
    K_train, K_test, labels = _problem(rng)
    values = decision_function(K_train, K_test, labels, C)
    assert values.shape == (25, 4)
    for j, y in enumerate(labels.T):
        keep = np.flatnonzero(y != 0)
        svm = SVC(kernel="precomputed", C=C)
        svm.fit(K_train[np.ix_(keep, keep)], y[keep])
        expected = svm.decision_function(K_test[:, keep])
        np.testing.assert_allclose(values[:, j], expected, atol=1e-9)


def test_either_numbering_of_support_vectors(rng, monkeypatch) -> None:
    # scikit-learn counts them without the samples of weight 0, which may change.
    problem = _problem(rng)
    expected = decision_function(*problem)
    numbers_all = module._numbers_all_samples()

    class OtherSVC(SVC):
        def fit(self, X, y, sample_weight):
            super().fit(X, y, sample_weight)
            kept = np.flatnonzero(sample_weight)
            support = self.support_
            self.support_ = (
                np.searchsorted(kept, support) if numbers_all else kept[support]
            )
            return self

    monkeypatch.setattr(module, "SVC", OtherSVC)
    module._numbers_all_samples.cache_clear()
    try:
        assert module._numbers_all_samples() != numbers_all
        np.testing.assert_array_equal(decision_function(*problem), expected)
    finally:
        module._numbers_all_samples.cache_clear()


def test_the_kernel_is_not_copied(rng) -> None:
    K_train, K_test, labels = _problem(rng, n=1000, m=30)
    decision_function(K_train, K_test, labels)
    tracemalloc.start()
    try:
        decision_function(K_train, K_test, labels)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < K_train.nbytes / 4


def test_positives_score_higher(rng) -> None:
    x = np.concatenate([rng.normal(3, 1, (20, 2)), rng.normal(-3, 1, (20, 2))])
    labels = np.repeat(np.array([1, -1], np.int8), 20)[:, None]
    values = decision_function(x @ x.T, x @ x.T, labels)
    assert values[:20].min() > 0 > values[20:].max()


def test_bits_do_not_depend_on_the_threads(rng, monkeypatch) -> None:
    problem = _problem(rng, n_classes=12)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    many = decision_function(*problem)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    np.testing.assert_array_equal(decision_function(*problem), many)


@pytest.mark.parametrize("C", [0.0, -1.0, np.nan, np.inf])
def test_bad_c(rng, C: float) -> None:
    with pytest.raises(EvaluationError, match="positive C"):
        decision_function(*_problem(rng), C)


def test_bad_kernels_and_labels(rng) -> None:
    K_train, K_test, labels = _problem(rng)
    bad = K_train.copy()
    bad[0, 0] = np.nan
    with pytest.raises(EvaluationError, match="finite kernel"):
        decision_function(bad, K_test, labels)
    bad = K_test.copy()
    bad[-1, -1] = -np.inf
    with pytest.raises(EvaluationError, match="finite kernel"):
        decision_function(K_train, bad, labels)
    labels[:, 2] = np.minimum(labels[:, 2], 0)
    with pytest.raises(EvaluationError, match=r"found 0 and .* for class 2"):
        decision_function(K_train, K_test, labels)
