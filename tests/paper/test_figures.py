from __future__ import annotations

from typing import Any

import pytest

from fishing.kernels import FEATURES
from fishing.paper import figures as paper
from fishing.paper import is_in_paper, paper_figures, paper_source
from fishing.paper.figures import CLASSES, paper_gaps


def test_figures_on_record() -> None:
    assert paper_figures("VOC2007", "alexnet").mean == {"x7": 0.794, "dW7": 0.809}
    assert paper_figures("VOC2007", "vgg16").mean == {"x7": 0.894, "dW7": 0.9}
    assert "1507.06429" in paper_source()


def check_figures(data: dict[str, Any]) -> None:
    """Hold figures to be of what the paper has, by the names that it is known by."""
    for year, nets in data.items():
        for net, tables in nets.items():
            assert is_in_paper(year, net)
            assert set(tables) <= {"mAP", "AP"}
            columns = [tables.get("mAP", {})]
            for feature, by_class in tables.get("AP", {}).items():
                assert feature in FEATURES
                assert set(by_class) <= set(CLASSES)
                columns.append(by_class)
            assert set(columns[0]) <= set(FEATURES)
            assert all(0 <= v <= 100 for column in columns for v in column.values())


def test_the_data_file_holds_nothing_else() -> None:
    check_figures({k: v for k, v in paper._read().items() if k != "source"})


def test_what_the_paper_does_not_have() -> None:
    for data_set, net in (("VOC2007", "tinyalexnet"), ("caltech20", "alexnet")):
        assert not is_in_paper(data_set, net)
        assert paper_figures(data_set, net) == paper.Figures()


def test_gaps_follow_the_data_file(monkeypatch: pytest.MonkeyPatch) -> None:
    all_of_it = {"table 1 (left)": 2 * 2 * 11, "table 2": 2 * 2 * 20}
    all_of_it["table 3"] = all_of_it["table 2"]
    monkeypatch.setattr(paper, "_read", dict)
    assert paper_gaps() == all_of_it
    by_class = {"x7": dict.fromkeys(CLASSES[:19], 50.0)}
    entered = {"vgg16": {"mAP": {"x7": 1.0}, "AP": by_class}}
    monkeypatch.setattr(paper, "_read", lambda: {"VOC2012": entered})
    expected = {**all_of_it, "table 1 (left)": 43, "table 3": 61}
    assert paper_gaps() == expected
