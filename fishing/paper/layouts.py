"""Tables as text, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

#: Suffixes of the files that tables are written to.
FORMATS = ("txt", "md", "tex")

# None is a value that could not be measured; an empty text is left empty.
Value = float | Sequence[float] | str | None

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
class Column:
    """A heading and what stands below it, in one or more columns.

    Attributes
    ----------
    heading : str
    values : mapping of str to mapping of str to float, (low, high) or None
        By row and key, in [-1, 1].
    keys : mapping of str to str
        The keys of the values that are shown, and a heading for each but the first. A
        key that begins with ``difference`` is shown with its sign.
    """

    heading: str
    values: Mapping[str, Mapping[str, Value]]
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A table of values in per cent.

    Attributes
    ----------
    reference : str
        What the paper calls it, such as ``Table 2``, or a title of its own.
    title : str
    corner : str
        The heading of the rows.
    rows : sequence of str
    columns : sequence of Column
    """

    reference: str
    title: str
    corner: str
    rows: Sequence[str]
    columns: Sequence[Column]

    def cells(self) -> list[list[str]]:
        """Write out each row, its name first; what a column lacks is left empty."""
        return [
            [row]
            + [
                _percent(key, column.values.get(row, {}).get(key, ""))
                for column in self.columns
                for key in column.keys
            ]
            for row in self.rows
        ]


def lay_out(table: Table, suffix: str) -> str:
    """Lay out a table as ``txt``, ``md`` or ``tex``, without a newline at its end."""
    if suffix == "tex":
        return _latex(table)
    headers = [table.corner]
    for column in table.columns:
        _, *labels = column.keys.values()
        # On a terminal a narrow column matters more than a heading in one line.
        heading = column.heading
        headers.append(heading.replace(" ", "\n") if suffix == "txt" else heading)
        headers += labels
    cells = table.cells()
    if suffix == "md":  # stars of two products would set what is between in italics
        cells = [[name.replace("*", r"\*"), *values] for name, *values in cells]
    body = tabulate(
        cells,
        headers,
        tablefmt="simple" if suffix == "txt" else "github",
        disable_numparse=True,
        colalign=["left"] + ["right"] * (len(headers) - 1),
    )
    heading = f"{table.reference}: {table.title}"
    return f"**{heading}**\n\n{body}" if suffix == "md" else f"{heading}\n\n{body}"


def _latex(table: Table) -> str:
    """Write one table with booktabs, no wider than the text."""
    top, second, rules, n = [""], [table.corner], "", 2
    for column in table.columns:
        width = len(column.keys)
        heading = r"\\".join(name.translate(_TEX) for name in column.heading.split())
        top.append(rf"\multicolumn{{{width}}}{{c}}{{\shortstack{{{heading}}}}}")
        for label in column.keys.values():
            second.append(r"$\Delta$" if label == "+/-" else label.translate(_TEX))
        rules += rf"\cmidrule(lr){{{n}-{n + width - 1}}}"
        n += width
    caption = (table.title[0].upper() + table.title[1:]).translate(_TEX)
    if table.reference.startswith("Table") and any(
        "paper" in column.keys for column in table.columns
    ):
        caption += f"; the paper's {table.reference.lower()}"
    body = [
        [name.translate(_TEX), *map(_tex_value, values)]
        for name, *values in table.cells()
    ]
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


def _tex_value(text: str) -> str:
    """Write signs in mathematics, where they are not hyphens."""
    return "--" if text == "-" else re.sub(r"[+-](?=\d)", r"$\g<0>$", text)


def _percent(key: str, value: Value) -> str:
    """Write a value, or an interval, in per cent."""
    sign = "+" if key.startswith("difference") else ""
    if isinstance(value, str):
        return value
    if value is None:
        return "-" if key == "ours" else ""
    if isinstance(value, (int, float)):
        return f"{100 * value:{sign}.1f}"
    return "[" + ", ".join(f"{100 * bound:{sign}.1f}" for bound in value) + "]"
