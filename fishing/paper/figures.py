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
    """What the paper reports on one data set and one net.

    Attributes
    ----------
    mean : dict of str to float
        Mean average precision in [0, 1] by feature; only what is on record here.
    by_class : dict of str to dict of str to float
        Average precision in [0, 1] by feature and class.
    """

    mean: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)


def is_in_paper(data_set: str, net: str) -> bool:
    """Tell whether the paper reports on a data set and a net, on record here or not."""
    return data_set in ("VOC2007", "VOC2012") and net in ("alexnet", "vgg16")


def paper_figures(data_set: str, net: str) -> Figures:
    """Look up the figures that the paper reports.

    Parameters
    ----------
    data_set : str
        Such as ``VOC2007``.
    net : str
        Such as ``vgg16``.

    Returns
    -------
    Figures
        They are empty if nothing is on record.

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


@cache
def _read() -> dict[str, Any]:
    return tomllib.loads(
        Path(__file__).with_name("paper.toml").read_text(encoding="utf-8")
    )


def _shares(percentages: dict[str, float]) -> dict[str, float]:
    return {name: round(value / 100, 6) for name, value in percentages.items()}
