from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.svm import SVC

from conftest import explicit_features, make_split, write_file
from fishing.errors import EvaluationError, StoreError
from fishing.evaluate import cross_validate, read_results, write_results
from fishing.evaluate.average_precision import average_precision_11point
from fishing.evaluate.cross_validation import stratified_folds
from fishing.kernels import FEATURES
from fishing.store import Split


def _learnable(rng: np.random.Generator, n: int, failed: tuple[int, ...] = ()) -> Split:
    """Make a split whose first two columns of x7 hint at the classes."""
    split = make_split(rng, n, failed=failed)
    split.blobs["forward/x7"][:, :2] += 1.5 * split.labels
    split.labels[::9, 1] = 0
    return split


@pytest.fixture
def split(rng: np.random.Generator) -> Split:
    return _learnable(rng, 60, (2, 17))


@pytest.fixture
def path(tmp_path: Path, split: Split) -> Path:
    return write_file(tmp_path / "f.h5", all=split)


def test_equals_a_loop_over_folds(path: Path, split: Split) -> None:
    outcome = cross_validate(path, split="all", n_folds=3, features=["x7", "dW7"])
    labels = np.insert(split.labels, [2, 16], split.failed_labels, axis=0)
    fold = stratified_folds(labels, 3)
    rows = np.delete(fold, split.failed_index)
    AP = np.empty((2, 3, 2))
    for f, feature in enumerate(("x7", "dW7")):
        X = explicit_features(split, feature)
        for j in range(2):
            for k in range(3):
                y = split.labels[:, j]
                kept = (rows != k) & (y != 0)
                svm = SVC(kernel="linear", C=1).fit(X[kept], y[kept])
                scores = np.full(62, -np.inf)
                scores[np.delete(np.arange(62), split.failed_index)] = (
                    svm.decision_function(X)
                )
                found = outcome.scores[feature][:, j]
                np.testing.assert_allclose(
                    found[fold == k], scores[fold == k], atol=2e-3
                )
                AP[f, k, j] = average_precision_11point(
                    labels[fold == k, j], found[fold == k]
                )
        result = outcome.record["features"][feature]
        assert list(result["AP"].values()) == pytest.approx(AP[f].mean(axis=0))
        assert result["mAP"] == pytest.approx(AP[f].mean())
        spread = result["spread"]
        expected = AP[f].mean(axis=1).std(ddof=1)
        assert spread["mAP"] == pytest.approx(expected)
        expected = AP[f].std(axis=0, ddof=1)
        assert list(spread["AP"].values()) == pytest.approx(expected)


def test_record(path: Path, tmp_path: Path) -> None:
    outcome = cross_validate(path, split="all", n_resamples=20)
    record = outcome.record
    assert (record["train"], record["test"], record["folds"]) == ("all", "all", 5)
    assert list(record["features"]) == list(FEATURES)
    assert list(record["lists"]) == ["all"]
    assert record["bootstrap"]["reference"] == "x7"
    assert record["features"]["x7"]["mAP"] > record["features"]["x5"]["mAP"]
    low, high = record["features"]["x5"]["difference"]["mAP"]
    assert low <= high < 0
    read = read_results(write_results(outcome, tmp_path / "r").parent)
    assert {k: v for k, v in read.record.items() if k != "features_file"} == record
    # Equal files give equal folds.
    assert cross_validate(path, split="all", n_resamples=20).record == record


def test_the_order_of_factors_of_the_reference_does_not_matter(path: Path) -> None:
    record = cross_validate(
        path, features=["x7", "x7*x6"], n_resamples=5, reference="x7*x6"
    ).record
    assert record["bootstrap"]["reference"] == "x6*x7"
    assert "difference" in record["features"]["x7"]
    with pytest.raises(EvaluationError, match="expected a feature such as"):
        cross_validate(path, n_resamples=5, reference="x9")


def test_images_that_failed_rank_last_in_their_places(path: Path) -> None:
    outcome = cross_validate(path, split="all", features=["x7"])
    assert outcome.image_id == tuple(f"im{i:04d}" for i in range(62))
    scores = outcome.scores["x7"]
    assert np.isneginf(scores[[2, 17]]).all()
    assert np.isfinite(np.delete(scores, (2, 17), axis=0)).all()


def test_rare_classes(tmp_path: Path, rng: np.random.Generator, caplog) -> None:
    """One positive cannot be learnt and found; two can, in the folds that have one."""
    split = make_split(rng, 30, classes=("cat", "once", "twice"))
    split.labels[:, 1:] = -1
    split.labels[5, 1] = split.labels[[7, 20], 2] = 1
    path = write_file(tmp_path / "f.h5", all=split)
    result = cross_validate(path, features=["x7"]).record["features"]["x7"]
    assert result["AP"]["once"] is result["spread"]["AP"]["once"] is None
    assert 0 < result["AP"]["twice"] <= 1
    assert result["mAP"] == pytest.approx(
        (result["AP"]["cat"] + result["AP"]["twice"]) / 2
    )
    assert "class 'once' has 0 positives" in caplog.text


def test_mistakes(path: Path, tmp_path: Path, split: Split) -> None:
    for n_folds in (1, 63):
        with pytest.raises(EvaluationError, match="choose another --folds"):
            cross_validate(path, n_folds=n_folds)
    with pytest.raises(StoreError, match="expected a split 'val'"):
        cross_validate(path, split="val")
    with pytest.raises(EvaluationError, match="expected a reference among"):
        cross_validate(path, features=["x6"], n_resamples=5, reference="x7")
    bare = dataclasses.replace(split, labels=None, failed_labels=None, classes=())
    other = write_file(tmp_path / "g.h5", all=bare)
    with pytest.raises(EvaluationError, match="labels in split 'all'"):
        cross_validate(other)


@pytest.mark.parametrize("n_folds", [2, 5, 7])
def test_folds_share_each_class(rng: np.random.Generator, n_folds: int) -> None:
    for density in (0.05, 0.3, 0.6):
        labels = np.where(rng.random((203, 8)) < density, 1, -1).astype(np.int8)
        fold = stratified_folds(labels, n_folds)
        np.testing.assert_array_equal(fold, stratified_folds(labels, n_folds))
        sizes = np.bincount(fold, minlength=n_folds)
        assert np.ptp(sizes) <= 3
        for y in labels.T:
            assert np.ptp([(y[fold == k] > 0).sum() for k in range(n_folds)]) <= 3


def test_folds_of_one_class_each_are_even(rng: np.random.Generator) -> None:
    """With one label for each image, counts differ by one at most."""
    names = rng.integers(6, size=100)
    labels = np.where(names[:, None] == np.arange(6), 1, -1).astype(np.int8)
    fold = stratified_folds(labels, 5)
    for y in labels.T:
        assert np.ptp([(y[fold == k] > 0).sum() for k in range(5)]) <= 1
    assert np.ptp(np.bincount(fold)) <= 1


def test_no_fold_is_empty(rng: np.random.Generator) -> None:
    for _ in range(300):
        n = int(rng.integers(2, 12))
        n_folds = int(rng.integers(2, n + 1))
        density = rng.random()
        labels = np.where(rng.random((n, 4)) < density, 1, -1).astype(np.int8)
        fold = stratified_folds(labels, n_folds)
        assert set(fold) == set(range(n_folds))
