from __future__ import annotations

from typing import Any

from fishing.kernels import FEATURES
from fishing.paper import figures as paper
from fishing.paper import is_in_paper, paper_figures

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)


def check_figures(data: dict[str, Any]) -> None:
    """Check that figures are of nets, features and classes that the paper has."""
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
