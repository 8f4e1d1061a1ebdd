from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from conftest import SETTINGS, make_split, write_file
from fishing.errors import EvaluationError, StoreError
from fishing.kernels import FEATURES, Kernels, gram
from fishing.search import evaluate_retrieval


def test_equals_scikit_learn_query_by_query(tmp_path: Path, rng) -> None:
    split = make_split(rng, 40)
    split.labels[[3, 8, 21], [0, 1, 1]] = 0  # difficult
    split.labels[30] = -1  # shares no class with any image
    split.labels[31] = (0, -1)  # may share one, but never does
    file = write_file(tmp_path / "f.h5", test=split)
    record = evaluate_retrieval(file, features=["dW7", "x6"])
    for feature in ("dW7", "x6"):
        K, y = gram(feature, split), split.labels.astype(int)
        ap = {}
        for q in range(40):
            truth, scores = [], []
            for r in range(40):
                both = set(zip(y[q], y[r], strict=True))
                unsure = both & {(0, 0), (0, 1), (1, 0)}
                if r == q or (unsure and (1, 1) not in both):
                    continue
                truth.append((1, 1) in both)
                scores.append(K[q, r])
            if any(truth):
                ap[q] = average_precision_score(truth, scores)
        assert 30 not in ap
        assert 31 not in ap
        result = record["features"][feature]
        assert result["mAP"] == pytest.approx(np.mean(list(ap.values())))
        for j, name in enumerate(("cat", "dog")):
            expected = np.mean([v for q, v in ap.items() if y[q, j] > 0])
            assert result["AP"][name] == pytest.approx(expected)
    assert record["n_queries"] == len(ap)
    assert (record["split"], record["source"]) == ("test", SETTINGS)


def test_blocks_change_nothing(tmp_path: Path, rng, monkeypatch) -> None:
    file = write_file(tmp_path / "f.h5", test=make_split(rng, 40))
    whole = evaluate_retrieval(file)
    assert list(whole["features"]) == list(FEATURES)
    monkeypatch.setattr("fishing.store.rows.BLOCK_ROWS", 7)
    parts = evaluate_retrieval(file)
    for feature, result in parts["features"].items():
        assert result["mAP"] == pytest.approx(whole["features"][feature]["mAP"])


def test_two_gram_matrices_are_kept_at_a_time(tmp_path: Path, rng, monkeypatch) -> None:
    file, kept = write_file(tmp_path / "f.h5", test=make_split(rng, 9)), []
    compute = Kernels.by_rows

    def count(self, feature: str):
        found = compute(self, feature)
        kept.append(len(self._grams))
        return found

    monkeypatch.setattr(Kernels, "by_rows", count)
    evaluate_retrieval(file)
    assert len(kept) == len(FEATURES)
    assert max(kept) == 2


def test_progress(tmp_path: Path, rng) -> None:
    file, calls = write_file(tmp_path / "f.h5", val=make_split(rng, 9)), []
    record = evaluate_retrieval(
        file, "val", ["x7", "dW7"], lambda *call: calls.append(call)
    )
    assert list(record["features"]) == ["x7", "dW7"]
    # dW7 comes before x7, whose blob lies higher.
    steps = [("dW7", 0), ("x7", 1), ("x7", 2)]
    assert calls == [(name, done, 2, "features") for name, done in steps]


def test_what_cannot_be_evaluated(tmp_path: Path, rng) -> None:
    alone = make_split(rng, 6)
    alone.labels[:] = -1
    bare = make_split(rng, 6, labels=None, classes=(), failed_labels=None)
    file = write_file(tmp_path / "f.h5", alone=alone, bare=bare)
    with pytest.raises(EvaluationError, match="expected two images of one class"):
        evaluate_retrieval(file, "alone")
    with pytest.raises(EvaluationError, match="expected labels in split 'bare'"):
        evaluate_retrieval(file, "bare")
    with pytest.raises(StoreError, match="expected a split 'test'"):
        evaluate_retrieval(file)
