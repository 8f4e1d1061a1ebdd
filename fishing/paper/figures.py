"""The paper's own figures, from paper.toml, for those of others to stand beside.

In go the names of a data set and a net, out come precisions in [0, 1] by feature.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fishing.kernels import FEATURES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The classes of PASCAL VOC, in the order of the paper's tables.
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)


@dataclass(frozen=True)
class Figures:
    """What the paper says of one data set and one net.

    Attributes
    ----------
    mean : dict of str to float
        Mean average precision in [0, 1] by feature; only the features that are known.
    by_class : dict of str to dict of str to float
        Average precision in [0, 1] by feature and class.
    """

    mean: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)


def is_in_paper(data_set: str, net: str) -> bool:
    """Tell whether the paper reports on a data set and a net, known here or not."""
    return data_set in ("VOC2007", "VOC2012") and net in ("alexnet", "vgg16")


def paper_figures(data_set: str, net: str) -> Figures:
    """Look up what the paper says.

    Parameters
    ----------
    data_set : str
        Such as ``VOC2007``.
    net : str
        Such as ``vgg16``.

    Returns
    -------
    Figures
        Without any entry, where the paper says nothing of these.

    Examples
    --------
    >>> paper_figures("VOC2007", "vgg16").mean["dW7"]
    0.9
    """
    found = _read().get(data_set, {}).get(net, {})
    return Figures(
        _shares(found.get("mAP", {})),
        {feature: _shares(ap) for feature, ap in found.get("AP", {}).items()},
    )


def paper_source() -> str:
    """Cite the paper."""
    return str(_read()["source"])


def paper_gaps() -> dict[str, int]:
    """Count the figures that paper.toml lacks, by table.

    Returns
    -------
    dict of str to int
        For the means of table 1 (left) over two years, two nets and eleven features,
        and for the x7 and dW7 of tables 2 and 3 over two nets and twenty classes.
    """
    gaps = {"table 1 (left)": 0, "table 2": 0, "table 3": 0}
    for year, table in (("VOC2007", "table 2"), ("VOC2012", "table 3")):
        for net in ("alexnet", "vgg16"):
            figures = paper_figures(year, net)
            gaps["table 1 (left)"] += len(set(FEATURES) - set(figures.mean))
            for feature in ("x7", "dW7"):
                gaps[table] += len(
                    set(CLASSES) - set(figures.by_class.get(feature, {}))
                )
    return gaps


@cache
def _read() -> dict[str, Any]:
    return tomllib.loads(
        Path(__file__).with_name("paper.toml").read_text(encoding="utf-8")
    )


def _shares(percentages: dict[str, float]) -> dict[str, float]:
    return {name: round(value / 100, 6) for name, value in percentages.items()}
