"""The paper's tables, with our figures, the paper's, and the difference.

In go records of evaluations, out come tables as text, Markdown, LaTeX and JSON.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from fishing.kernel import FEATURES
from fishing.paper import Figures, is_in_paper, paper_figures, paper_source

#: The features of the tables by class: the best activation, and the best gradient.
BY_CLASS = ("x7", "dW7")

#: File suffix to the format's name in tabulate.
FORMATS = {"txt": "simple", "md": "github", "tex": "latex_booktabs"}

_TITLES = {"VOC2007": "Table 2", "VOC2012": "Table 3"}


@dataclass(frozen=True)
class Result:
    """One evaluation.

    Attributes
    ----------
    data_set : str
        Such as ``VOC2007``.
    net : str
    record : dict
        As in `fishing.evaluate.Evaluation.record`.
    """

    data_set: str
    net: str
    record: dict[str, Any]


def compare(results: Sequence[Result]) -> dict[str, Any]:
    """Put the paper's figures beside ours.

    Returns
    -------
    dict
        ``paper``: its citation; ``results``: by data set and net a dict with
        ``protocol``, ``train``, ``test``, ``C`` and ``features``, where each feature
        has ``mAP`` and, by class, ``AP``: dicts with ``ours``, ``paper`` and
        ``difference`` in [0, 1], None where there is none.
    """
    found: dict[str, Any] = {}
    for result in results:
        record, paper = result.record, paper_figures(result.data_set, result.net)
        found.setdefault(result.data_set, {})[result.net] = {
            **{key: record[key] for key in ("protocol", "train", "test", "C")},
            "features": {
                feature: _compare_feature(feature, measured, paper)
                for feature, measured in record["features"].items()
            },
        }
    return {"paper": paper_source(), "results": found}


def format_tables(comparison: dict[str, Any], suffix: str) -> str:
    """Lay out table 1 (left), and a table by class for each data set, in per cent.

    Parameters
    ----------
    comparison : dict
        As `compare` makes it.
    suffix : str
        ``txt``, ``md`` or ``tex``.

    Returns
    -------
    str
        With a line end at its end.
    """
    means = [
        _Column(
            f"{data_set} {net}",
            {f: measured["mAP"] for f, measured in result["features"].items()},
            is_in_paper(data_set, net),
        )
        for data_set, nets in comparison["results"].items()
        for net, result in nets.items()
    ]
    rows = [f for f in FEATURES if any(f in column.values for column in means)]
    title = "Table 1 (left): mean average precision"
    parts = [_layout(title, "feature", rows, means, suffix)]
    for data_set, nets in comparison["results"].items():
        columns = [
            _Column(
                f"{net} {feature}",
                {"mean": measured["mAP"], **measured["AP"]},
                is_in_paper(data_set, net),
            )
            for net, result in nets.items()
            for feature, measured in result["features"].items()
            if feature in BY_CLASS
        ]
        how = next(iter(nets.values()))
        title = (
            f"{_TITLES.get(data_set, 'By class')}: average precision on {data_set}, "
            f"{how['train']} to {how['test']}"
        )
        parts.append(_layout(title, "class", list(columns[0].values), columns, suffix))
    note = "Average precision in per cent."
    if any(column.in_paper for column in means):
        note += (
            " Beside each figure the paper's and the difference; a dash where the "
            f"paper's is not on record here. Paper: {comparison['paper']}."
        )
    parts.append(f"% {note}" if suffix == "tex" else note)
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class _Column:
    """What a table says of one net: its heading, and values by row."""

    heading: str
    values: dict[str, dict[str, float | None]]
    in_paper: bool


def _compare_feature(
    feature: str, measured: dict[str, Any], paper: Figures
) -> dict[str, Any]:
    by_class = paper.by_class.get(feature, {})
    return {
        "mAP": _beside(measured["mAP"], paper.mean.get(feature)),
        "AP": {
            name: _beside(value, by_class.get(name))
            for name, value in measured["AP"].items()
        },
    }


def _beside(ours: float | None, paper: float | None) -> dict[str, float | None]:
    difference = None if ours is None or paper is None else ours - paper
    return {"ours": ours, "paper": paper, "difference": difference}


def _layout(
    title: str,
    corner: str,
    rows: Sequence[str],
    columns: Sequence[_Column],
    suffix: str,
) -> str:
    """Write one table."""
    headers, cells = [corner], [[row] for row in rows]
    for column in columns:
        keys = ("ours", "paper", "difference")[: 3 if column.in_paper else 1]
        heading = column.heading
        # On a terminal a narrow column matters more than a heading in one line.
        headers.append(heading.replace(" ", "\n") if suffix == "txt" else heading)
        headers += ["paper", "+/-"][: len(keys) - 1]
        for row, line in zip(rows, cells, strict=True):
            values = column.values.get(row, {})
            line += [_percent(key, values.get(key)) for key in keys]
    table = tabulate(
        cells,
        headers,
        tablefmt=FORMATS[suffix],
        disable_numparse=True,
        colalign=["left"] + ["right"] * (len(headers) - 1),
    )
    if suffix == "tex":
        caption = re.sub(r"([_&%#$])", r"\\\1", title)
        return (
            f"\\begin{{table}}\n\\centering\n\\caption{{{caption}.}}\n"
            f"{table}\n\\end{{table}}"
        )
    return f"**{title}**\n\n{table}" if suffix == "md" else f"{title}\n\n{table}"


def _percent(key: str, value: float | None) -> str:
    sign = "+" if key == "difference" else ""
    return "-" if value is None else f"{100 * value:{sign}.1f}"
