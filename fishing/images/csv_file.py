"""Lists as CSV files: the path of an image and its labels in each row.

A header names the columns, and may be missing if the path comes first. Labels are
names, several of them in several columns, in several rows, or in one field with ``;``
or ``|`` between them. If every label is 1, 0 or -1, the header names the classes, and
1 means that an image is in one.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from fishing.errors import DataError
from fishing.images.list_files import read_text

# What headers call the column of paths, without case, blanks and underscores.
_PATH_COLUMNS = frozenset(
    (
        *("path", "paths", "file", "files", "filename", "filenames", "filepath"),
        *("image", "images", "imageid", "imagename", "imagepath", "imagefile", "img"),
        *("imgpath", "imgname", "id", "name", "photo", "picture"),
    )
)
_NUMBERS = frozenset(("1", "1.0", "0", "0.0", "-1", "-1.0", ""))

Row = tuple[int, list[str]]


def read_csv(file: Path) -> list[Row]:
    """Read the rows of a CSV file as lines ``path label...``, numbered from 1.

    Columns are separated by the first comma, semicolon or tab of the file.

    Raises
    ------
    DataError
        If it is malformed or has no row.
    """
    text = read_text(file)
    separator = re.search("[,;\t]", re.sub('"[^"]*"', "", text[:10_000]))
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator[0] if separator else ","
    )
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise DataError(
            f"{file}, line {reader.line_num}: expected CSV, found: {error}"
        ) from None
    rows = [(number, row) for number, row in rows if any(row)]
    header = rows[0][1] if rows else []
    path = next((i for i, cell in enumerate(header) if _is_path_column(cell)), None)
    if path is None:
        header, path = [], 0
    else:
        rows = rows[1:]
    if not rows:
        raise DataError(f"{file}: expected one image a row, found no row")
    for number, row in rows:
        if len(row) <= path or not row[path]:
            raise DataError(f"{file}, line {number}: expected a path, found none")
    # Tables of pandas begin with a column of row numbers that has no name.
    labels = [i for i, cell in enumerate(header) if i != path and cell]
    if labels and all(_cell(row, i) in _NUMBERS for _, row in rows for i in labels):
        return [
            (number, [row[path], *_positive(row, labels, header)])
            for number, row in rows
        ]
    return [
        (number, [row[path], *_names(row, path, labels if header else None)])
        for number, row in rows
    ]


def _is_path_column(cell: str) -> bool:
    return re.sub("[ _-]", "", cell).lower() in _PATH_COLUMNS


def _cell(row: Sequence[str], column: int) -> str:
    return row[column] if column < len(row) else ""


def _positive(
    row: Sequence[str], labels: Sequence[int], header: Sequence[str]
) -> list[str]:
    """Name the columns that have a one."""
    return [header[i] for i in labels if _cell(row, i) in ("1", "1.0")]


def _names(row: Sequence[str], path: int, columns: Sequence[int] | None) -> list[str]:
    """Collect the names of a row's labels."""
    others = range(len(row)) if columns is None else columns
    cells = (_cell(row, i) for i in others if i != path)
    names = (name.strip() for cell in cells for name in re.split("[;|]", cell))
    return list(dict.fromkeys(filter(None, names)))
