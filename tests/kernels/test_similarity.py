from __future__ import annotations

import numpy as np
import pytest

from conftest import explicit_features, make_split
from fishing.errors import EvaluationError
from fishing.kernels import FEATURES, gram
from fishing.kernels import gram_matrices as kernel


@pytest.mark.parametrize("feature", [*FEATURES, "dW6+dW7", "x7+dW7"])
def test_gram_equals_explicit_features(rng, monkeypatch, feature: str) -> None:
    monkeypatch.setattr(kernel, "_PANEL_VALUES", 13 * 4)
    monkeypatch.setattr(kernel, "_PANEL_STEP", 4)
    A, B = make_split(rng, 13), make_split(rng, 7)
    a, b = explicit_features(A, feature), explicit_features(B, feature)
    found = gram(feature, A, B)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, a @ b.T, atol=3e-7)
    np.testing.assert_allclose(gram(feature, A.blobs), a @ a.T, atol=3e-7)


def test_gram_refuses_what_does_not_fit(rng) -> None:
    A = make_split(rng, 3)
    with pytest.raises(EvaluationError, match="expected rows of one width, found 6 an"):
        gram("x7", A, make_split(rng, 3, width=5))
    with pytest.raises(EvaluationError, match=r"expected backward/y7, which dW7 is"):
        gram("dW7", A, {"forward/x6": np.ones((2, 6), np.float32)})
