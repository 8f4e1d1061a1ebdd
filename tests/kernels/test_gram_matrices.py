from __future__ import annotations

import numpy as np
import pytest

from conftest import explicit_features, make_split
from fishing.errors import EvaluationError
from fishing.kernels import FEATURES, Kernels, available_features, gram
from fishing.kernels import gram_matrices as module
from fishing.nets.blobs import paired_blobs

PRODUCTS = ("x6*x7", "x7*x7", "x5*x8", "x5*x6*y8", "x6*x7+dW7", "x5+x6*x7+x7*x7")


@pytest.mark.parametrize("feature", [*FEATURES, "dW6+dW7", "x7+dW7", *PRODUCTS])
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
    monkeypatch.setattr(module, "_PANEL_VALUES", 30 * 7)
    monkeypatch.setattr(module, "_PANEL_STEP", 7)
    monkeypatch.setattr("fishing.store.rows.BLOCK_ROWS", 8)
    for part, expected in zip(Kernels(train, test)("dW7"), whole, strict=True):
        np.testing.assert_allclose(part[:], expected[:], atol=1e-6)
        assert not (part[:] == expected[:]).all()  # the order of summation differs


def test_features_share_gram_matrices(rng, monkeypatch) -> None:
    split = make_split(rng, 5)
    kernels, computed = Kernels(split, split), []
    gram_products = module.gram_products

    def count(*args):
        computed.append(args)
        return gram_products(*args)

    monkeypatch.setattr(module, "gram_products", count)
    for feature in ("x6", "x5+x6", "x6+x7", "dW7"):
        kernels(feature)
    assert len(computed) == 4
    kernels.keep({"forward/x7"})
    kernels("x7")
    assert len(computed) == 4
    kernels("x6")
    assert len(computed) == 5


@pytest.mark.parametrize("width", [6, 300])
def test_tiny_and_huge_values_are_normalised(rng, width: int) -> None:
    split = make_split(rng, 5, width=width)
    for name, factor in (("forward/x6", 1e-41), ("backward/y7", 5e37)):
        split.blobs[name][:] *= np.float32(factor)
    K, _ = Kernels(split, split)("dW7")
    np.testing.assert_allclose(np.diag(K), 1, atol=1e-6)


@pytest.mark.parametrize("width", [256, 700])
def test_wide_rows_have_the_kernel_of_float64(rng, width: int) -> None:
    split = make_split(rng, 40, width=width)
    X = explicit_features(split, "x7")
    K, _ = Kernels(split, split)("x7")
    np.testing.assert_allclose(K, X @ X.T, atol=5e-7)


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


@pytest.mark.parametrize("feature", [*FEATURES, "dW6+dW7", "x7+dW7", *PRODUCTS])
def test_gram_equals_explicit_features(rng, monkeypatch, feature: str) -> None:
    monkeypatch.setattr(module, "_PANEL_VALUES", 13 * 4)
    monkeypatch.setattr(module, "_PANEL_STEP", 4)
    A, B = make_split(rng, 13), make_split(rng, 7)
    a, b = explicit_features(A, feature), explicit_features(B, feature)
    found = gram(feature, A, B)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, a @ b.T, atol=3e-7)
    np.testing.assert_allclose(gram(feature, A.blobs), a @ a.T, atol=3e-7)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_heads_of_other_depths(rng, n: int) -> None:
    blobs = {b: rng.normal(size=(9, 5)).astype(np.float32) for b in paired_blobs(n)}
    split = make_split(rng, 9, blobs=blobs)
    for feature in available_features(split.blobs):
        rows = explicit_features(split, feature)
        expected = pytest.approx(rows @ rows.T, abs=3e-7)
        assert gram(feature, split) == expected
        assert Kernels(split, split)(feature)[0] == expected


def test_a_gradient_is_the_product_of_its_pair(rng) -> None:
    split = make_split(rng, 9)
    split.blobs["backward/y7"] = split.blobs["forward/x7"]
    np.testing.assert_array_equal(gram("x6*x7", split), gram("dW7", split))
    np.testing.assert_array_equal(gram("x7*x6", split), gram("dW7", split))
    np.testing.assert_array_equal(gram("x7*x7", split), gram("x7", split) ** 2)


def test_no_rows(rng) -> None:
    some, none = make_split(rng, 3), make_split(rng, 0)
    assert gram("dW7", some, none).shape == (3, 0)
    assert gram("dW7", none, some).shape == (0, 3)
    assert gram("dW7", none).shape == (0, 0)


def test_gram_refuses_what_does_not_fit(rng) -> None:
    A = make_split(rng, 3)
    with pytest.raises(EvaluationError, match="expected rows of one width, found 6 an"):
        gram("x7", A, make_split(rng, 3, width=5))
    with pytest.raises(EvaluationError, match=r"expected backward/y7, which dW7 is"):
        gram("dW7", A, {"forward/x6": np.ones((2, 6), np.float32)})
