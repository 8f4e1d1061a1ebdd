"""The outcome of an evaluation, and the folder of results that holds it.

A folder of results may come from anywhere. When it is read, its record must have the
parts, types and names that `fishing evaluate` writes, and no class, feature or split
may name a file outside the folder.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError, one_line
from fishing.evaluate.average_precision import PROTOCOLS
from fishing.evaluate.table import format_table
from fishing.files import read_at_most, write_whole
from fishing.images import check_class_names, is_name, is_split_name
from fishing.kernels import parse_feature
from fishing.store import follow_path, relative_path

_MAX_BYTES = 2**28  # of a file of results


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes
    ----------
    record : dict
        ``protocol``, ``train``, ``test``, ``C``, ``classes``, ``features`` (with
        ``mAP`` and ``AP`` by class, in [0, 1], None for a class that has no positive in
        one of the splits), ``source``: how the features were made, ``lists``: the
        SHA-256 of both splits' lists, and ``versions`` of the libraries. Features have
        ``spread`` if there are ``folds``, and ``interval`` and ``difference`` if there
        is a ``bootstrap``.
    image_id : tuple of str, length n
        All images of the test split, in the order of its list.
    scores : dict of str to ndarray of float64, shape (n, n_classes)
        By feature; -inf for an image without a row, NaN for a class without an SVM.
    path : Path
        The features file.
    data : Path, optional
        The data set that the images are from, if that is known.
    """

    record: dict[str, Any]
    image_id: tuple[str, ...]
    scores: dict[str, NDArray[np.float64]]
    path: Path
    data: Path | None = None


def write_results(evaluation: Evaluation, folder: Path) -> Path:
    """Write an evaluation into a folder.

    ``table.txt`` is the table. Files ``<feature>/comp1_cls_<test>_<class>.txt`` hold
    lines ``id score``, as the VOC server takes them, for all images with a score.
    ``results.json``, which is written last, is the record with the paths from the
    folder to the features file, ``features_file``, and to the data set, ``data``, if
    that is known.

    Parameters
    ----------
    evaluation : Evaluation
    folder : Path
        It is made if it is not there; files of the same names are replaced.

    Returns
    -------
    Path
        The file results.json.

    Raises
    ------
    EvaluationError
        If the folder cannot be written.
    """
    record = evaluation.record
    path = folder / "results.json"
    try:
        for feature, scores in evaluation.scores.items():
            for name, column in zip(record["classes"], scores.T, strict=True):
                lines = [
                    f"{image_id} {score:.9g}\n"
                    for image_id, score in zip(evaluation.image_id, column, strict=True)
                    if math.isfinite(score)
                ]
                write_whole(_scores_file(folder, record, feature, name), "".join(lines))
        write_whole(folder / "table.txt", format_table(record) + "\n")
        record = {**record, "features_file": relative_path(evaluation.path, folder)}
        if evaluation.data:
            record["data"] = relative_path(evaluation.data, folder)
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
        It has only the images with a score, in the order of the files. Scores are
        rounded to nine digits.

    Raises
    ------
    EvaluationError
        If there are no results, or one of their files is missing or malformed.
    """
    record = read_record(folder)
    columns = {
        feature: [
            _read_scores(_scores_file(folder, record, feature, name))
            for name in record["classes"]
        ]
        for feature in record["features"]
    }
    found = (column for of_feature in columns.values() for column in of_feature)
    ids = dict.fromkeys(chain.from_iterable(found))
    images = {image_id: row for row, image_id in enumerate(ids)}
    scores = {}
    for feature, of_feature in columns.items():
        scores[feature] = np.full((len(images), len(of_feature)), np.nan)
        for j, column in enumerate(of_feature):
            rows = [images[image_id] for image_id in column]
            scores[feature][rows, j] = list(column.values())
    data = follow_path(record["data"], folder) if "data" in record else None
    features_file = follow_path(record["features_file"], folder)
    return Evaluation(record, tuple(images), scores, features_file, data)


def read_record(folder: Path) -> dict[str, Any]:
    """Read results.json alone; raises as `read_results`."""
    path = folder / "results.json"
    try:
        record = json.loads(read_at_most(path, _MAX_BYTES))
        _check_record(record)
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


def _scores_file(folder: Path, record: dict[str, Any], feature: str, name: str) -> Path:
    """Name the file of one class's scores."""
    return folder / feature / f"comp1_cls_{record['test']}_{name}.txt"


def _read_scores(path: Path) -> dict[str, float]:
    """Read lines ``id score``."""
    try:
        lines = read_at_most(path, _MAX_BYTES).decode().splitlines()
        pairs = [line.rsplit(" ", maxsplit=1) for line in lines]
        scores = {image_id: float(score) for image_id, score in pairs}
        if len(scores) < len(pairs) or not all(map(math.isfinite, scores.values())):
            raise ValueError("an id twice, or a score that is no number")
        return scores
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"expected lines 'id score' in '{path}', found {one_line(error)}; evaluate "
            "anew"
        ) from None


def _check_record(record: Any) -> None:
    """Raise a ValueError unless a record is one that `write_results` writes."""
    if not isinstance(record, dict):
        raise ValueError("no record")
    missing = [key for key in _CHECKS if key not in record]
    if missing:
        raise ValueError(f"no '{missing[0]}' in it")
    _check_texts({k: v for k, v in record.items() if k not in _PATHS})
    for key, fits in {**_CHECKS, **_OPTIONAL}.items():
        if key in record and not fits(record[key]):
            raise ValueError(f"{str(record[key])[:100]!a} for {key}")
    check_class_names(record["classes"], "classes")
    if "bootstrap" in record:
        reference = record["bootstrap"]["reference"]
        if reference not in record["features"]:
            raise ValueError(f"a reference {reference[:100]!a} that is not measured")
    for feature, result in record["features"].items():
        _check_result(feature, result, record["classes"])
        _check_ranges(feature, result, record)
    measured = {
        frozenset(name for name, value in result["AP"].items() if value is not None)
        for result in record["features"].values()
    }
    if len(measured) > 1 or not all(measured):
        raise ValueError("features that are measured on other classes, or on none")


def _check_result(feature: str, result: Any, classes: list[str]) -> None:
    """Check that the result of a feature has average precisions of all classes."""
    try:
        parse_feature(feature)
    except EvaluationError as error:
        raise ValueError(f"a feature {feature[:100]!a}: {error}") from None
    if not (
        isinstance(result, dict)
        and _is_precision(result.get("mAP"))
        and isinstance(result.get("AP"), dict)
        and result["AP"].keys() == set(classes)
        and all(v is None or _is_precision(v) for v in result["AP"].values())
    ):
        raise ValueError(f"no average precisions of {feature}")


def _check_ranges(feature: str, result: dict[str, Any], record: dict[str, Any]) -> None:
    """Check that a feature has the spread and the intervals that belong to it."""
    kinds: dict[str, Callable[[Any], bool]] = {}
    if "folds" in record:
        kinds["spread"] = _is_precision
    if "bootstrap" in record:
        kinds["interval"] = _is_interval
        if feature != record["bootstrap"]["reference"]:
            kinds["difference"] = _is_interval
    for kind, fits in kinds.items():
        found = result.get(kind)
        if not (
            isinstance(found, dict)
            and isinstance(found.get("AP"), dict)
            and found["AP"].keys() == set(record["classes"])
            and all(
                v is None or fits(v) for v in (found.get("mAP"), *found["AP"].values())
            )
        ):
            raise ValueError(f"no {kind} of {feature}")


def _check_texts(value: Any) -> None:
    """Check that each text in a record is one line that can be written."""
    if isinstance(value, str):
        if not is_name(value):
            raise ValueError(f"the text {value[:100]!a} in it")
    elif isinstance(value, dict):
        for pair in value.items():
            _check_texts(list(pair))
    elif isinstance(value, list):
        for item in value:
            _check_texts(item)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < 2.0**1000
        and math.isfinite(value)
    )


def _is_precision(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_interval(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(_is_number(bound) and -1 <= bound <= 1 for bound in value)
    )


def _is_bootstrap(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("reference"), str)
        and all(_is_number(value.get(key)) for key in ("resamples", "level"))
    )


def _is_split(value: Any) -> bool:
    return isinstance(value, str) and is_split_name(value)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_mapping_of_texts(value: Any) -> bool:
    return isinstance(value, dict) and _is_list_of_texts(list(value.values()))


def _is_path(value: Any) -> bool:
    """Tell whether a value can be the name of a file; names need not be printable."""
    try:
        return isinstance(value, str) and "\0" not in value and bool(os.fsencode(value))
    except UnicodeEncodeError:
        return False


# Paths are opened and never shown, so that any name of a file will do.
_PATHS = {"features_file", "data"}

# What results.json holds, and whether a value can be what its key says.
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "protocol": lambda value: value in list(PROTOCOLS),
    "train": _is_split,
    "test": _is_split,
    "C": _is_number,
    "classes": _is_list_of_texts,
    "features": lambda value: isinstance(value, dict) and bool(value),
    "source": lambda value: isinstance(value, dict),
    "lists": _is_mapping_of_texts,
    "versions": _is_mapping_of_texts,
    "features_file": _is_path,
}

_OPTIONAL: dict[str, Callable[[Any], bool]] = {
    "protocol_because": lambda value: isinstance(value, str),
    "folds": lambda value: type(value) is int and value > 1,
    "bootstrap": _is_bootstrap,
    "data": _is_path,
}
