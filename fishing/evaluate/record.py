"""Whether a record of results can be one: checks on reading, each a ValueError.

A folder of results may come from anywhere. What is checked here is that its record has
the parts, types and names that `fishing evaluate` writes, and names no file elsewhere
by a class, a feature or a split.
"""

from __future__ import annotations

import math
from typing import Any

from fishing.errors import EvaluationError
from fishing.evaluate.average_precision import PROTOCOLS
from fishing.images import check_class_names, is_split_name
from fishing.kernels import feature_blobs

#: What results.json holds.
KEYS = (
    *("protocol", "train", "test", "C", "classes", "features"),
    *("source", "lists", "versions", "features_file"),
)


def check_record(record: Any) -> None:
    """Hold a record to be what `fishing.evaluate.evaluation.Evaluation.record` says."""
    if not isinstance(record, dict):
        raise ValueError("no record")
    missing = [key for key in KEYS if key not in record]
    if missing:
        raise ValueError(f"no '{missing[0]}' in it")
    _check_texts(record)
    splits = record["train"], record["test"]
    fits = {
        "protocol": record["protocol"] in [*PROTOCOLS],
        "train": isinstance(splits[0], str) and is_split_name(splits[0]),
        "test": isinstance(splits[1], str) and is_split_name(splits[1]),
        "C": _is_number(record["C"]),
        "classes": _is_list_of_texts(record["classes"]),
        "features": isinstance(record["features"], dict) and bool(record["features"]),
        "source": isinstance(record["source"], dict),
        "lists": _is_mapping_of_texts(record["lists"]),
        "versions": _is_mapping_of_texts(record["versions"]),
        "features_file": isinstance(record["features_file"], str),
    }
    for key, is_right in fits.items():
        if not is_right:
            raise ValueError(f"{str(record[key])[:100]!a} for {key}")
    check_class_names(record["classes"], "classes")
    for feature, result in record["features"].items():
        _check_result(feature, result, record["classes"])
    measured = {
        tuple(name for name, value in result["AP"].items() if value is not None)
        for result in record["features"].values()
    }
    if len({frozenset(names) for names in measured}) > 1 or () in measured:
        raise ValueError("features that are measured on other classes, or on none")


def _check_result(feature: str, result: Any, classes: list[str]) -> None:
    """Hold the result of a feature to be average precisions of all classes."""
    try:
        feature_blobs(feature)
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


def _check_texts(value: Any) -> None:
    """Hold all texts in a record to be of one line that can be written."""
    if isinstance(value, str):
        if not value.isprintable():
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


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_mapping_of_texts(value: Any) -> bool:
    return isinstance(value, dict) and _is_list_of_texts(list(value.values()))
