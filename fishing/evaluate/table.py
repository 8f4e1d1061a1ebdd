"""Tables of average precisions, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fishing.errors import EvaluationError

_COLUMN, _NAME = 8, 6


def format_table(record: dict[str, Any], width: int | None = None) -> str:
    """Lay out average precisions, features by classes, in per cent.

    The best of each column is marked with a star. If the record has folds or a
    bootstrap, a table of means with their spread and intervals stands below.

    Parameters
    ----------
    record : dict
        The record of an `Evaluation`.
    width : int, optional
        Columns of the terminal. A wider table is cut into blocks, one below the other.

    Returns
    -------
    str
        The table, without a newline at its end.

    Examples
    --------
    >>> x7 = {"mAP": 0.6, "AP": {"boat": 0.5, "car": 0.7}}
    >>> print(format_table({"classes": ["boat", "car"], "features": {"x7": x7}}))
          mAP    boat     car
    x7   60.0*   50.0*   70.0*
    """
    results: dict[str, Any] = record["features"]
    columns = [("mAP", [r["mAP"] for r in results.values()])]
    for name in record["classes"]:
        columns.append((name, [r["AP"][name] for r in results.values()]))
    label = max(map(len, results))
    fitting = len(columns) if width is None else max(1, (width - label) // _COLUMN)
    blocks = []
    for start in range(0, len(columns), fitting):
        cells = [
            [f"{name[:_NAME]} ", *_cells(v)] for name, v in columns[start:][:fitting]
        ]
        rows = zip(["", *results], *cells, strict=True)
        blocks.append(
            "\n".join(
                f"{first:<{label}}{''.join(f'{c:>{_COLUMN}}' for c in rest)}".rstrip()
                for first, *rest in rows
            )
        )
    if "folds" in record or "bootstrap" in record:
        blocks.append(_format_ranges(record))
    return "\n\n".join(blocks)


def _format_ranges(record: dict[str, Any]) -> str:
    """Lay out means with their spread over folds and the intervals of a bootstrap.

    The last two columns count the classes in which the interval of the difference to
    the reference lies above zero, and below.
    """
    results = record["features"]
    reference = record.get("bootstrap", {}).get("reference")
    head = ["", "mAP"]
    if "folds" in record:
        head.append("+/-")
    if reference:
        head.append("95 %")
    if reference in results:  # it has no row of its own at several temperatures
        head += [f"- {reference}", "95 %", "above", "below"]
    lines = [head]
    for feature, result in results.items():
        cells = [feature, _percent(result["mAP"])]
        if "folds" in record:
            cells.append(_percent(result["spread"]["mAP"]))
        if reference:
            cells.append(_interval(result["interval"]["mAP"], ""))
        if reference in results and feature != reference:
            bounds = [b for b in result["difference"]["AP"].values() if b]
            cells += [
                _percent(result["mAP"] - results[reference]["mAP"], "+"),
                _interval(result["difference"]["mAP"], "+"),
                str(sum(low > 0 for low, _ in bounds)),
                str(sum(high < 0 for _, high in bounds)),
            ]
        lines.append(cells + [""] * (len(head) - len(cells)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [f"{cells[0]:<{widths[0]}}"]
            + [f"{c:>{w}}" for c, w in zip(cells[1:], widths[1:], strict=True)]
        ).rstrip()
        for cells in lines
    )


def by_temperature(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the records of one data set at several temperatures into one.

    Parameters
    ----------
    records : sequence of dict
        The records of each `Evaluation`.

    Returns
    -------
    dict
        The first record, with one row for each temperature of a gradient. Activations
        have one row, since they do not depend on the temperature.

    Raises
    ------
    EvaluationError
        If the records differ in more than the temperature, or not in it.
    """
    first = records[0]
    features: dict[str, Any] = {}
    taus = [record["source"]["temperature"] for record in records]
    for record, tau in zip(records, taus, strict=True):
        source = {**record["source"], "temperature": taus[0]}
        differing = [key for key in source if source[key] != first["source"].get(key)]
        differing += [key for key in ("classes", "lists") if record[key] != first[key]]
        if differing or taus.count(tau) > 1:
            raise EvaluationError(
                "expected features files that differ in their temperature alone, found "
                f"temperatures of {' '.join(f'{t:g}' for t in taus)}"
                + (f" and another {differing[0]}" if differing else "")
                + "; evaluate them one by one"
            )
    for name in first["features"]:
        if "dW" not in name:
            features[name] = first["features"][name]
            continue
        for record, tau in sorted(zip(records, taus, strict=True), key=lambda r: r[1]):
            features[f"{name} tau={tau:g}"] = record["features"][name]
    return {**first, "features": features}


def _cells(values: Sequence[float | None]) -> list[str]:
    """Write a column in per cent, and mark its best values."""
    texts = list(map(_percent, values))
    best = max((v for v in values if v is not None), default=None)
    return [
        text + ("*" if v is not None and v == best else " ")
        for text, v in zip(texts, values, strict=True)
    ]


def _percent(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def _interval(bounds: Sequence[float] | None, sign: str) -> str:
    if bounds is None:
        return "-"
    return "[" + ", ".join(_percent(bound, sign) for bound in bounds) + "]"
