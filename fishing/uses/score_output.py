"""Scores of images as a file, and what separates two splits as a table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from fishing.errors import DataError, needs_extra
from fishing.uses.outliers import Scored, separation
from fishing.uses.write_output import write_output


def check_scores_output(output: Path) -> None:
    """Check, before the work of minutes, that scores can be written under a name.

    Parameters
    ----------
    output : Path
        A name that ends in ``.csv`` or ``.parquet``.

    Raises
    ------
    DataError
        If its name has another suffix.
    DependencyError
        If PyArrow, which writes Parquet, is not installed.
    """
    if output.suffix.lower() not in _KINDS:
        raise DataError(
            f"expected the name of a CSV or Parquet file, found '{output}'; choose "
            "another --output, such as scores.csv or scores.parquet"
        )
    if output.suffix.lower() == ".parquet":
        with needs_extra("parquet"):
            import pyarrow  # noqa: F401


def write_scores(found: Scored, output: Path) -> Path:
    """Write scores as a table: id, split, and a column for each method.

    Parameters
    ----------
    found : Scored
    output : Path
        See `check_scores_output`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DataError, DependencyError
        As `check_scores_output` does, or if the file cannot be written.
    """
    check_scores_output(output)
    return write_output(output, _KINDS[output.suffix.lower()](found))


def _csv(found: Scored) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_id", "split", *found.scores])
    columns = ([f"{value:.9g}" for value in v] for v in found.scores.values())
    writer.writerows(zip(found.image_id, found.split, *columns, strict=True))
    return text.getvalue().encode()


def _parquet(found: Scored) -> bytes:
    import pyarrow
    import pyarrow.parquet

    names = {"image_id": list(found.image_id), "split": list(found.split)}
    texts = {k: pyarrow.array(v, pyarrow.string()) for k, v in names.items()}
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({**texts, **found.scores}), buffer)
    return buffer.getvalue()


_KINDS = {".csv": _csv, ".parquet": _parquet}


def separations(
    found: Scored, inside: str, outside: str
) -> dict[str, dict[str, float]]:
    """Measure by each method how well two splits are told apart.

    Parameters
    ----------
    found : Scored
    inside, outside : str
        The split of familiar images, and that of outliers; neither is empty.

    Returns
    -------
    dict
        By method, ``auroc`` and ``fpr95`` as `separation` gives them.
    """
    ours, others = found.of(inside), found.of(outside)
    measured = {}
    for method in found.scores:
        auroc, fpr95 = separation(ours[method], others[method])
        measured[method] = {"auroc": auroc, "fpr95": fpr95}
    return measured


def format_separations(measured: dict[str, dict[str, float]]) -> str:
    """Lay out separations in per cent, a row for each method.

    Examples
    --------
    >>> print(format_separations({"msp": {"auroc": 0.9, "fpr95": 0.25}}))
              AUROC  FPR at 95 %
    msp        90.0         25.0
    """
    rows = [f"{'':8}  {'AUROC':>5}  {'FPR at 95 %'}"]
    for method, values in measured.items():
        auroc, fpr95 = 100 * values["auroc"], 100 * values["fpr95"]
        rows.append(f"{method:8}  {auroc:5.1f}  {fpr95:11.1f}")
    return "\n".join(rows)
