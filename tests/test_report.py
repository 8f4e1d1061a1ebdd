from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fishing.errors import EvaluationError
from fishing.evaluate import Evaluation
from fishing.report import format_table, write_results

RECORD = {
    "test": "test",
    "classes": ["aeroplane", "boat", "car"],
    "features": {
        "x7": {"mAP": 0.794, "AP": {"aeroplane": 0.954, "boat": None, "car": 0.634}},
        "x5+x6": {"mAP": 0.8, "AP": {"aeroplane": 0.5, "boat": None, "car": 1.0}},
    },
}
TABLE = """\
         mAP  aeropl    boat     car
x7      79.4    95.4*      -    63.4
x5+x6   80.0*   50.0       -   100.0*"""


def _stripped(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_table() -> None:
    assert _stripped(format_table(RECORD)) == TABLE.splitlines()


def test_narrow_table() -> None:
    blocks = format_table(RECORD, width=22).split("\n\n")
    assert [_stripped(b)[0].split() for b in blocks] == [
        ["mAP", "aeropl"],
        ["boat", "car"],
    ]
    assert max(len(line) for b in blocks for line in b.splitlines()) <= 22


def test_equal_values_are_all_the_best() -> None:
    results = {f: {"mAP": 0.5, "AP": {"boat": 0.5}} for f in ("x6", "x7")}
    table = format_table({"classes": ["boat"], "features": results})
    assert table.count("*") == 4


def _evaluation() -> Evaluation:
    scores = np.array([[0.25, np.nan, -1.5], [-np.inf, np.nan, 1e-7]])
    return Evaluation(RECORD, ("a/1", "b"), {"x7": scores, "x5+x6": scores})


def test_results(tmp_path: Path) -> None:
    path = write_results(_evaluation(), tmp_path / "results")
    assert path == tmp_path / "results" / "results.json"
    assert json.loads(path.read_text()) == RECORD
    assert _stripped((path.parent / "table.txt").read_text()) == TABLE.splitlines()
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
