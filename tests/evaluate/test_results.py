from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from fishing.errors import EvaluationError
from fishing.evaluate import (
    Evaluation,
    format_table,
    read_record,
    read_results,
    write_results,
)

RECORD = {
    **{"protocol": "voc2007", "train": "trainval", "test": "test", "C": 1.0},
    **{"source": {}, "lists": {}, "versions": {}},
    "classes": ["aeroplane", "boat", "car"],
    "features": {
        "x7": {"mAP": 0.794, "AP": {"aeroplane": 0.954, "boat": None, "car": 0.634}},
        "x5+x6": {"mAP": 0.8, "AP": {"aeroplane": 0.5, "boat": None, "car": 1.0}},
    },
}


def _evaluation() -> Evaluation:
    scores = np.array([[0.25, np.nan, -1.5], [-np.inf, np.nan, 1e-7]])
    scores = {"x7": scores, "x5+x6": scores}
    return Evaluation(RECORD, ("a/1", "b"), scores, Path("features.h5"))


def test_results(tmp_path: Path) -> None:
    path = write_results(_evaluation(), tmp_path / "results")
    assert path == tmp_path / "results" / "results.json"
    record = json.loads(path.read_text())
    way = record.pop("features_file")
    assert (path.parent / way).resolve() == Path("features.h5").resolve()
    assert record == RECORD
    assert (path.parent / "table.txt").read_text() == format_table(RECORD) + "\n"
    submission = path.parent / "x7"
    files = [f"comp1_cls_test_{name}.txt" for name in RECORD["classes"]]
    assert sorted(p.name for p in submission.iterdir()) == sorted(files)
    assert (submission / files[0]).read_text() == "a/1 0.25\n"
    assert (submission / files[1]).read_text() == ""
    assert (submission / files[2]).read_text() == "a/1 -1.5\nb 1e-07\n"


def test_results_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "results").touch()
    with pytest.raises(EvaluationError, match="choose another --output"):
        write_results(_evaluation(), tmp_path / "results")


def test_results_are_read_back(tmp_path: Path) -> None:
    written = _evaluation()
    (tmp_path / "a").mkdir()
    evaluation = Evaluation(
        RECORD, written.image_id, written.scores, tmp_path / "a" / "f.h5"
    )
    found = read_results(write_results(evaluation, tmp_path / "b" / "results").parent)
    assert found.record == {**RECORD, "features_file": "../../a/f.h5"}
    assert found.path.resolve() == (tmp_path / "a" / "f.h5").resolve()
    assert found.image_id == ("a/1", "b")
    nan = np.nan
    expected = [[0.25, nan, -1.5], [nan, nan, 1e-7]]  # -inf has no line
    np.testing.assert_array_equal(found.scores["x7"], expected)
    assert list(found.scores) == ["x7", "x5+x6"]


def test_the_data_set_is_remembered(tmp_path: Path) -> None:
    written = _evaluation()
    evaluation = Evaluation(
        *(RECORD, written.image_id, written.scores, tmp_path / "a" / "f.h5"),
        data=tmp_path / "photos",
    )
    folder = write_results(evaluation, tmp_path / "b" / "results").parent
    assert json.loads((folder / "results.json").read_text())["data"] == "../../photos"
    found = read_results(folder).data
    assert found is not None
    assert found.resolve() == (tmp_path / "photos").resolve()
    assert read_results(write_results(written, tmp_path / "c").parent).data is None


def _changed(**changes: object) -> str:
    return json.dumps({**RECORD, "features_file": "f.h5", **changes})


BOOTSTRAP = {"resamples": 10, "reference": "x7", "level": 0.95, "seed": 0}


def _with_intervals(feature: str, bounds: object, difference: object = None) -> str:
    """Make a record with a bootstrap in which one feature has odd intervals."""
    AP = {"aeroplane": [0.1, 0.2], "boat": None, "car": [0.0, 1.0]}
    whole = {"mAP": [0.1, 0.2], "AP": AP}
    features = {
        name: {**result, "interval": whole, "difference": whole}
        for name, result in RECORD["features"].items()
    }
    features[feature]["interval"] = {"mAP": [0.1, 0.2], "AP": {**AP, "car": bounds}}
    if difference:
        features[feature]["difference"] = {"mAP": difference, "AP": AP}
    return _changed(bootstrap=BOOTSTRAP, features=features)


def test_intervals_are_read_back(tmp_path: Path) -> None:
    text = _with_intervals("x7", [0.25, 0.5])
    (tmp_path / "results.json").write_text(text)
    record = read_record(tmp_path)
    assert record["features"]["x7"]["interval"]["AP"]["car"] == [0.25, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_changed(test="../../x"), "for test; eval"),
        (_changed(classes=["a/b", "boat", "car"]), "without '/'"),
        (_changed(classes="abc"), "for classes; eval"),
        (_changed(classes=["boat", "boat", "car"]), "each class once"),
        (_changed(features={}), "for features; eval"),
        (_changed(features={"../x": {}}), "a feature '../x'"),
        (_changed(features={"x7": {"mAP": 2, "AP": {}}}), "no average precisions"),
        (_changed(features={"x7": {"mAP": 0.5, "AP": {"boat": 1}}}), "no average pr"),
        (_changed(C="1"), "for C; eval"),
        (_changed(C=float("nan")), "for C; eval"),
        (_changed(C=10**400), "for C; eval"),
        (_changed(protocol=["voc2007"]), "for protocol; eval"),
        (_changed(lists=[1]), "for lists; eval"),
        (_changed(versions={"python": "3\n"}), "the text '3.*n' in it"),
        (_changed(features_file="\ud800"), "for features_file; eval"),
        (_changed(source=None), "for source; eval"),
        (_changed(data=["photos"]), "for data; eval"),
        (_changed(data="a\0b"), "for data; eval"),
        (_changed(folds=1), "for folds; eval"),
        (_changed(folds=True), "for folds; eval"),
        (_changed(folds=2), "no spread of x7"),
        (_changed(bootstrap=[]), "for bootstrap; eval"),
        (_changed(bootstrap={"reference": "x7"}), "for bootstrap; eval"),
        (_changed(bootstrap={**BOOTSTRAP, "reference": "x9"}), "'x9' that is not"),
        (_changed(bootstrap=BOOTSTRAP), "no interval of x7"),
        (_with_intervals("x7", [0.5, 2]), "no interval of x7"),
        (_with_intervals("x7", [0.5]), "no interval of x7"),
        (_with_intervals("x7", "ab"), "no interval of x7"),
        (_with_intervals("x5+x6", [0, 1], "no"), "no difference of x5.x6"),
        ("[" * 100_000, "recursion"),
        ('{"C": ' + "9" * 5000 + "}", "limit"),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_records_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(EvaluationError, match=message) as caught:
        read_results(tmp_path)
    assert "\n" not in str(caught.value)


def test_classes_that_only_some_features_were_measured_on(tmp_path: Path) -> None:
    features = {
        "x7": {"mAP": 0.5, "AP": {"aeroplane": 0.5, "boat": None, "car": None}},
        "x6": {"mAP": 0.5, "AP": {"aeroplane": None, "boat": 0.5, "car": None}},
    }
    (tmp_path / "results.json").write_text(_changed(features=features))
    with pytest.raises(EvaluationError, match="measured on other classes"):
        read_results(tmp_path)
    none = {"mAP": 0.5, "AP": dict.fromkeys(RECORD["classes"])}
    (tmp_path / "results.json").write_text(_changed(features={"x7": none}))
    with pytest.raises(EvaluationError, match="measured on other classes, or on none"):
        read_results(tmp_path)


@pytest.mark.parametrize("text", ["a 1\na 2\n", "a nan\n", "a inf\n"])
def test_scores_that_cannot_be(tmp_path: Path, text: str) -> None:
    write_results(_evaluation(), tmp_path)
    (tmp_path / "x7" / "comp1_cls_test_car.txt").write_text(text)
    with pytest.raises(EvaluationError, match="an id twice, or a score that is no num"):
        read_results(tmp_path)


def test_results_that_have_no_end(tmp_path: Path) -> None:
    write_results(_evaluation(), tmp_path)
    for name in ("x7/comp1_cls_test_car.txt", "results.json"):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(EvaluationError, match="found a folder, a device or a pipe"):
            read_results(tmp_path)


def test_results_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="`fishing evaluate` makes them"):
        read_results(tmp_path)
    write_results(_evaluation(), tmp_path)
    scores = tmp_path / "x7" / "comp1_cls_test_car.txt"
    for text in ("a/1\n", "a/1 high\n"):
        scores.write_text(text)
        with pytest.raises(EvaluationError, match="expected lines 'id score'"):
            read_results(tmp_path)
    scores.unlink()
    with pytest.raises(EvaluationError, match="No such file"):
        read_results(tmp_path)
    for text, message in (
        ("{", "expected a record of results"),
        ("[]", "found no record"),
        ("7", "expected a record of results"),
        ('{"protocol": 1}', "found no 'train' in it"),
    ):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(EvaluationError, match=message):
            read_results(tmp_path)
