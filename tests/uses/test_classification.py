from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from conftest import make_split, write_file
from fishing.cli.main import main
from fishing.errors import DataError, EvaluationError, StoreError
from fishing.evaluate import evaluate
from fishing.extract import extract
from fishing.images import read_splits
from fishing.nets import load_net
from fishing.store import ExtractionSettings
from fishing.uses import classify, write_class_sheet
from fishing.uses.kernel_to import KernelTo


@pytest.fixture(scope="module")
def features(devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "features.h5"
    lists = read_splits(devkit, ["trainval", "test"])
    extract(ExtractionSettings(load_net("tinyalexnet"), temperature=3), lists, path)
    return path


@pytest.fixture
def photos(devkit: Path, tmp_path: Path) -> Path:
    """Make a folder of the test images, a broken one, and a text."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for image in devkit.glob("JPEGImages/test_*.jpg"):
        (folder / image.name).symlink_to(image)
    (folder / "test_003b.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("hello")
    return folder


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="fishing")


@pytest.mark.parametrize("n_at_once", [1, 5, 1024])
@pytest.mark.parametrize("feature", ["dW7", "x6+x7", "x6*x7"])
def test_scores_are_those_of_an_evaluation(
    features: Path, photos: Path, monkeypatch, caplog, feature: str, n_at_once: int
) -> None:
    monkeypatch.setattr(
        "fishing.uses.classification.KernelTo",
        lambda *given: _with(KernelTo(*given), n_at_once),
    )
    expected = evaluate(features, features=[feature], C=3)
    found = classify(features, [photos], feature=feature, C=3, batch_size=4)
    assert [path.stem for path in found.path] == list(expected.image_id)
    assert found.classes == ("cold", "warm")
    np.testing.assert_allclose(found.scores, expected.scores[feature], atol=2e-5)
    assert np.ptp(found.scores, axis=0).min() > 0.05
    assert list(found.failed) == [photos / "test_003b.jpg"]
    assert f"{photos / 'test_003b.jpg'}: " in caplog.text
    assert "; left out" in caplog.text


def _with(kernel: KernelTo, n_at_once: int) -> KernelTo:
    kernel.n_at_once = n_at_once
    return kernel


def test_the_default_is_the_main_feature(features: Path, photos: Path) -> None:
    photo = photos / "test_001.jpg"
    found = classify(features, [photo, photo])
    assert (found.feature, found.path, found.probabilities) == ("dW7", (photo,), None)
    whole = classify(features, [photos], feature="dW7")
    np.testing.assert_allclose(found.scores[0], whole.scores[1], atol=1e-6)


def test_probabilities_rank_as_decision_values_do(features: Path, photos: Path) -> None:
    found = classify(features, [photos], probabilities=True)
    assert found.probabilities is not None
    assert found.probabilities.min() > 0
    assert found.probabilities.max() < 1
    for f, p in zip(found.scores.T, found.probabilities.T, strict=True):
        np.testing.assert_array_equal(np.argsort(f), np.argsort(p))


def test_classes_that_cannot_be_learnt_are_left_out(
    features: Path, photos: Path, monkeypatch, caplog
) -> None:
    from fishing.uses import classification as module

    real = module.required_labels
    monkeypatch.setattr(
        module,
        "required_labels",
        lambda labels, name: np.where([True, False], 1, real(labels, name)),
    )
    found = classify(features, [photos])
    assert (found.classes, found.scores.shape) == (("warm",), (14, 1))
    assert "class 'cold' has 26 positives and 0 negatives" in caplog.text


def test_errors(features: Path, photos: Path, tmp_path: Path, rng) -> None:
    broken = photos / "test_003b.jpg"
    with pytest.raises(DataError, match=r"found none that can be read.*003b"):
        classify(features, [broken, tmp_path / "none.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found none that can be read; name image"):
        classify(features, [tmp_path / "empty"])
    with pytest.raises(StoreError, match="expected a split 'train'"):
        classify(features, [photos], train="train")
    with pytest.raises(EvaluationError, match="positive C"):
        classify(features, [photos], C=0)
    with pytest.raises(EvaluationError, match="expected a feature such as"):
        classify(features, [photos], feature="dW9")
    bare = make_split(rng, 6, labels=None, failed_labels=None, classes=())
    file = write_file(tmp_path / "bare.h5", trainval=bare)
    with pytest.raises(EvaluationError, match="expected labels in split 'trainval'"):
        classify(file, [photos])
    ones = make_split(rng, 6)
    ones.labels[:] = 1
    file = write_file(tmp_path / "ones.h5", trainval=ones)
    with pytest.raises(EvaluationError, match="expected a class with positives and"):
        classify(file, [photos])


def test_the_command(features: Path, photos: Path, tmp_path: Path) -> None:
    table, sheet = tmp_path / "classes.csv", tmp_path / "sheet.png"
    result = _run(
        *("classify", features, photos, "--feature", "x7", "--probabilities"),
        *("--output", table, "--sheet", sheet, "-k", 1),
    )
    assert result.exit_code == 0, result.output
    found = classify(features, [photos], feature="x7", probabilities=True)
    best = [found.classes[found.best(i, 1)[0]] for i in range(14)]
    lines = [line for line in result.output.splitlines() if ".jpg  " in line]
    assert [line.split()[:2] for line in lines] == [
        [str(path), name] for path, name in zip(found.path, best, strict=True)
    ]
    assert "1 of 15 could not be read; left out" in result.output
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["photograph", "best", "cold", "warm", "p(cold)", "p(warm)"]
    assert [row[:2] for row in rows[1:]] == [line.split()[:2] for line in lines]
    values = np.array([row[2:] for row in rows[1:]], float)
    np.testing.assert_allclose(values[:, :2], found.scores, atol=1e-6)
    np.testing.assert_allclose(values[:, 2:], found.probabilities, atol=1e-5)
    with Image.open(sheet) as picture:  # 8 columns and 2 rows
        assert picture.size == (8 * 172 + 12, 2 * (172 + 3 * 17) + 12)
    record = json.loads(
        _run("classify", features, photos, "--feature", "x7", "--json").stdout
    )
    assert record["feature"] == "x7"
    assert list(record["failed"]) == [str(photos / "test_003b.jpg")]
    scores = [list(p["scores"].values()) for p in record["photographs"]]
    np.testing.assert_allclose(scores, found.scores, atol=1e-6)
    assert "probabilities" not in record["photographs"][0]


def test_outputs_that_cannot_be_written(features: Path, photos: Path) -> None:
    photo, there = photos / "test_001.jpg", photos / "notes.txt" / "new.csv"
    result = _run("classify", features, photo, "--output", there)
    assert result.exit_code == 2
    assert f"expected to write '{there}', found: " in result.output


def test_a_sheet_of_many_photographs_is_cut(
    features: Path, photos: Path, tmp_path: Path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("fishing.uses.class_output._MOST_PICTURES", 9)
    sheet = write_class_sheet(classify(features, [photos]), tmp_path / "sheet.png")
    drawn = cv2.imread(str(sheet))
    assert drawn.shape[0] == 2 * (172 + 3 * 17) + 12
    assert (drawn[300:, 400:] == 255).all()  # the second row has one photograph
    assert "the sheet shows the first 9 of 14 photographs" in caplog.text
