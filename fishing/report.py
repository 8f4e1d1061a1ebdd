"""Reports: from an evaluation to a table, results.json and submission files, and back.

In goes an `Evaluation`, out come text and files; a folder of these gives it back.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.dataset import read_at_most
from fishing.errors import EvaluationError
from fishing.evaluate import Evaluation
from fishing.layout import one_line
from fishing.record import check_record
from fishing.search import Neighbour

_COLUMN, _NAME = 8, 6
_MAX_BYTES = 2**28  # of a file of results


def format_table(record: dict[str, Any], width: int | None = None) -> str:
    """Lay out average precisions, features by classes, in per cent.

    The best of each column is marked with a star.

    Parameters
    ----------
    record : dict
        As in `Evaluation.record`.
    width : int, optional
        Columns of the terminal: a wider table is cut into blocks one below the other.

    Returns
    -------
    str
        Without a line end at its end.

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
    fitting = len(columns)
    if width is not None:
        fitting = max(1, (width - label) // _COLUMN)
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
    return "\n\n".join(blocks)


def by_temperature(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the records of one data set at several temperatures into one.

    Parameters
    ----------
    records : sequence of dict
        As in `Evaluation.record`.

    Returns
    -------
    dict
        The first record, with a row for each gradient feature and temperature;
        activations, which do not depend on it, stand there once.

    Raises
    ------
    EvaluationError
        If they differ in more than the temperature, or not in that.
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


def format_neighbours(found: Mapping[str, Sequence[Neighbour]]) -> str:
    """Lay out what a search found, a table for each feature.

    Parameters
    ----------
    found : mapping of str to sequence of Neighbour
        By feature, as `fishing.search.search_photo` gives them.

    Returns
    -------
    str
        Without a line end at its end.

    Examples
    --------
    >>> print(format_neighbours({"dW7": [Neighbour("000012", "test", 0.5, ("car",))]}))
    dW7  similarity  split  image   classes
      1      0.5000  test   000012  car
    """
    tables = []
    for feature, neighbours in found.items():
        rows = [(feature, "similarity", "split", "image", "classes")]
        for rank, n in enumerate(neighbours, start=1):
            cells = (f"{n.similarity:.4f}", n.split, n.image_id, " ".join(n.classes))
            rows.append((str(rank), *cells))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        tables.append("\n".join(_row(row, widths) for row in rows))
    return "\n\n".join(tables)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Put cells below those of other rows, the numbers (two columns) to the right."""
    return "  ".join(
        f"{cell:>{width}}" if i < 2 else f"{cell:<{width}}"
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()


def write_results(evaluation: Evaluation, folder: Path) -> Path:
    """Write an evaluation into a folder.

    ``table.txt`` is the table; ``<feature>/comp1_cls_<test>_<class>.txt`` hold lines
    ``id score`` as the VOC server takes them, for all images with a score;
    ``results.json`` is the record, with the path from the folder to the features file
    as ``features_file``, and is written last.

    Parameters
    ----------
    evaluation : Evaluation
    folder : Path
        Made where it is not there; files of the same names are replaced.

    Returns
    -------
    Path
        Of results.json.

    Raises
    ------
    EvaluationError
        If the folder cannot be written.
    """
    record = evaluation.record
    try:
        for feature, scores in evaluation.scores.items():
            (folder / feature).mkdir(parents=True, exist_ok=True)
            for name, column in zip(record["classes"], scores.T, strict=True):
                file = f"comp1_cls_{record['test']}_{name}.txt"
                lines = [
                    f"{image_id} {score:.9g}\n"
                    for image_id, score in zip(evaluation.image_id, column, strict=True)
                    if math.isfinite(score)
                ]
                _replace(folder / feature / file, "".join(lines))
        _replace(folder / "table.txt", format_table(record) + "\n")
        path = folder / "results.json"
        # Relative: folders that are moved together keep together, and have equal bytes.
        features = evaluation.path.parent.resolve() / evaluation.path.name
        way = Path(os.path.relpath(features, folder.resolve())).as_posix()
        record = {**record, "features_file": way}
        _replace(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise EvaluationError(
            f"expected to write into '{folder}', found: {error.strerror}; choose "
            "another --output"
        ) from None
    return path


def read_results(folder: Path) -> Evaluation:
    """Read what `write_results` wrote.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Evaluation
        Of the images that have a score, in the order of the files; scores are rounded
        to nine digits.

    Raises
    ------
    EvaluationError
        If there are no results, or a file of them is missing or malformed.
    """
    record = read_record(folder)
    scores: dict[str, NDArray[np.float64]] = {}
    images: dict[str, int] = {}
    columns = {
        (feature, name): _read_scores(
            folder / feature / f"comp1_cls_{record['test']}_{name}.txt"
        )
        for feature in record["features"]
        for name in record["classes"]
    }
    for column in columns.values():
        for image_id in column:
            images.setdefault(image_id, len(images))
    for feature in record["features"]:
        scores[feature] = np.full((len(images), len(record["classes"])), np.nan)
        for j, name in enumerate(record["classes"]):
            column = columns[feature, name]
            rows = [images[image_id] for image_id in column]
            scores[feature][rows, j] = list(column.values())
    return Evaluation(record, tuple(images), scores, folder / record["features_file"])


def read_record(folder: Path) -> dict[str, Any]:
    """Read results.json alone; raises as `read_results`."""
    path = folder / "results.json"
    try:
        record = json.loads(read_at_most(path, _MAX_BYTES))
        check_record(record)
    except FileNotFoundError:
        raise EvaluationError(
            f"expected results at '{path}', found none; `fishing evaluate` makes them"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise EvaluationError(
            f"{path}: expected a record of results, found {one_line(error)}; evaluate "
            "anew"
        ) from None
    return dict(record)


def _read_scores(path: Path) -> dict[str, float]:
    """Read lines ``id score``."""
    try:
        lines = read_at_most(path, _MAX_BYTES).decode().splitlines()
        pairs = [line.rsplit(maxsplit=1) for line in lines]
        scores = {image_id: float(score) for image_id, score in pairs}
        if len(scores) < len(pairs) or not all(map(math.isfinite, scores.values())):
            raise ValueError("an id twice, or a score that is no number")
        return scores
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"expected lines 'id score' in '{path}', found {one_line(error)}; evaluate "
            "anew"
        ) from None


def _cells(values: Sequence[float | None]) -> list[str]:
    """Write a column in per cent, its best values marked."""
    texts = ["-" if v is None else f"{100 * v:.1f}" for v in values]
    best = max((v for v in values if v is not None), default=None)
    return [
        text + ("*" if v is not None and v == best else " ")
        for text, v in zip(texts, values, strict=True)
    ]


def _replace(path: Path, text: str) -> None:
    """Write a file under another name first, so that its name stands for a whole."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
