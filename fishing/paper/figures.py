"""The paper's own figures, read from paper.toml, for comparison with others."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Figures:
    """What the paper reports on one split of a data set and one net.

    Attributes
    ----------
    mean : dict of str to float
        Mean average precision in [0, 1] by feature: table 1 (left).
    by_class : dict of str to dict of str to float
        Average precision in [0, 1] by feature and class: tables 2 and 3.
    class_mean : dict of str to float
        The means that tables 2 and 3 print, by feature. One of them differs from
        `mean` by 0.1 points.
    """

    mean: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)
    class_mean: dict[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.mean or self.by_class)


@dataclass(frozen=True)
class Published:
    """A line of table 1 (right).

    Attributes
    ----------
    method : str
        As the table calls it.
    mean : dict of str to float
        Mean average precision in [0, 1] on the test set of each data set.
    net, feature : str
        What the paper's own lines stand for; empty for the methods of others.
    """

    method: str
    mean: dict[str, float]
    net: str = ""
    feature: str = ""


def paper_figures(data_set: str, split: str, net: str) -> Figures:
    """Look up the figures that the paper reports.

    Parameters
    ----------
    data_set : str
        ``VOC2007`` or ``VOC2012``.
    split : str
        The split that was ranked: ``test``, or ``val`` of VOC2012.
    net : str
        ``alexnet`` or ``vgg16``.

    Returns
    -------
    Figures
        They are empty, and false, if the paper has none.

    Examples
    --------
    >>> paper_figures("VOC2007", "test", "vgg16").mean["dW7"]
    0.9
    """
    tables = _read()
    means, by_class = (
        tables[kind].get(data_set, {}).get(split, {}).get(net, {})
        for kind in ("mean", "by_class")
    )
    return Figures(
        _shares(means),
        {f: _shares(ap) for f, ap in by_class.items()},
        {f: _share(ap["mean"]) for f, ap in by_class.items()},
    )


def paper_splits(data_set: str) -> tuple[str, ...]:
    """Name the splits of a data set that the paper has figures of, by class."""
    return tuple(_read()["by_class"].get(data_set, {}))


def published_figures() -> tuple[Published, ...]:
    """List the lines of table 1 (right)."""
    return tuple(
        Published(
            line["method"],
            {k: _share(v) for k, v in line.items() if k.startswith("VOC")},
            line.get("net", ""),
            line.get("feature", ""),
        )
        for line in _read()["published"]
    )


def paper_source() -> str:
    """Cite the paper."""
    return str(_read()["source"])


@cache
def _read() -> dict[str, Any]:
    return tomllib.loads(
        Path(__file__).with_name("paper.toml").read_text(encoding="utf-8")
    )


def _shares(percentages: dict[str, float]) -> dict[str, float]:
    return {k: _share(v) for k, v in percentages.items() if k != "mean"}


def _share(percentage: float) -> float:
    return round(percentage / 100, 6)
