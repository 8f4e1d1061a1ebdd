from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from conftest import make_split, write_file
from fishing.errors import EvaluationError
from fishing.evaluate import (
    all_ids,
    all_labels,
    average_precision_11point,
    evaluate,
    with_failed,
)
from fishing.store import Split


@pytest.fixture
def split(rng) -> Split:
    """Make a split of seven images, of which the third and the last failed."""
    made = make_split(rng, 5, failed=(2, 6))
    made.labels[:] = [[1, -1], [-1, 0], [-1, -1], [1, 1], [-1, 1]]
    made.failed_labels[:] = [[1, 0], [-1, 1]]
    return made


def test_all_images_stand_in_the_order_of_the_list(split: Split) -> None:
    assert all_ids(split) == tuple(f"im{i:04d}" for i in range(7))
    labels = all_labels(split, "test", ("cat", "dog"))
    assert labels.dtype == np.int8
    assert labels[:, 0].tolist() == [1, -1, 1, -1, 1, -1, -1]
    assert labels[:, 1].tolist() == [-1, 0, 0, -1, 1, 1, 1]


def test_classes_are_matched_by_name(split: Split, caplog) -> None:
    labels = all_labels(split, "test", ("dog", "eel"))
    assert labels[:, 0].tolist() == [-1, 0, 0, -1, 1, 1, 1]
    assert labels[:, 1].tolist() == [-1] * 7
    assert "class 'cat' of split 'test' was not trained; left out" in caplog.text


def test_scores_of_images_without_a_row(split: Split) -> None:
    usable = np.array([False, True])
    scores = with_failed(np.arange(5.0)[:, None], split, usable)
    assert np.isnan(scores[:, 0]).all()
    assert scores[:, 1].tolist() == [0, 1, -np.inf, 2, 3, 4, -np.inf]


@pytest.mark.parametrize("field", ["labels", "failed_labels"])
def test_splits_without_labels(split: Split, field: str) -> None:
    bare = dataclasses.replace(split, **{field: None})
    with pytest.raises(EvaluationError, match="expected labels in split 'val'"):
        all_labels(bare, "val", ("cat", "dog"))


def test_positives_that_failed_count_as_not_found(tmp_path: Path, rng) -> None:
    train = make_split(rng, 40)
    test = make_split(rng, 30, failed=(0, 7, 13))
    test.failed_labels[:] = 1
    path = write_file(tmp_path / "f.h5", trainval=train, test=test)
    evaluation = evaluate(path, features=["x7"])
    scores = evaluation.scores["x7"]
    kept = np.delete(np.arange(33), (0, 7, 13))
    for j, name in enumerate(("cat", "dog")):
        labels = np.ones(33, int)
        labels[kept] = test.labels[:, j]
        found = evaluation.record["features"]["x7"]["AP"][name]
        assert found == average_precision_11point(labels, scores[:, j])
        assert found != average_precision_11point(test.labels[:, j], scores[kept, j])
