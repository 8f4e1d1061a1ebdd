"""Reports: from an evaluation to a table, results.json and submission files, and back.

In goes an `Evaluation`, out come text and files; a folder of these gives it back.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError, one_line
from fishing.evaluate.evaluation import Evaluation
from fishing.evaluate.record import check_record
from fishing.evaluate.table import format_table
from fishing.files import read_at_most, write_whole

_MAX_BYTES = 2**28  # of a file of results


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
            for name, column in zip(record["classes"], scores.T, strict=True):
                file = f"comp1_cls_{record['test']}_{name}.txt"
                lines = [
                    f"{image_id} {score:.9g}\n"
                    for image_id, score in zip(evaluation.image_id, column, strict=True)
                    if math.isfinite(score)
                ]
                write_whole(folder / feature / file, "".join(lines))
        write_whole(folder / "table.txt", format_table(record) + "\n")
        path = folder / "results.json"
        # Relative: folders that are moved together keep together, and have equal bytes.
        features = evaluation.path.parent.resolve() / evaluation.path.name
        way = Path(os.path.relpath(features, folder.resolve())).as_posix()
        record = {**record, "features_file": way}
        write_whole(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
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
