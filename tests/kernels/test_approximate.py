"""Nystroem's method, against its formula in float64 and kernels written out in full."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import explicit_features, make_split
from fishing.errors import EvaluationError
from fishing.kernels import LandmarkMap, choose_landmarks

FEATURES = ["x7", "dW7", "x6*x7", "x6+dW8", "x7*x7"]


@pytest.mark.parametrize("feature", FEATURES)
def test_products_are_those_of_the_formula(rng, feature: str) -> None:
    train, test = make_split(rng, 60), make_split(rng, 25)
    landmarks = choose_landmarks(60, 12)
    a, b = (explicit_features(split, feature) for split in (train, test))
    m = a[landmarks]
    expected = (b @ m.T) @ np.linalg.pinv(m @ m.T, rcond=1e-5) @ (m @ a.T)
    vectors = LandmarkMap(feature, train, landmarks)
    found = vectors(test) @ vectors(train.blobs).T
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-3)
    # It is exact where one of the images is a landmark.
    np.testing.assert_allclose(found[:, landmarks], b @ m.T, atol=2e-3)
    assert feature == "x7" or np.abs(found - b @ a.T).max() > 0.02


def test_equal_landmarks_count_once(rng) -> None:
    split = make_split(rng, 30)
    for rows in split.blobs.values():
        rows[10:20] = rows[:10]
    vectors = LandmarkMap("dW7", split, np.arange(20))
    assert vectors.width == 10
    assert np.isfinite(vectors(split)).all()


def test_rows_of_zeros_map_to_zeros(rng) -> None:
    split = make_split(rng, 30)
    split.blobs["forward/x6"][[3, 25]] = 0
    vectors = LandmarkMap("dW7", split, np.arange(20))(split)
    assert (np.flatnonzero(~vectors.any(axis=1)) == [3, 25]).all()


def test_landmarks_are_drawn_once_by_a_seed() -> None:
    drawn = choose_landmarks(1000, 50)
    assert len(set(drawn)) == 50
    assert (np.sort(drawn) == drawn).all()
    assert drawn[-1] - drawn[0] > 800
    assert (choose_landmarks(1000, 50) == drawn).all()
    assert (choose_landmarks(1000, 50, seed=1) != drawn).any()
    assert (choose_landmarks(1000, 5000) == np.arange(1000)).all()


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (5, -1)])
def test_no_landmarks(n: int, m: int) -> None:
    with pytest.raises(EvaluationError, match="expected one landmark or more"):
        choose_landmarks(n, m)
