from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from fishing.report.plots import (
    COLOURS,
    PrecisionRecallPlots,
    difference_plot,
    for_page,
    gram_plot,
    means_plot,
    norms_plot,
    temperature_plot,
)
from fishing.report.statistics import Grams

SVG = "{http://www.w3.org/2000/svg}"


def _plots() -> dict[str, str]:
    rng = np.random.default_rng(0)
    recall = np.linspace(0.1, 1, 10)
    K = rng.uniform(size=(12, 12)).astype(np.float32)
    curves = {"x7": (recall, 1 - recall / 2), "x6+x7": (recall, 1 - recall / 3)}
    return {
        "curves": PrecisionRecallPlots()(curves),
        "bars": difference_plot(
            {"cat & <dog>": 0.025, "cow": -0.013}, "AP, points", {}
        ),
        "whiskers": difference_plot(
            {"cat": 0.025, "cow": -0.013},
            "AP, points",
            {"cat": [0.01, 0.05], "cow": [-0.03, 0.01]},
        ),
        "means": means_plot(
            {"x7": 0.5, "dW7": 0.6}, {"x7": [0.4, 0.55], "dW7": [0.58, 0.7]}, "mAP"
        ),
        "gram": gram_plot(Grams({"cat": 0, "cow": 7}, {"product": K}), "product"),
        "tau": temperature_plot({"dW7": [(1.0, 0.5), (4.0, 0.6)]}, ("x7", 0.55)),
        "norms": norms_plot({"dW7": rng.lognormal(size=99), "dW8": np.zeros(3)}),
    }


@pytest.fixture(scope="module")
def plots() -> dict[str, str]:
    return _plots()


def _texts(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ET.fromstring(svg).iter(f"{SVG}text")]


def test_text_is_text(plots: dict[str, str]) -> None:
    found = {name: _texts(svg) for name, svg in plots.items()}
    assert {"Recall", "Precision"} <= set(found["curves"])
    assert found["bars"][-2:] == ["−1.3", "+2.5"]  # noqa: RUF001
    assert {"cat & <dog>", "cow", "AP, points"} <= set(found["bars"])
    assert {"cat", "cow"} <= set(found["gram"])
    assert {"1", "4", "dW7", "x7"} <= set(found["tau"])
    assert "Norm of the gradient" in found["norms"]


def test_equal_numbers_give_equal_bytes(plots: dict[str, str]) -> None:
    assert _plots() == plots


def test_curves_have_their_ids_and_colours(plots: dict[str, str]) -> None:
    root = ET.fromstring(plots["curves"])
    for feature in ("x7", "x6+x7"):
        group = next(e for e in root.iter() if e.get("id") == f"curve-{feature}")
        (path,) = group.iter(f"{SVG}path")
        assert f"stroke: {COLOURS[feature]}" in path.get("style", "")


def test_the_curve_starts_at_the_left_edge() -> None:
    curve = np.array([0.5, 1.0]), np.array([0.25, 0.4])
    root = ET.fromstring(PrecisionRecallPlots()({"x7": curve}))
    group = next(e for e in root.iter() if e.get("id") == "curve-x7")
    (path,) = group.iter(f"{SVG}path")
    points = np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d")), float)
    assert points.shape == (3, 2)
    assert points[0, 1] == points[1, 1] > points[2, 1]  # y points downwards
    assert points[1, 0] - points[0, 0] == pytest.approx(points[2, 0] - points[1, 0])


def test_for_page(plots: dict[str, str]) -> None:
    part = for_page(plots["curves"], "pr-1", 'class "a" & <b>')
    root = ET.fromstring(part)
    assert root.get("aria-label") == 'class "a" & <b>'
    assert part.startswith("<svg ")
    assert "metadata" not in part
    assert "stroke: var(--x7)" in part
    assert "stroke: var(--x6-x7)" in part
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(set(ids)) == len(ids) > 10
    assert all(i.startswith("pr-1-") for i in ids)
    targets = re.findall(r'(?:href="#|url\(#)([^")]+)', part)
    assert targets
    assert set(targets) <= set(ids)


def _whiskers(svg: str) -> list[tuple[float, float]]:
    """Find the ends of the whiskers, from the first line up."""
    paths = re.findall(r'<path d="M (\S+) (\S+) \nL (\S+) \2 \n" clip-path', svg)
    return [(float(left), float(right)) for left, _, right in paths]


def _bars(svg: str) -> list[tuple[float, float]]:
    found = re.findall(r'<path d="M (\S+) \S+ \nL (\S+) \S+ \nL \2', svg)
    return [(float(base), float(end)) for base, end in found]


def test_whiskers_reach_from_bound_to_bound(plots: dict[str, str]) -> None:
    (zero, cow), (_, cat) = _bars(plots["whiskers"])[-2:]
    scale = (cat - zero) / 0.025
    assert (cow - zero) / scale == pytest.approx(-0.013, abs=1e-4)
    bounds = [(x - zero) / scale for pair in _whiskers(plots["whiskers"]) for x in pair]
    assert bounds == pytest.approx([-0.03, 0.01, 0.01, 0.05], abs=1e-4)
    assert not _whiskers(plots["bars"])
    # The value stands beside the name, where no whisker crosses it.
    assert {"cat +2.5", "cow −1.3"} <= {  # noqa: RUF001
        " ".join(text.split()) for text in _texts(plots["whiskers"])
    }


def test_means_have_whiskers(plots: dict[str, str]) -> None:
    assert {"x7", "dW7", "mAP"} <= set(_texts(plots["means"]))
    x7, dW7 = _whiskers(plots["means"])
    assert x7[1] < dW7[0]  # the intervals do not meet
    assert (dW7[1] - dW7[0]) / (x7[1] - x7[0]) == pytest.approx(0.12 / 0.15, abs=1e-3)
    for feature in ("x7", "dW7"):
        assert COLOURS[feature] in plots["means"]


def test_norms_that_are_all_zero() -> None:
    assert "Images" in norms_plot({"dW7": np.zeros(3)})
