"""What photographs show, as a table, a CSV file or a contact sheet."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path

from fishing.errors import printable
from fishing.search import write_gallery
from fishing.uses.classification import Classified
from fishing.uses.write_output import write_output

_MOST_PICTURES = 400  # a sheet of more is too large for most viewers

_log = logging.getLogger(__name__)


def format_classes(found: Classified, k: int = 3) -> str:
    """Lay out the k best classes of each photograph.

    Parameters
    ----------
    found : Classified
    k : int

    Returns
    -------
    str
        A line a photograph, without a newline at its end. Classes are followed by their
        probabilities, or else by their decision values.

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.array([[-0.5, 1.25]])
    >>> found = Classified((Path("a.jpg"),), ("cat", "dog"), scores, None, {}, "dW7")
    >>> print(format_classes(found))
    a.jpg  dog 1.25  cat -0.50
    """
    rows = [
        (printable(str(path)), *_captions(found, i, k))
        for i, path in enumerate(found.path)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def write_classes(found: Classified, output: Path) -> Path:
    """Write decision values, and probabilities if there are any, as a CSV file.

    A row is a photograph: its path, its best class, a column for each class with the
    decision value, and another, ``p(<class>)``, with the probability.

    Parameters
    ----------
    found : Classified
    output : Path

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DataError
        If it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    likely = [] if found.probabilities is None else [f"p({c})" for c in found.classes]
    writer.writerow(["photograph", "best", *found.classes, *likely])
    for i, path in enumerate(found.path):
        values = [f"{value:.9g}" for value in found.scores[i]]
        if found.probabilities is not None:
            values += [f"{value:.6g}" for value in found.probabilities[i]]
        (best,) = found.best(i, 1)
        writer.writerow([printable(str(path)), found.classes[best], *values])
    return write_output(output, text.getvalue())


def write_class_sheet(found: Classified, output: Path, k: int = 2) -> Path:
    """Draw the photographs with their best classes below them.

    Parameters
    ----------
    found : Classified
    output : Path
        The picture to write. Its suffix chooses the format.
    k : int
        How many classes to name, 2 at most.

    Returns
    -------
    Path
        The picture, which has the first 400 photographs.

    Raises
    ------
    DataError
        If it cannot be written.
    """
    shown = found.path[:_MOST_PICTURES]
    if len(shown) < len(found.path):
        _log.warning(
            "the sheet shows the first %d of %d photographs",
            *(len(shown), len(found.path)),
        )
    captions = ([*_captions(found, i, k), path.name] for i, path in enumerate(shown))
    return write_gallery(output, zip(shown, captions, strict=True))


def _captions(found: Classified, i: int, k: int) -> list[str]:
    """Name the best classes of a photograph with their values."""
    values = found.scores if found.probabilities is None else found.probabilities
    return [f"{found.classes[j]} {values[i, j]:.2f}" for j in found.best(i, k)]
