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


def _ranged(**changes: Any) -> dict[str, Any]:
    """Make a record of two folds and a bootstrap."""
    bounds = {"mAP": [0.75, 0.85], "AP": {"aeroplane": [0.1, 0.2], "boat": None}}
    over = {
        "mAP": [-0.001, 0.0149],
        "AP": {"aeroplane": [-0.5, -0.1], "boat": None, "car": [0.1, 0.4]},
    }
    features = {f: {**result} for f, result in RECORD["features"].items()}
    for result in features.values():
        result |= {"spread": {"mAP": 0.021, "AP": {}}, "interval": bounds}
    features["x5+x6"]["difference"] = over
    bootstrap = {"resamples": 9, "reference": "x7", "level": 0.95, "seed": 0}
    return {**RECORD, "features": features, "bootstrap": bootstrap, **changes}


def test_spread_and_intervals_stand_below() -> None:
    first, below = format_table(_ranged(folds=2)).split("\n\n")
    assert _stripped(first) == TABLE.splitlines()
    assert _stripped(below) == [
        "        mAP  +/-          95 %  - x7          95 %  above  below",
        "x7     79.4  2.1  [75.0, 85.0]",
        "x5+x6  80.0  2.1  [75.0, 85.0]  +0.6  [-0.1, +1.5]      1      1",
    ]
    _, below = format_table(_ranged()).split("\n\n")
    headings = "mAP  95 %  - x7  95 %  above  below"
    assert "  ".join(below.splitlines()[0].split()) == "  ".join(headings.split())
    bare = {k: v for k, v in _ranged(folds=2).items() if k != "bootstrap"}
    _, below = format_table(bare).split("\n\n")
    assert _stripped(below)[0] == "        mAP  +/-"


def test_intervals_at_several_temperatures() -> None:
    """A gradient as the reference has no row, so only levels have intervals."""
    record = _ranged()
    record["bootstrap"] = {**record["bootstrap"], "reference": "dW7"}
    _, below = format_table(record).split("\n\n")
    assert _stripped(below) == [
        "        mAP          95 %",
        "x7     79.4  [75.0, 85.0]",
        "x5+x6  80.0  [75.0, 85.0]",
    ]


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
