from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fishing.kernels import FEATURES
from fishing.paper import figures as paper
from fishing.paper import paper_figures, paper_splits, published_figures

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
NETS = ("alexnet", "vgg16")
TABLE_1 = (("VOC2007", "test"), ("VOC2012", "val"))
BY_CLASS = (*TABLE_1, ("VOC2012", "test"))


def test_every_figure_of_the_tables(shared: Path) -> None:
    """Compare each figure with an independent transcript of the paper's tables."""
    text = (shared / "paper" / "tables.toml").read_text()
    tables = tomllib.loads(text)
    n_means = n_classes = 0
    for data_set, split in TABLE_1:
        for net in NETS:
            expected = tables["table1"][data_set][net]
            found = paper_figures(data_set, split, net).mean
            assert list(found) == list(FEATURES) == list(expected)
            assert {f: round(100 * v, 4) for f, v in found.items()} == expected
            n_means += len(found)
    for data_set, split in BY_CLASS:
        table = "table2" if data_set == "VOC2007" else "table3"
        for net in NETS:
            figures = paper_figures(data_set, split, net)
            assert list(figures.by_class) == list(figures.class_mean) == ["x7", "dW7"]
            for feature, by_class in figures.by_class.items():
                expected = tables[table][data_set][split][net][feature]
                assert tuple(by_class) == CLASSES
                found = {"mean": figures.class_mean[feature], **by_class}
                assert {k: round(100 * v, 4) for k, v in found.items()} == expected
                n_classes += len(by_class)
    assert (n_means, n_classes) == (44, 240)
    expected = tables["table1_others"]
    found = {
        line.method: {k: round(100 * v, 4) for k, v in line.mean.items()}
        for line in published_figures()
    }
    assert found == expected


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("data_set", "split"), BY_CLASS)
def test_means_are_those_of_the_classes(data_set: str, split: str, net: str) -> None:
    figures = paper_figures(data_set, split, net)
    for feature, by_class in figures.by_class.items():
        # Classes are rounded to 0.1, so their mean is off by 0.05 at most, and the
        # printed mean is rounded once more.
        mean = sum(by_class.values()) / len(CLASSES)
        assert figures.class_mean[feature] == pytest.approx(mean, abs=0.001)
        rounded = round(100 * figures.class_mean[feature], 1)
        assert abs(rounded - 100 * mean) <= 0.06


@pytest.mark.parametrize(
    ("data_set", "split", "net", "expected"),
    [
        ("VOC2007", "test", "alexnet", 18),
        ("VOC2012", "val", "alexnet", 20),
        ("VOC2012", "test", "alexnet", 20),
        ("VOC2007", "test", "vgg16", 17),
        ("VOC2012", "val", "vgg16", 17),
    ],
)
def test_dw7_is_ahead_on_as_many_classes_as_the_paper_says(
    data_set: str, split: str, net: str, expected: int
) -> None:
    by_class = paper_figures(data_set, split, net).by_class
    ahead = [c for c in CLASSES if by_class["dW7"][c] > by_class["x7"][c]]
    assert len(ahead) == expected


def test_tables_2_and_3_print_the_means_of_table_1_but_one() -> None:
    differing = {
        (data_set, net, feature)
        for data_set, split in TABLE_1
        for net in NETS
        for feature, mean in paper_figures(data_set, split, net).class_mean.items()
        if mean != paper_figures(data_set, split, net).mean[feature]
    }
    assert differing == {("VOC2007", "vgg16", "x7")}
    figures = paper_figures("VOC2007", "test", "vgg16")
    assert (figures.mean["x7"], figures.class_mean["x7"]) == (0.894, 0.893)


def test_the_papers_own_lines_among_the_published() -> None:
    own = {line.method: line for line in published_figures() if line.net}
    assert set(own) == {"Proposed, AlexNet", "Proposed, VGG16"}
    for line in own.values():
        for data_set, mean in line.mean.items():
            figures = paper_figures(data_set, "test", line.net)
            assert figures.class_mean[line.feature] == mean


def test_what_the_paper_does_not_have() -> None:
    for data_set, split, net in (
        ("VOC2007", "test", "tinyalexnet"),
        ("VOC2007", "val", "alexnet"),
        ("caltech20", "test", "alexnet"),
    ):
        assert not paper_figures(data_set, split, net)
        assert paper_figures(data_set, split, net) == paper.Figures()
    assert paper_splits("VOC2012") == ("val", "test")
    assert paper_splits("VOC2010") == ()
