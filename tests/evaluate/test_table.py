from __future__ import annotations

from typing import Any

import pytest

from fishing.errors import EvaluationError
from fishing.evaluate import by_temperature, format_table

RECORD = {
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
    assert len(format_table(RECORD, width=3).split("\n\n")) == 4  # a column a block


def test_equal_values_are_all_the_best() -> None:
    results = {f: {"mAP": 0.5, "AP": {"boat": 0.5}} for f in ("x6", "x7")}
    table = format_table({"classes": ["boat"], "features": results})
    assert table.count("*") == 4


def test_rows_of_several_temperatures() -> None:
    def record(tau: float, **changes: Any) -> dict[str, Any]:
        rows = {"x7": 0.5, "dW7": tau / 10, "dW6+dW7": tau / 20}
        features = {k: {"mAP": v, "AP": {"car": v}} for k, v in rows.items()}
        source = {"net": "tiny", "temperature": tau, **changes}
        shared = {"classes": ["car"], "lists": {}}
        return {**shared, "source": source, "features": features}

    found = by_temperature([record(2.0), record(8.0), record(0.5)])["features"]
    assert {name: row["mAP"] for name, row in found.items()} == {
        "x7": 0.5,
        "dW7 tau=0.5": 0.05,
        "dW7 tau=2": 0.2,
        "dW7 tau=8": 0.8,
        "dW6+dW7 tau=0.5": 0.025,
        "dW6+dW7 tau=2": 0.1,
        "dW6+dW7 tau=8": 0.4,
    }
    with pytest.raises(EvaluationError, match="temperatures of 2 2; evaluate"):
        by_temperature([record(2.0), record(2.0)])
    with pytest.raises(EvaluationError, match="2 4 and another net; evaluate"):
        by_temperature([record(2.0), record(4.0, net="other")])
    for key, value in (("classes", ["bus"]), ("lists", {"test": "0"})):
        with pytest.raises(EvaluationError, match=f"2 4 and another {key}; evaluate"):
            by_temperature([record(2.0), {**record(4.0), key: value}])
