from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet
from sklearn.metrics import roc_auc_score, roc_curve

from conftest import explicit_features, make_split, write_file
from fishing.cli.main import main
from fishing.errors import DataError, EvaluationError, StoreError
from fishing.extract import compress
from fishing.search import build_index
from fishing.store import Split
from fishing.uses import scores, separation, separations, write_scores


@pytest.fixture
def splits(rng) -> dict[str, Split]:
    """Make splits whose gradients are those of a loss with a uniform label."""
    splits = {
        "test": make_split(rng, 23, image_id=tuple(f"te{i}" for i in range(23))),
        "out": make_split(rng, 9, image_id=tuple(f"out{i}" for i in range(9))),
        "trainval": make_split(rng, 31, failed=(4,)),
    }
    for split in splits.values():
        split.blobs["forward/x7"] *= 2
        split.blobs["forward/y8"] *= 3
        split.blobs["backward/y8"][:] = _numeric_gradient(split.blobs["forward/y8"], 2)
    return splits


def _cross_entropy(y: np.ndarray, tau: float) -> float:
    """Compute the cross-entropy of softmax(y / tau) and a uniform label."""
    p = np.exp(y / tau) / np.exp(y / tau).sum()
    return float(-np.log(p).mean())


def _numeric_gradient(logits: np.ndarray, tau: float, step: float = 1e-5) -> np.ndarray:
    found = np.empty(logits.shape)
    for i, y in enumerate(logits.astype(np.float64)):
        for j, e in enumerate(step * np.eye(len(y))):
            rise = _cross_entropy(y + e, tau) - _cross_entropy(y - e, tau)
            found[i, j] = rise / (2 * step)
    return found


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="fishing")


@pytest.mark.parametrize("block_rows", [5, 256])
def test_scores_are_those_of_explicit_gradients(
    tmp_path: Path, splits, monkeypatch, block_rows: int
) -> None:
    monkeypatch.setattr("fishing.store.rows.BLOCK_ROWS", block_rows)
    file = write_file(tmp_path / "f.h5", **splits)
    found = scores(file, ["test", "out"], temperature=1.5)
    assert list(found.scores) == ["msp", "energy", "gradnorm"]
    assert found.image_id == splits["test"].image_id + splits["out"].image_id
    for name in ("test", "out"):
        split, ours = splits[name], found.of(name)
        for i, y in enumerate(split.blobs["forward/y8"].astype(np.float64)):
            p = np.exp(y) / np.exp(y).sum()
            assert ours["msp"][i] == pytest.approx(p.max(), rel=1e-6)
            energy = 1.5 * np.log(np.exp(y / 1.5).sum())
            assert ours["energy"][i] == pytest.approx(energy, rel=1e-6)
            # y8 = W8 x7, and step by step each weight moves the loss.
            x = split.blobs["forward/x7"][i].astype(np.float64)
            norm, step = 0.0, 1e-4
            for row in np.eye(len(y)):
                for value in x:
                    move = step * value * row
                    rise = _cross_entropy(y + move, 2) - _cross_entropy(y - move, 2)
                    norm += abs(rise / (2 * step))
            assert ours["gradnorm"][i] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("feature", ["dW7", "x6", "x6+x7"])
@pytest.mark.parametrize("name", ["test", "trainval"])
def test_neighbours_are_those_of_explicit_features(
    tmp_path: Path, splits, feature: str, name: str
) -> None:
    file = write_file(tmp_path / "f.h5", **splits)
    found = scores(
        *(file, [name]), methods=["knn"], reference="trainval", feature=feature, k=4
    )
    ours = explicit_features(splits[name], feature)
    theirs = explicit_features(splits["trainval"], feature)
    distance = np.linalg.norm(ours[:, None] - theirs, axis=2)
    if name == "trainval":  # an image is no neighbour of its own
        np.fill_diagonal(distance, np.inf)
    expected = -np.sort(distance, axis=1)[:, 3]
    np.testing.assert_allclose(found.scores["knn"], expected, atol=1e-5)


@pytest.mark.parametrize("n", [1, 19, 20, 21, 100])
def test_separation_is_that_of_scikit_learn(rng, n: int) -> None:
    inside, outside = rng.normal(0.7, 1, n).round(1), rng.normal(0, 1, 37).round(1)
    auroc, fpr95 = separation(inside, outside)
    y, s = np.repeat([1, 0], [n, 37]), np.concatenate([inside, outside])
    assert auroc == pytest.approx(roc_auc_score(y, s))
    fpr, tpr, _ = roc_curve(y, s, drop_intermediate=False)
    assert fpr95 == pytest.approx(fpr[np.argmax(tpr >= 0.95 - 1e-9)])


def test_errors(tmp_path: Path, splits, rng) -> None:
    file = write_file(tmp_path / "f.h5", **splits)
    for given, message in (
        ({"methods": ["odin"]}, "expected a method of msp energy gradnorm knn, found"),
        ({"methods": ["knn"]}, "name one with --reference"),
        ({"temperature": 0}, "expected a positive temperature, found 0"),
        ({"reference": "trainval", "k": 32}, "expected k from 1 to 31,"),
        ({"reference": "trainval", "feature": "dW9"}, "expected a feature such as"),
    ):
        with pytest.raises(EvaluationError, match=message):
            scores(file, ["test"], **given)
    with pytest.raises(EvaluationError, match="expected k from 1 to 22,"):
        scores(file, ["test"], reference="test", k=23)
    with pytest.raises(StoreError, match="expected a split 'val'"):
        scores(file, ["val"])
    few = make_split(rng, 5)
    for blob in set(few.blobs) - {"forward/x6", "forward/x7"}:
        del few.blobs[blob]
    bare = write_file(tmp_path / "bare.h5", test=few)
    with pytest.raises(EvaluationError, match="expected forward/y8, which msp is made"):
        scores(bare, ["test"], methods=["msp"])
    with pytest.raises(EvaluationError, match="expected forward/y8, found forward/x6"):
        scores(bare, ["test"])
    assert list(scores(bare, ["test"], reference="test", k=2).scores) == ["knn"]
    with pytest.raises(DataError, match="expected the name of a CSV or Parquet file"):
        write_scores(scores(file, ["test"]), tmp_path / "scores.txt")


@pytest.mark.parametrize("feature", ["dW7", "x7"])
def test_an_index_gives_the_distances_of_all_pairs(
    tmp_path: Path, splits, feature: str
) -> None:
    """It compares all of so few images."""
    file, index = write_file(tmp_path / "f.h5", **splits), tmp_path / "i.faiss"
    build_index(file, index, feature=feature)
    for k in (1, 5):
        options = {"methods": ["knn"], "reference": "trainval", "k": k}
        exact = scores(file, ["trainval", "out"], feature=feature, **options)
        found = scores(file, ["trainval", "out"], index=index, **options)
        np.testing.assert_allclose(
            found.scores["knn"], exact.scores["knn"], rtol=1e-5, atol=1e-6
        )
    with pytest.raises(EvaluationError, match="the only method that takes an index"):
        scores(file, ["out"], index=index)
    with pytest.raises(EvaluationError, match=f"index for x6, found one for {feature}"):
        scores(file, ["out"], reference="trainval", feature="x6", index=index)


@pytest.mark.parametrize("by_index", [False, True])
def test_one_image_of_zeros_does_not_end_a_run(
    tmp_path: Path, splits, by_index: bool
) -> None:
    splits["out"].blobs["forward/x7"][4] = 0
    file, index = write_file(tmp_path / "f.h5", **splits), tmp_path / "i.faiss"
    options = {"methods": ["knn"], "reference": "trainval"}
    options["feature"] = "x7"
    if by_index:
        build_index(file, index, feature="x7")
        options["index"] = index
    found = scores(file, ["out"], **options).scores["knn"]
    assert found[4] == pytest.approx(-np.sqrt(2))  # at right angles to all
    assert np.isfinite(found).all()


def test_a_compressed_file_allows_distances_alone(tmp_path: Path, splits) -> None:
    file = write_file(tmp_path / "f.h5", **splits)
    small = compress(file, tmp_path / "s.h5", dimensions=3)
    found = scores(small, ["out"], reference="trainval")
    assert list(found.scores) == ["knn"]
    for options in ({}, {"methods": ["msp"], "reference": "trainval"}):
        with pytest.raises(StoreError, match="name the file that it was made of"):
            scores(small, ["out"], **options)


def test_parquet_has_what_csv_has(tmp_path: Path, splits) -> None:
    file = write_file(tmp_path / "f.h5", **splits)
    found = scores(file, ["test", "out"], reference="trainval")
    write_scores(found, tmp_path / "new" / "scores.PARQUET")
    table = parquet.read_table(tmp_path / "new" / "scores.PARQUET")
    assert table.column_names == ["image_id", "split", *found.scores]
    assert tuple(table["image_id"].to_pylist()) == found.image_id
    assert tuple(table["split"].to_pylist()) == found.split
    for method, values in found.scores.items():
        assert table[method].type == "double"
        np.testing.assert_array_equal(table[method].to_numpy(), values)
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["scores.PARQUET"]


def test_the_name_of_the_output_is_checked_before_the_work(tmp_path: Path) -> None:
    arguments = ["score", tmp_path / "none.h5", "--split", "test", "--output"]
    result = _run(*arguments, tmp_path / "scores.txt")
    assert result.exit_code == 2
    assert "expected the name of a CSV or Parquet file" in result.output
    assert "none.h5" in _run(*arguments, tmp_path / "scores.parquet").output


def test_the_command(tmp_path: Path, splits) -> None:
    file, output = write_file(tmp_path / "f.h5", **splits), tmp_path / "scores.csv"
    arguments = ["score", file, "--split", "test", "--split", "out", "--output", output]
    result = _run(*arguments, "--reference", "trainval")
    assert result.exit_code == 0, result.output
    found = scores(file, ["test", "out"], reference="trainval")
    with output.open(newline="") as opened:
        rows = list(csv.reader(opened))
    assert rows[0] == ["image_id", "split", "msp", "energy", "gradnorm", "knn"]
    assert [tuple(row[:2]) for row in rows[1:]] == list(
        zip(found.image_id, found.split, strict=True)
    )
    values = np.array([row[2:] for row in rows[1:]], float).T
    np.testing.assert_allclose(values, list(found.scores.values()), rtol=1e-8)
    measured = separations(found, "test", "out")
    lines = result.output.splitlines()
    assert lines[0] == "test told from out, in per cent"
    for method, line in zip(found.scores, lines[2:6], strict=True):
        auroc, fpr95 = (f"{100 * v:.1f}" for v in measured[method].values())
        assert line.split() == [method, auroc, fpr95]
    record = json.loads(_run(*arguments, "--json").stdout)
    assert record["separations"]["msp"] == pytest.approx(measured["msp"])
    alone = _run("score", file, "--output", output)
    assert alone.output == f"written to {output}\n"
