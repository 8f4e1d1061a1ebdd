"""Checks of the settings and splits of a features file, which raise ValueError.

A file may come from anywhere; docs/format.md says what may be in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fishing.images import check_class_names, is_name, is_split_name
from fishing.store.format import PROJECTION, SAME_WIDTH
from fishing.store.rows import Rows
from fishing.store.split import Split

_MAX_DEPTH = 10


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check that the attributes of a file are texts, finite numbers and mappings."""
    for key, value in settings.items():
        if key in ("preprocess", PROJECTION) or isinstance(value, dict):
            fits = isinstance(value, dict) and _is_shallow(value)
        elif isinstance(value, str):
            fits = is_name(value)
        else:
            fits = isinstance(value, (bool, int, float)) and math.isfinite(value)
        if not fits or not is_name(key):
            raise ValueError(f"a {key!a} of {str(value)[:100]!a}")


def _is_shallow(value: Any) -> bool:
    """Tell whether mappings and lists are nested a few levels at most."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for item in level
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return not level


def check_names(names: Any) -> list[str]:
    """Check that a list holds names of splits, each once."""
    if not (
        isinstance(names, list)
        and all(isinstance(name, str) and is_split_name(name) for name in names)
        and len(set(names)) == len(names)
    ):
        raise ValueError(f"{str(names)[:100]!a} for the names of splits")
    return names


def check_split(name: str, split: Split) -> None:
    """Check that the parts of a split fit together."""
    _check_shapes(name, split)
    ids = (*split.image_id, *split.failed_id)
    if len(set(ids)) < len(ids):
        raise ValueError(f"an id that occurs twice in {name}")
    for text in (*ids, split.devkit, split.list_sha256):
        if not is_name(text):
            raise ValueError(f"{text[:100]!a} in {name}")
    check_class_names(split.classes, name)
    for labels in (split.labels, split.failed_labels):
        if labels is not None and not (
            labels.dtype == np.int8 and np.isin(labels, (-1, 0, 1)).all()
        ):
            raise ValueError(f"labels other than -1, 0 and 1 in {name}")
    n = len(ids)
    if sorted(set(split.failed_index) & set(range(n))) != list(split.failed_index):
        raise ValueError(f"other places than those of {n} images in {name}/failed")


def _check_shapes(name: str, split: Split) -> None:
    n, m, n_classes = len(split), len(split.failed_id), len(split.classes)
    parts: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
        ("failed/reason", (len(split.failed_reason),), (m,)),
        ("failed/index", split.failed_index.shape, (m,)),
    ]
    if split.labels is not None and split.failed_labels is not None:
        parts.append(("labels", split.labels.shape, (n, n_classes)))
        parts.append(("failed/labels", split.failed_labels.shape, (m, n_classes)))
    for blob, rows in split.blobs.items():
        parts.append((blob, rows.shape, (n, rows.shape[-1])))
    for part, found, expected in parts:
        if found != expected:
            raise ValueError(
                f"a shape of {found} in {name}/{part}, where {expected} fits {n} "
                f"images and {m} failed ones"
            )


def check_blobs(splits: Mapping[str, Split]) -> None:
    """Check that all splits have the same blobs, of widths that fit together."""
    found = [
        {blob: rows.shape[1] for blob, rows in split.blobs.items()}
        for split in splits.values()
    ]
    for blob in {blob: None for widths in found for blob in widths}:
        if not all(blob in widths for widths in found):
            raise ValueError(f"splits with and without {blob}")
        different = sorted({widths[blob] for widths in found})
        if len(different) > 1:
            raise ValueError(f"splits with {blob} of {different} values an image")
    for widths in found[:1]:
        if not widths:
            raise ValueError("no blobs")
        for one, other in SAME_WIDTH:
            if one in widths and other in widths and widths[one] != widths[other]:
                raise ValueError(
                    f"{one} and {other} of {widths[one]} and {widths[other]} values"
                )


def check_projection(splits: Mapping[str, Split], bases: Mapping[str, Rows]) -> None:
    """Check that each blob of a compressed file has bases of its width."""
    if PROJECTION in splits:
        raise ValueError(f"a split '{PROJECTION}' in a compressed file")
    for split in splits.values():
        for blob, rows in split.blobs.items():
            width = bases[blob].shape[1] if blob in bases else 0
            if width != rows.shape[1]:
                raise ValueError(
                    f"bases of {width} directions for {rows.shape[1]} values in {blob}"
                )
