"""The plots of a report, as SVG files made by Matplotlib.

Their text stays text, and they hold no clock time. `for_page` gives them the colours of
the page around them, light or dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.report.statistics import Curve, Grams
from fishing.side_effects import no_configuration

with no_configuration():
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE = "#1b1e23", "#6a717b", "#d9dce1"

#: Activations are blue, their sums green, gradients red; from the logits down.
COLOURS = {
    **{"x8": "#9a86cf", "y8": "#5b5fc0"},
    **{"x7": "#2368a8", "x6": "#4a94d0", "x5": "#7cb5e0", "x4": "#a3cbe8"},
    **{"x7+y8": "#2f7f73", "x6+x7": "#4f9e68", "x5+x6": "#86bf7f", "x4+x5": "#a9c98a"},
    **{"dW8": "#a83a6b", "dW7": "#d4512b", "dW6": "#eda33b", "dW5": "#d9bd4c"},
}
_WIDTH = 4.9  # inches; about that of a phone, at 72 pixels an inch
_OTHER = "#857b70"  # other features

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text is set in the page's own font
    "svg.hashsalt": "fishing",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10.5,
    "axes.titlecolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "figure.constrained_layout.use": True,
    "path.simplify_threshold": 0.3,
    "legend.frameon": False,
    "legend.handlelength": 1.5,
    "legend.columnspacing": 1.5,
}
_LEGEND: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1)}


def colour(feature: str) -> str:
    """Choose the colour of a feature."""
    return COLOURS.get(feature, _OTHER)


class PrecisionRecallPlots:
    """Draws the curves of one class after another.

    All plots share their axes, since laying these out takes most of the time.
    """

    def __init__(self) -> None:
        with mpl.rc_context(_STYLE):
            self._figure, self._ax = _figure(_WIDTH, 3.6)
            self._ax.set(xlim=(0, 1.005), ylim=(0, 1.02))
            self._ax.set(xlabel="Recall", ylabel="Precision")
            self._ax.grid(True)
            self._figure.draw_without_rendering()
            self._figure.set_layout_engine("none")

    def __call__(self, curves: Mapping[str, Curve]) -> str:
        """Draw the curves of one class, with ids ``curve-<feature>``."""
        for line in list(self._ax.lines):
            line.remove()
        with mpl.rc_context(_STYLE):
            for feature, (recall, precision) in curves.items():
                # It starts at the left edge, with the precision at its first image.
                (line,) = self._ax.plot(
                    np.concatenate([[0.0], recall]),
                    np.concatenate([precision[:1], precision]),
                    color=colour(feature),
                    linewidth=1.7,
                    solid_joinstyle="round",
                    scalex=False,
                    scaley=False,
                )
                line.set_gid(f"curve-{feature}")
            return _svg(self._figure)


def difference_plot(
    differences: Mapping[str, float],
    label: str,
    intervals: Mapping[str, Sequence[float]],
) -> str:
    """Draw differences by class as bars, in percentage points, the largest on top.

    Where there is an interval, it is drawn as a whisker.
    """
    ordered = sorted(differences.items(), key=lambda item: item[1])
    values = np.array([100 * value for _, value in ordered])
    with mpl.rc_context(_STYLE):
        figure, ax = _figure(_WIDTH, 0.8 + 0.22 * len(values))
        bars = ax.barh(
            range(len(values)),
            values,
            height=0.68,
            color=[COLOURS["dW7"] if v >= 0 else COLOURS["x7"] for v in values],
        )
        texts = [f"{v:+.1f}".replace("-", "−") for v in values]  # noqa: RUF001
        if intervals:
            _whiskers(ax, [intervals[name] for name, _ in ordered])
            ax.set_yticks(
                range(len(values)),
                [
                    f"{_short(name)}  {text}"
                    for (name, _), text in zip(ordered, texts, strict=True)
                ],
            )
        else:
            ax.bar_label(bars, texts, padding=3, fontsize=9)
            ax.set_yticks(range(len(values)), [_short(name) for name, _ in ordered])
        ax.axvline(0, color=MUTED, linewidth=0.8)
        ax.margins(x=0.14, y=0.015)
        ax.set_xlabel(label)
        ax.grid(True, axis="x")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        return _svg(figure)


def means_plot(
    means: Mapping[str, float], intervals: Mapping[str, Sequence[float]], label: str
) -> str:
    """Draw the mean of each feature as a dot, with its interval, the first on top."""
    values = 100 * np.array(list(means.values()))
    with mpl.rc_context(_STYLE):
        figure, ax = _figure(_WIDTH, 0.8 + 0.25 * len(values))
        colours = [colour(feature) for feature in means]
        ax.scatter(values, range(len(values)), color=colours, s=34, zorder=3)
        _whiskers(ax, [intervals[feature] for feature in means])
        ax.set_yticks(range(len(values)), list(means))
        ax.invert_yaxis()
        ax.set_xlabel(label)
        ax.grid(True, axis="x")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        return _svg(figure)


def gram_plot(grams: Grams, part: str) -> str:
    """Draw one Gram matrix, its images sorted by class."""
    K = grams.parts[part]
    # The diagonal is 1 by construction and would hide the rest.
    low, high = np.quantile(K[~np.eye(len(K), dtype=bool)], (0.01, 0.995))
    edges = [*grams.start.values(), len(K)]
    with mpl.rc_context(_STYLE):
        figure, ax = _figure(3.7, 3.4)
        image = ax.imshow(K, cmap="cividis", vmin=low, vmax=high, interpolation="none")
        middles = [(a + b - 1) / 2 for a, b in pairwise(edges)]
        ax.set_yticks(middles, [_short(name, 14) for name in grams.start])
        ax.set_xticks([])
        size = min(9.0, 170 / max(1, len(middles)))
        ax.tick_params(axis="y", length=0, labelsize=size)
        for spine in ax.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(
            image, ax=ax, location="bottom", fraction=0.04, pad=0.02, aspect=40
        )
        bar.outline.set_visible(False)  # type: ignore[operator,unused-ignore]
        bar.ax.tick_params(labelsize=8)
        return _svg(figure)


def temperature_plot(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    level: tuple[str, float] | None,
) -> str:
    """Draw mAP over tau by feature, and the level of one that has no temperature."""
    taus = sorted({tau for points in curves.values() for tau, _ in points})
    with mpl.rc_context(_STYLE):
        figure, ax = _figure(_WIDTH, 3.3)
        for feature, points in curves.items():
            x, y = zip(*points, strict=True)
            ax.plot(
                x,
                100 * np.array(y),
                marker="o",
                markersize=4,
                color=colour(feature),
                linewidth=1.7,
                label=feature,
            )
        if level is not None:
            name, value = level
            ax.axhline(
                100 * value,
                color=colour(name),
                linewidth=1.4,
                linestyle=(0, (4, 3)),
                label=name,
            )
        ax.set_xscale("log", base=2)
        ax.set_xticks(taus, [f"{tau:g}" for tau in taus])
        ax.minorticks_off()
        ax.set(xlabel="Temperature τ", ylabel="mAP, per cent")
        ax.grid(True)
        ax.legend(ncols=4, **_LEGEND)
        return _svg(figure)


def norms_plot(norms: Mapping[str, NDArray[np.float64]]) -> str:
    """Draw the distributions of norms on a logarithmic axis, without zeros."""
    positive = {name: values[values > 0] for name, values in norms.items()}
    everything = np.concatenate(list(positive.values()))
    low, high = (everything.min(), everything.max()) if everything.size else (1, 1)
    bins = np.geomspace(low, high * (1 + 1e-9), 49)
    with mpl.rc_context(_STYLE):
        figure, ax = _figure(_WIDTH, 3.3)
        for name, values in positive.items():
            ax.hist(
                values,
                bins=bins.tolist(),
                histtype="stepfilled",
                color=colour(name) + "40",
                edgecolor=colour(name),
                linewidth=1.4,
                label=name,
            )
        ax.set_xscale("log")
        ax.set(xlabel="Norm of the gradient", ylabel="Images")
        ax.grid(True, axis="y")
        ax.legend(ncols=3, **_LEGEND)
        return _svg(figure)


def for_page(svg: str, name: str, title: str) -> str:
    """Make a plot part of a page, with the title for readers who do not see it.

    Each id gets the plot's name as its prefix, so that no two plots share one. Colours
    become variables of the page, such as ``var(--ink)`` or ``var(--dW7)``.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    variables = {INK: "ink", MUTED: "muted", RULE: "rule", _OTHER: "other"}
    variables |= {hex_: f.replace("+", "-") for f, hex_ in COLOURS.items()}
    for hex_, variable in variables.items():
        svg = svg.replace(hex_, f"var(--{variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def _whiskers(ax: Axes, intervals: Sequence[Sequence[float]]) -> None:
    """Draw an interval on each line, from the first line up."""
    low, high = 100 * np.array(intervals).T
    lines = range(len(low))
    ax.hlines(lines, low, high, color=INK, linewidth=1.0, zorder=4)
    for ends in (low, high):
        ax.scatter(ends, lines, marker="|", color=INK, s=22, linewidth=1.0, zorder=4)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    ax = figure.add_subplot()
    ax.set_axisbelow(True)
    return figure, ax


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
