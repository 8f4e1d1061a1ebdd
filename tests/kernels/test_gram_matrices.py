from __future__ import annotations

import numpy as np
import pytest

from conftest import explicit_features, make_split
from fishing.errors import EvaluationError
from fishing.kernels import (
    FEATURES,
    Kernels,
    feature_blobs,
    in_order_of_depth,
    parse_feature,
)
from fishing.kernels import gram_matrices as kernel


@pytest.mark.parametrize("feature", [*FEATURES, "dW6+dW7", "x7+dW7"])
def test_kernels_equal_explicit_features(rng, feature: str) -> None:
    # For dW this is eq. 12: the Frobenius inner product of explicit gradients.
    train, test = make_split(rng, 13), make_split(rng, 7)
    K_train, K_test = Kernels(train, test)(feature)
    a, b = explicit_features(train, feature), explicit_features(test, feature)
    assert K_train.dtype == K_test[:].dtype == np.float64
    assert K_test.shape == (7, 13)
    np.testing.assert_allclose(K_train, a @ a.T, atol=3e-7)
    np.testing.assert_allclose(K_test[:], b @ a.T, atol=3e-7)
    np.testing.assert_array_equal(K_test[2:100], K_test[:][2:])


def test_panels_and_blocks_change_nothing(rng, monkeypatch) -> None:
    train, test = make_split(rng, 30, width=50), make_split(rng, 20, width=50)
    whole = Kernels(train, test)("dW7")
    monkeypatch.setattr(kernel, "_PANEL_VALUES", 30 * 7)
    monkeypatch.setattr(kernel, "_PANEL_STEP", 7)
    monkeypatch.setattr(kernel, "_BLOCK_ROWS", 8)
    for part, expected in zip(Kernels(train, test)("dW7"), whole, strict=True):
        np.testing.assert_allclose(part[:], expected[:], atol=1e-6)
        assert not (part[:] == expected[:]).all()  # sums were cut elsewhere


def test_the_order_of_depth_keeps_two_blobs_at_a_time() -> None:
    order = in_order_of_depth(FEATURES)
    assert sorted(order) == sorted(FEATURES)
    seen: set[str] = set()
    for i, feature in enumerate(order):
        seen |= feature_blobs(feature)
        assert len(seen & set().union(*map(feature_blobs, order[i:]))) <= 2


def test_features_share_gram_matrices(rng, monkeypatch) -> None:
    split = make_split(rng, 5)
    kernels, computed = Kernels(split, split), []
    gram_matrices = kernel.gram_matrices

    def count(*args):
        computed.append(args)
        return gram_matrices(*args)

    monkeypatch.setattr(kernel, "gram_matrices", count)
    for feature in ("x6", "x5+x6", "x6+x7", "dW7"):
        kernels(feature)
    assert len(computed) == 4
    kernels.keep({"forward/x7"})
    kernels("x7")
    kernels("x6")
    assert len(computed) == 5


def test_tiny_and_huge_values_are_normalised(rng) -> None:
    split = make_split(rng, 5)
    for name, factor in (("forward/x6", 1e-41), ("backward/y7", 5e37)):
        split.blobs[name][:] *= np.float32(factor)
    K, _ = Kernels(split, split)("dW7")
    np.testing.assert_allclose(np.diag(K), 1, atol=1e-6)


def test_a_row_of_zeros_is_orthogonal_to_all(rng) -> None:
    split = make_split(rng, 5)
    split.blobs["forward/x7"][2] = 0
    K, _ = Kernels(split, split)("x7")
    assert np.isfinite(K).all()
    assert not K[2].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(rng, bad: float) -> None:
    split = make_split(rng, 5)
    split.blobs["backward/y7"][3, 1] = bad
    with pytest.raises(EvaluationError, match="backward/y7, row 3"):
        Kernels(split, split)("dW7")


@pytest.mark.parametrize("name", ["x9", "", "x6+", "dw7", "x6*x7"])
def test_unknown_features(name: str) -> None:
    with pytest.raises(EvaluationError, match="expected a feature of x5 x6"):
        parse_feature(name)
