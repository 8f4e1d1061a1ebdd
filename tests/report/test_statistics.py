from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from conftest import make_split, write_file
from fishing.errors import EvaluationError
from fishing.evaluate import evaluate, read_results, write_results
from fishing.nets import BLOBS
from fishing.report.statistics import (
    Move,
    Ranked,
    class_grams,
    compared,
    curve,
    gradient_norms,
    moves,
    rank,
)
from fishing.store import FeaturesFile


def _ranked(labels: list[int], **scores: list[float]) -> Ranked:
    columns = {f: np.array(v, float)[:, None] for f, v in scores.items()}
    ids = tuple(f"im{i}" for i in range(len(labels)))
    return Ranked(ids, ("cat",), np.array(labels, np.int8)[:, None], columns)


def test_labels_stand_beside_the_scores_of_an_evaluation(tmp_path: Path, rng) -> None:
    splits = {"trainval": make_split(rng, 30), "test": make_split(rng, 20, failed=(4,))}
    path = write_file(tmp_path / "f.h5", **splits)
    evaluation = evaluate(path, features=["x7"])
    read = read_results(write_results(evaluation, tmp_path / "r").parent)
    with FeaturesFile(path) as file:
        ranked = rank(read, file.split("test"))
        assert ranked.image_id == evaluation.image_id
        np.testing.assert_allclose(
            ranked.scores["x7"], evaluation.scores["x7"], rtol=1e-8
        )
        assert ranked.labels.shape == (21, 2)
        read.record["lists"]["test"] = "1" * 64
        with pytest.raises(
            EvaluationError, match="name the right file with --features"
        ):
            rank(read, file.split("test"))


def test_order_and_moves() -> None:
    ranked = _ranked(
        [1, -1, 0, 1, -1, 1],
        x7=[0.1, 0.5, 9.0, 0.4, 0.3, -np.inf],
        dW7=[0.9, 0.5, 9.0, 0.1, 0.3, -np.inf],
    )
    assert ranked.order("x7", 0).tolist() == [1, 3, 4, 0, 5]
    assert ranked.order("dW7", 0).tolist() == [0, 1, 4, 3, 5]
    gained, lost = moves(ranked, "x7", "dW7", 0, 5)
    assert gained == [Move(image=0, before=4, after=1)]
    assert lost == [Move(image=3, before=2, after=4)]
    assert moves(ranked, "x7", "dW7", 0, 0) == ([], [])


def test_the_largest_moves_come_first() -> None:
    before = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0]
    after = [2.0, 8.0, 5.0, 6.0, 9.0, 7.0, 3.0, 4.0]
    ranked = _ranked([1] * 8, x7=before, dW7=after)
    # places: 1 2 3 4 5 6 7 8 become 8 2 5 4 1 3 7 6
    gained, lost = moves(ranked, "x7", "dW7", 0, 5)
    assert gained == [Move(4, 5, 1), Move(5, 6, 3), Move(7, 8, 6)]
    assert lost == [Move(0, 1, 8), Move(2, 3, 5)]
    gained, lost = moves(ranked, "x7", "dW7", 0, 1)
    assert gained == [Move(4, 5, 1)]
    assert lost == [Move(0, 1, 8)]


def test_the_curve_is_scikit_learns(rng) -> None:
    labels = rng.choice([-1, 1], 80)
    scores = rng.normal(size=80)
    recall, precision = curve(_ranked(labels.tolist(), x7=scores.tolist()), "x7", 0)
    p, r, _ = precision_recall_curve(labels > 0, scores)
    first = {round(a, 9): b for a, b in zip(r[:-1], p[:-1], strict=True)}
    assert len(recall) == (labels > 0).sum()
    for a, b in zip(recall, precision, strict=True):
        assert b == pytest.approx(first[round(a, 9)])  # the last one wins: the hit


def test_grams_are_those_of_explicit_gradients(rng) -> None:
    split = make_split(rng, 24, classes=("cat", "dog", "cow"))
    grams = class_grams(split, ("dog", "cat", "none"), "dW7", n_images=12)
    taken = [i for i in range(24) if split.labels[i, 1] > 0][:4]
    taken += [i for i in range(24) if split.labels[i, 0] > 0 and i not in taken][:4]
    assert grams.start == {"dog": 0, "cat": 4}
    x, g = (split.blobs[b][taken] for b in ("forward/x6", "backward/y7"))
    dW = np.einsum("ni,nj->nij", x, g).reshape(8, -1).astype(float)
    dW /= np.linalg.norm(dW, axis=1, keepdims=True)
    np.testing.assert_allclose(grams.parts["product"], dW @ dW.T, atol=1e-5)
    same, other = grams.contrast("product")
    K = dW @ dW.T
    off = ~np.eye(4, dtype=bool)
    assert same == pytest.approx(np.mean([K[:4, :4][off], K[4:, 4:][off]]), abs=1e-5)
    assert other == pytest.approx(K[:4, 4:].mean(), abs=1e-5)


def test_grams_of_one_image_and_of_none(rng) -> None:
    split = make_split(rng, 3, classes=("cat",))
    split.labels[:] = [[1], [-1], [-1]]
    grams = class_grams(split, ("cat",), "dW8")
    assert grams.parts["product"].shape == (1, 1)
    assert grams.contrast("product") == (None, None)
    split.labels[:] = -1
    assert class_grams(split, ("cat",), "dW8").parts["product"].shape == (0, 0)


def test_norms_are_those_of_explicit_gradients(rng) -> None:
    split = make_split(rng, 300)
    x, g = split.blobs["forward/x7"], split.blobs["backward/y8"]
    dW = np.einsum("ni,nj->nij", x, g)
    expected = np.linalg.norm(dW, axis=(1, 2))
    norms = gradient_norms(split)
    assert list(norms) == ["dW6", "dW7", "dW8"]
    np.testing.assert_allclose(norms["dW8"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("features", "pair"),
    [
        (["x5", "x7", "dW6", "dW7"], ("x7", "dW7")),
        (["dW7", "x7"], ("x7", "dW7")),
        (["x6", "y8", "dW8"], ("x6", "dW8")),
        (["x7", "x6+x7"], ("x7", "x6+x7")),
        (["dW7"], ("dW7", "dW7")),
    ],
)
def test_what_is_compared(features: list[str], pair: tuple[str, str]) -> None:
    assert compared(dict.fromkeys(features), BLOBS) == pair


def test_the_reference_of_a_bootstrap_is_the_baseline() -> None:
    names = ["x6", "x7", "dW7"]
    assert compared(names, BLOBS, "x6") == ("x6", "dW7")
    assert compared(names, BLOBS, "dW7") == ("dW7", "x6")
