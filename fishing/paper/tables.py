"""The paper's tables with our figures, the paper's, and the difference.

The tables are laid out as text, Markdown and LaTeX.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from fishing.kernels import available_features, feature_blobs, main_feature
from fishing.paper.figures import Figures, is_in_paper, paper_figures, paper_source

#: Suffixes of the files that tables are written to.
FORMATS = ("txt", "md", "tex")

_TITLES = {"VOC2007": "Table 2", "VOC2012": "Table 3"}

_TEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        # After the end of a row a bracket would be an option.
        "[": "{[}",
    }
)


@dataclass(frozen=True)
class Result:
    """One evaluation of a net on a data set.

    Attributes
    ----------
    data_set : str
        Such as ``VOC2007``.
    net : str
    record : dict
        The record of `fishing.evaluate.Evaluation`.
    """

    data_set: str
    net: str
    record: dict[str, Any]


def compare(results: Sequence[Result]) -> dict[str, Any]:
    """Put the paper's figures beside ours.

    Parameters
    ----------
    results : sequence of Result

    Returns
    -------
    dict
        ``paper``, its citation, and ``results``: by data set and net, a dict with
        ``protocol``, ``train``, ``test``, ``C`` and ``features``. Each feature has
        ``mAP`` and, by class, ``AP``: dicts with ``ours``, ``paper`` and
        ``difference``, in [0, 1] or None.
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
        As `compare` returns it.
    suffix : str
        ``txt``, ``md`` or ``tex``.

    Returns
    -------
    str
        The tables, with a newline at their end.
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
    rows = _in_order(dict.fromkeys(f for column in means for f in column.values))
    title = ("Table 1 (left)", "mean average precision")
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
            if feature in by_class_features(result["features"])
        ]
        how = next(iter(nets.values()))
        title = (
            _TITLES.get(data_set, "By class"),
            f"average precision on {data_set}, {how['train']} to {how['test']}",
        )
        parts.append(_layout(title, "class", list(columns[0].values), columns, suffix))
    note = "Average precision in per cent."
    if any(column.in_paper for column in means):
        note += (
            " The paper's figure and the difference stand beside each; a dash marks "
            f"a figure that is not on record here. Paper: {comparison['paper']}."
        )
    if suffix == "tex":
        parts.insert(0, r"% \usepackage{booktabs,graphicx}")
        note = f"% {note}"
    return "\n\n".join([*parts, note]) + "\n"


def by_class_features(features: Iterable[str]) -> tuple[str, ...]:
    """Choose the features of the tables by class: x7 and, as in the paper, dW7.

    The latter stands for the deepest gradient but one that the features have.
    """
    return "x7", main_feature(set().union(*map(feature_blobs, features)))


def _in_order(features: Iterable[str]) -> list[str]:
    """Sort features as table 1 does; those that it lacks come last, in their order."""
    everything = available_features(set().union(*map(feature_blobs, features)))
    return sorted(
        features,
        key=lambda f: everything.index(f) if f in everything else len(everything),
    )


@dataclass(frozen=True)
class _Column:
    """The heading of a net's column, and its values by row."""

    heading: str
    values: dict[str, dict[str, float | None]]
    in_paper: bool

    @property
    def keys(self) -> Sequence[str]:
        """Name the parts of each value that are shown."""
        return ("ours", "paper", "difference")[: 3 if self.in_paper else 1]


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
    title: tuple[str, str],
    corner: str,
    rows: Sequence[str],
    columns: Sequence[_Column],
    suffix: str,
) -> str:
    """Lay out one table; the first part of its title is the paper's name for it."""
    # In Markdown, the stars of two products would set what is between them in italics.
    cells = [[row.replace("*", r"\*") if suffix == "md" else row] for row in rows]
    for column in columns:
        for row, line in zip(rows, cells, strict=True):
            values = column.values.get(row, {})
            line += [_percent(key, values.get(key)) for key in column.keys]
    if suffix == "tex":
        return _latex(title, corner, cells, columns)
    headers = [corner]
    for column in columns:
        heading = column.heading
        # On a terminal a narrow column matters more than a heading in one line.
        headers.append(heading.replace(" ", "\n") if suffix == "txt" else heading)
        headers += ["paper", "+/-"][: len(column.keys) - 1]
    table = tabulate(
        cells,
        headers,
        tablefmt="simple" if suffix == "txt" else "github",
        disable_numparse=True,
        colalign=["left"] + ["right"] * (len(headers) - 1),
    )
    heading = ": ".join(title)
    return f"**{heading}**\n\n{table}" if suffix == "md" else f"{heading}\n\n{table}"


def _latex(
    title: tuple[str, str],
    corner: str,
    cells: Sequence[Sequence[str]],
    columns: Sequence[_Column],
) -> str:
    """Write one table with booktabs, no wider than the text."""
    top, second, rules, n = [""], [corner], "", 2
    for column in columns:
        width = len(column.keys)
        heading = r"\\".join(name.translate(_TEX) for name in column.heading.split())
        top.append(rf"\multicolumn{{{width}}}{{c}}{{\shortstack{{{heading}}}}}")
        second += ["ours", "paper", r"$\Delta$"] if column.in_paper else [""]
        rules += rf"\cmidrule(lr){{{n}-{n + width - 1}}}"
        n += width
    body = [
        [name.translate(_TEX), *("--" if v == "-" else _signed(v) for v in values)]
        for name, *values in cells
    ]
    reference, what = title
    caption = (what[0].upper() + what[1:]).translate(_TEX)
    if reference.startswith("Table") and any(c.in_paper for c in columns):
        caption += f"; the paper's {reference.lower()}"
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}.}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (n - 2)}}}",
            r"\toprule",
            " & ".join(top) + r" \\",
            rules,
            " & ".join(second) + r" \\",
            r"\midrule",
            *(" & ".join(line) + r" \\" for line in body),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
    )


def _signed(value: str) -> str:
    """Write the sign of a number in mathematics, where it is not a hyphen."""
    return re.sub(r"^[+-]", r"$\g<0>$", value)


def _percent(key: str, value: float | None) -> str:
    sign = "+" if key == "difference" else ""
    return "-" if value is None else f"{100 * value:{sign}.1f}"
