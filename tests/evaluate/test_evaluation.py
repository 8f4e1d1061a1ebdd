from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.svm import SVC

from conftest import SETTINGS, make_split, write_file
from fishing.errors import EvaluationError, StoreError
from fishing.evaluate import evaluate
from fishing.kernels import FEATURES, Kernels
from fishing.store import Split


def _learnable(rng, n: int, failed: tuple[int, ...] = ()) -> Split:
    """Make a split whose first two columns of x7 hint at the classes."""
    split = make_split(rng, n, failed=failed)
    split.blobs["forward/x7"][:, :2] += 1.5 * split.labels
    return split


@pytest.fixture
def path(tmp_path: Path, rng) -> Path:
    splits = {"trainval": _learnable(rng, 60), "test": _learnable(rng, 40, (2, 17))}
    return write_file(tmp_path / "f.h5", **splits)


def test_equals_scikit_learn_on_explicit_features(tmp_path: Path, rng) -> None:
    train, test = _learnable(rng, 60), _learnable(rng, 40)
    train.labels[::7, 1] = 0
    file = write_file(tmp_path / "f.h5", trainval=train, test=test)
    outcome = evaluate(file, features=["x7"], protocol="voc2012")
    a, b = (s.blobs["forward/x7"].astype(float) for s in (train, test))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    for j, name in enumerate(("cat", "dog")):
        kept = train.labels[:, j] != 0
        svm = SVC(kernel="linear", C=1).fit(a[kept], train.labels[kept, j])
        expected = svm.decision_function(b)
        np.testing.assert_allclose(outcome.scores["x7"][:, j], expected, atol=1e-3)
        area = average_precision_score(test.labels[:, j] > 0, expected)
        found = outcome.record["features"]["x7"]["AP"][name]
        assert area <= found <= area + 0.05  # VOC's curve is the monotone envelope


def test_record(path: Path) -> None:
    record = evaluate(path).record
    assert record["protocol"] == "voc2007"
    assert (record["train"], record["test"], record["C"]) == ("trainval", "test", 1.0)
    assert record["classes"] == ["cat", "dog"]
    assert list(record["features"]) == list(FEATURES)
    assert record["source"] == SETTINGS
    for result in record["features"].values():
        assert result["mAP"] == pytest.approx(np.mean(list(result["AP"].values())))
    assert record["features"]["x7"]["mAP"] > record["features"]["x5"]["mAP"]


def test_progress_and_the_order_of_features(path: Path) -> None:
    calls = []
    features = ["x7", "x5+x6", "x5", "x7"]
    outcome = evaluate(path, features=features, progress=lambda *a: calls.append(a))
    assert [done for _, done, *_ in calls] == [0, 1, 2, 3]
    assert {(total, unit) for *_, total, unit in calls} == {(3, "features")}
    assert {name for name, *_ in calls} == set(features)
    assert list(outcome.record["features"]) == features[:3]
    assert list(outcome.scores) == features[:3]
    alone = evaluate(path, features=["x7"])
    np.testing.assert_array_equal(outcome.scores["x7"], alone.scores["x7"])


def test_two_gram_matrices_are_kept_at_a_time(path: Path, monkeypatch) -> None:
    kept = []
    compute = Kernels.__call__

    def count(self, feature: str):
        found = compute(self, feature)
        kept.append(len(self._grams))
        return found

    monkeypatch.setattr(Kernels, "__call__", count)
    evaluate(path)
    assert len(kept) == len(FEATURES)
    assert max(kept) == 2


def test_images_that_failed_rank_last_in_their_places(path: Path) -> None:
    outcome = evaluate(path, features=["x7"])
    assert outcome.image_id == tuple(f"im{i:04d}" for i in range(42))
    scores = outcome.scores["x7"]
    assert np.isneginf(scores[[2, 17]]).all()
    assert np.isfinite(np.delete(scores, (2, 17), axis=0)).all()


def test_the_devkits_year_chooses_the_protocol(tmp_path: Path, rng) -> None:
    years = {"VOC2007": "voc2007", "VOC2009": "voc2007", "VOC2010": "voc2012"}
    for devkit, protocol in {**years, "VOC2012": "voc2012", "": "voc2007"}.items():
        splits = [
            dataclasses.replace(_learnable(rng, 20), devkit=devkit) for _ in range(2)
        ]
        file = write_file(tmp_path / "f.h5", trainval=splits[0], test=splits[1])
        record = evaluate(file, features=["x7"]).record
        assert record["protocol"] == protocol
        other = evaluate(file, features=["x7"], protocol="voc2012").record
        assert other["protocol"] == "voc2012"


@pytest.mark.parametrize(
    ("split", "label"), [("trainval", -1), ("trainval", 1), ("test", -1)]
)
def test_a_class_without_positives_or_negatives(
    tmp_path: Path, rng, caplog, split: str, label: int
) -> None:
    splits = {"trainval": _learnable(rng, 30), "test": _learnable(rng, 20)}
    splits[split].labels[:, 0] = label
    file = write_file(tmp_path / "f.h5", **splits)
    outcome = evaluate(file, features=["x7"])
    result = outcome.record["features"]["x7"]
    assert result["AP"]["cat"] is None
    assert result["mAP"] == result["AP"]["dog"]
    assert np.isnan(outcome.scores["x7"][:, 0]).all()
    assert "class 'cat' has" in caplog.text


def test_no_class_is_left(tmp_path: Path, rng) -> None:
    splits = {"trainval": _learnable(rng, 30), "test": _learnable(rng, 20)}
    splits["test"].labels[:] = -1
    with pytest.raises(EvaluationError, match="found none"):
        evaluate(write_file(tmp_path / "f.h5", **splits))


def test_classes_are_matched_by_name(tmp_path: Path, rng, caplog) -> None:
    train, test = _learnable(rng, 60), _learnable(rng, 40)
    plain = write_file(tmp_path / "a.h5", trainval=train, test=test)
    extra = np.column_stack([test.labels[:, 1], -test.labels[:, 0], test.labels[:, 0]])
    swapped = dataclasses.replace(
        test,
        labels=extra,
        classes=("dog", "eel", "cat"),
        failed_labels=np.empty((0, 3), np.int8),
    )
    other = write_file(tmp_path / "b.h5", trainval=train, test=swapped)
    expected = evaluate(plain, features=["x7"]).record["features"]
    assert evaluate(other, features=["x7"]).record["features"] == expected
    assert "class 'eel' of split 'test' was not trained" in caplog.text


@pytest.mark.parametrize("split", ["trainval", "test"])
def test_unlabelled_splits(tmp_path: Path, rng, split: str) -> None:
    splits = {"trainval": _learnable(rng, 30), "test": _learnable(rng, 20)}
    splits[split] = dataclasses.replace(
        splits[split], labels=None, failed_labels=None, classes=()
    )
    file = write_file(tmp_path / "f.h5", **splits)
    with pytest.raises(EvaluationError, match=rf"labels in split '{split}'"):
        evaluate(file)


def test_unknown_names(path: Path) -> None:
    with pytest.raises(EvaluationError, match="expected a feature such as"):
        evaluate(path, features=["x9"])
    with pytest.raises(EvaluationError, match="expected a protocol of voc2007 voc2012"):
        evaluate(path, protocol="coco")
    with pytest.raises(StoreError, match="expected a split 'val'"):
        evaluate(path, test="val")
    with pytest.raises(EvaluationError, match="expected a positive C"):
        evaluate(path, C=-1)


def test_a_class_with_difficult_positives_alone_is_not_measured(
    tmp_path: Path, rng, caplog
) -> None:
    train, test = _learnable(rng, 60), _learnable(rng, 40)
    test.labels[test.labels[:, 1] > 0, 1] = 0
    file = write_file(tmp_path / "f.h5", trainval=train, test=test)
    result = evaluate(file, features=["x7"]).record["features"]["x7"]
    assert result["AP"]["dog"] is None
    assert result["mAP"] == result["AP"]["cat"]
    assert "class 'dog' has" in caplog.text
