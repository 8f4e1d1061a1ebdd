"""Linear SVMs and landmarks, against LIBLINEAR and the exact kernels."""

from __future__ import annotations

import errno
import json
import logging
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from conftest import make_split, write_file
from fishing.cli.main import main
from fishing.errors import EvaluationError
from fishing.evaluate import (
    NystroemFeatures,
    TraceKernel,
    evaluate,
    landmarks,
    paired,
)
from fishing.evaluate.linear import train_linear
from fishing.kernels import LandmarkMap, gram


def _problem(rng, n: int = 700, m: int = 20, n_classes: int = 4):
    X = rng.normal(size=(n, m)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    noise = rng.normal(size=(n, n_classes)) * 0.3
    scores = X @ rng.normal(size=(m, n_classes)) - 0.8 + noise
    labels = np.where(scores > 0, 1, -1).astype(np.int8)
    labels[rng.random(labels.shape) < 0.1] = 0
    return X, labels


def _objective(w: np.ndarray, b: float, X: np.ndarray, y: np.ndarray, C: float):
    margins = y * (X.astype(np.float64) @ w + b)
    return (w @ w + b * b) / 2 + C * np.maximum(0, 1 - margins).sum()


@pytest.mark.parametrize("C", [0.01, 1, 200])
def test_the_optimum_is_liblinears(rng, C: float) -> None:
    X, labels = _problem(rng)
    W, b = train_linear(X, labels, C)
    for column, y in enumerate(labels.T):
        rows = np.flatnonzero(y)
        model = LinearSVC(
            C=C, loss="hinge", tol=1e-6, max_iter=10**6, random_state=0
        ).fit(X[rows], y[rows])
        expected = _objective(model.coef_[0], model.intercept_[0], X[rows], y[rows], C)
        found = _objective(W[:, column], b[column], X[rows], y[rows], C)
        assert found == pytest.approx(expected, rel=1e-3)
        values = X @ W[:, column] + b[column]
        others = X @ model.coef_[0] + model.intercept_[0]
        assert np.corrcoef(values, others)[0, 1] > 0.99
        assert abs(values.mean() - others.mean()) < 0.15


@pytest.mark.parametrize("C", [0.1, 1, 10])
def test_a_residual_is_a_feature_of_each_rows_own(rng, C: float) -> None:
    """LIBLINEAR gets these features written out."""
    X, labels = _problem(rng, n=300)
    labels[labels == 0] = 1
    residual = rng.uniform(0, 2, len(X)) * (rng.random(len(X)) < 0.8)
    W, b = train_linear(X, labels, C, residual=residual)
    own = np.hstack([X, np.diag(np.sqrt(residual))])
    for column, y in enumerate(labels.T):
        model = LinearSVC(
            C=C, loss="hinge", tol=1e-6, max_iter=10**6, random_state=0
        ).fit(own, y)
        w = model.coef_[0][: X.shape[1]]
        difference = np.linalg.norm(W[:, column] - w) / np.linalg.norm(w)
        assert difference < 0.03
        assert abs(b[column] - model.intercept_[0]) < 0.03 * np.linalg.norm(w)
        without = LinearSVC(C=C, loss="hinge", max_iter=10**5).fit(X, y).coef_[0]
        assert np.linalg.norm(without - w) / np.linalg.norm(w) > 2 * difference


def test_what_vectors_lack_of_the_kernel(rng) -> None:
    images = make_split(rng, 30, width=20).blobs
    images["forward/x6"][4] = 0
    for feature in ("x7", "dW7", "x6+x7", "x6*x7+dW8"):
        vectors = LandmarkMap(feature, images, np.arange(10))
        z = vectors(images)
        itself = np.diag(gram(feature, images))
        expected = itself - (z.astype(np.float64) ** 2).sum(axis=1)
        found = vectors.residual(images, z)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert found[:10].max() < 1e-5
        assert found[10:].max() > 0.01


def test_rows_on_disk_give_the_same(rng, tmp_path: Path) -> None:
    X, labels = _problem(rng)
    on_disk = np.memmap(tmp_path / "X", np.float32, "w+", shape=X.shape)
    on_disk[:] = X
    for a, b in zip(
        train_linear(X, labels), train_linear(on_disk, labels), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_too_few_passes_are_told(rng, monkeypatch, caplog) -> None:
    monkeypatch.setattr("fishing.evaluate.linear._MAX_PASSES", 10)
    train_linear(*_problem(rng))
    assert "have not converged after 10 passes" in caplog.text


def test_vectors_that_are_not_finite(rng) -> None:
    X, labels = _problem(rng)
    X[3, 3] = np.nan
    with pytest.raises(EvaluationError, match="expected finite vectors"):
        train_linear(X, labels)


@pytest.fixture
def file(tmp_path: Path, rng) -> Path:
    """Write images of two classes that differ in their means."""
    splits = {}
    means = rng.normal(size=(2, 12))
    for name, n in (("trainval", 300), ("test", 200)):
        split = make_split(rng, n, width=12)
        for rows in split.blobs.values():
            rows += (split.labels @ means * 0.4).astype(np.float32)
        splits[name] = split
    return write_file(tmp_path / "f.h5", **splits)


@pytest.mark.parametrize("feature", ["x7", "dW7", "x6*x7+dW8"])
def test_all_images_as_landmarks_give_the_exact_result(
    file: Path, feature: str, monkeypatch
) -> None:
    monkeypatch.setattr(landmarks, "_BLOCK", 64)
    expected = evaluate(file, features=[feature])
    found = evaluate(file, features=[feature], landmarks=300)
    a, b = (e.scores[feature] for e in (found, expected))
    # The intercept is penalised here, and is not in SVC: rankings agree, not values.
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99
    maps = [e.record["features"][feature]["mAP"] for e in (found, expected)]
    assert abs(maps[0] - maps[1]) < 0.01
    assert found.record["landmarks"] == 300
    assert "landmarks" not in expected.record


def test_the_command_says_what_it_used(file: Path, tmp_path: Path) -> None:
    def run(*options: str) -> tuple[str, dict]:
        output = tmp_path / "results"
        command = ["evaluate", str(file), "--output", str(output), *options]
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
        return done.output, json.loads((output / "results.json").read_text())

    printed, record = run("--feature", "dW7")
    assert "(exact kernels)" in printed
    assert "landmarks" not in record
    printed, record = run("--feature", "dW7", "--landmarks", "50")
    assert "(50 landmarks)" in printed
    assert record["landmarks"] == 50


def test_vectors_that_fill_up_the_disk(file: Path, monkeypatch) -> None:
    """A process that wrote beyond a full disk by mapped memory would be killed."""

    def no_room(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(landmarks, "usable_memory", lambda: 0)
    assert "landmarks" in evaluate(file, features=["x7"]).record
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(EvaluationError, match="found: No space left on device; name"):
        evaluate(file, features=["x7"])


def test_landmarks_where_exact_kernels_do_not_fit(
    file: Path, monkeypatch, caplog
) -> None:
    caplog.set_level(logging.INFO, "fishing")
    needed = 16 * 300**2 + 8 * 300 * 200
    monkeypatch.setattr(landmarks, "usable_memory", lambda: needed)
    assert "landmarks" not in evaluate(file, features=["x7"]).record
    monkeypatch.setattr(landmarks, "usable_memory", lambda: needed - 1)
    # All of them are landmarks, since they are fewer than 4096.
    assert evaluate(file, features=["x7"]).record["landmarks"] == 300
    assert "exact kernels of 300 and 200 images take" in caplog.text


def test_vectors_go_to_disk_where_memory_is_short(file: Path, monkeypatch) -> None:
    expected = evaluate(file, features=["dW7"], landmarks=40)
    made = []
    monkeypatch.setattr(landmarks, "usable_memory", lambda: 1000)
    original = np.memmap
    monkeypatch.setattr(
        landmarks.np, "memmap", lambda *a, **k: made.append(k) or original(*a, **k)
    )
    found = evaluate(file, features=["dW7"], landmarks=40)
    assert made == [{"shape": (300, 40)}]
    np.testing.assert_array_equal(found.scores["dW7"], expected.scores["dW7"])


def test_memory_grows_with_landmarks_not_with_the_square(
    tmp_path: Path, rng, monkeypatch
) -> None:
    monkeypatch.setattr("fishing.evaluate.linear._MAX_PASSES", 10)
    n, m = 6000, 64
    splits = {name: make_split(rng, n, width=4) for name in ("trainval", "test")}
    path = write_file(tmp_path / "f.h5", **splits)
    tracemalloc.start()
    evaluate(path, features=["dW7"], landmarks=m)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * n  # one byte for each pair of images


def test_a_transformer_of_scikit_learn(rng) -> None:
    split = make_split(rng, 80)
    X, y = paired("dW7", split), split.labels[:, 0]
    transform = NystroemFeatures("dW7", n_landmarks=80)
    z = transform.fit_transform(X)
    np.testing.assert_allclose(z @ z.T, TraceKernel("dW7")(X), atol=2e-3)
    model = make_pipeline(NystroemFeatures("dW7", n_landmarks=20), LinearSVC())
    assert model.fit(X, y).predict(X).shape == (80,)
    assert NystroemFeatures().get_params() == {
        "feature": "dW7",
        "n_landmarks": 1000,
        "random_state": 0,
    }
