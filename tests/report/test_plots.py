from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from fishing.report.plots import (
    COLOURS,
    difference_plot,
    for_page,
    gram_plot,
    norms_plot,
    precision_recall_plot,
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
        "curves": precision_recall_plot(curves),
        "bars": difference_plot({"cat & <dog>": 0.025, "cow": -0.013}, "AP, points"),
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
    root = ET.fromstring(precision_recall_plot({"x7": curve}))
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


def test_norms_that_are_all_zero() -> None:
    assert "Images" in norms_plot({"dW7": np.zeros(3)})
