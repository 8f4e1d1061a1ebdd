"""Whether a features file can be what it says: checks on reading, each a ValueError.

A file may come from anywhere. What is checked here is that all of it lies in the file
itself, takes no more memory than the file has bytes, and has the types and names that
docs/format.md tells of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from fishing.images import check_class_names, is_split_name
from fishing.images.image_list import MAX_CLASSES
from fishing.store.chunks import check_chunks

MAX_OBJECTS = 10_000
MAX_ROWS = 2**24
MAX_WIDTH = 2**20
_MAX_ATTRIBUTE = 2**20  # bytes
_MAX_DEPTH = 10
_KINDS = {"f2", "f4", "i1", "i8"}
# The output of an inner product, and what the layers above make of it value by value.
_SAME_WIDTH = (
    ("forward/x6", "backward/y6"),
    ("forward/x7", "backward/y7"),
    ("forward/y8", "backward/y8"),
    ("forward/y8", "forward/x8"),
)


def check_structure(file: h5py.File) -> None:
    """Hold all that is in a file to be plain datasets that lie in it."""
    size = file.id.get_filesize()
    for item in _walk(file):
        for name in item.attrs:
            _check_attribute(item, name)
        if isinstance(item, h5py.Dataset):
            check_dataset(item, size)


def open_part(file: h5py.File, path: str) -> Any:
    """Open a group or dataset by its path, or nothing where there is none.

    Links that lead elsewhere are not followed.
    """
    item = file
    for name in path.strip("/").split("/"):
        if name:
            if not isinstance(item, h5py.Group):
                raise ValueError(f"no group at {item.name}")
            if not item.id.links.exists(name.encode()):
                return None
            _check_link(item, name.encode())
            item = item[name]
    return item


def check_settings(settings: Mapping[str, Any]) -> None:
    """Hold the attributes of a file to be texts, numbers and one mapping."""
    for key, value in settings.items():
        if key == "preprocess" or isinstance(value, dict):
            fits = isinstance(value, dict) and _is_shallow(value)
        elif isinstance(value, str):
            fits = value.isprintable()
        else:
            fits = isinstance(value, (bool, int, float)) and math.isfinite(value)
        if not fits or not key.isprintable():
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
    """Hold the names of splits to be such, each there once."""
    if not (
        isinstance(names, list)
        and all(isinstance(name, str) and is_split_name(name) for name in names)
        and len(set(names)) == len(names)
    ):
        raise ValueError(f"{str(names)[:100]!a} for the names of splits")
    return names


def check_split(name: str, split: Any) -> None:
    """Hold what a `fishing.store.Split` says in words and numbers to be possible."""
    ids = (*split.image_id, *split.failed_id)
    if len(set(ids)) < len(ids):
        raise ValueError(f"an id that occurs twice in {name}")
    for text in (*ids, split.devkit, split.list_sha256):
        if not text.isprintable():
            raise ValueError(f"{text[:100]!a} in {name}")
    check_class_names(split.classes, name)
    for labels in (split.labels, split.failed_labels):
        if labels is not None and not (
            labels.dtype == np.int8 and np.isin(labels, (-1, 0, 1)).all()
        ):
            raise ValueError(f"labels other than -1, 0 and 1 in {name}")
    for one, other in _SAME_WIDTH:
        widths = split.blobs[one].shape[1], split.blobs[other].shape[1]
        if widths[0] != widths[1]:
            raise ValueError(f"{one} and {other} of {widths} values in {name}")


def _walk(file: h5py.File) -> Iterator[Any]:
    """Go through groups and datasets, but not where a link leads elsewhere."""
    waiting, seen = [file], set()
    while waiting:
        item = waiting.pop()
        place = h5py.h5o.get_info(item.id).addr
        if place in seen:
            raise ValueError(f"one thing under two names, the second {item.name!a}")
        seen.add(place)
        yield item
        if not isinstance(item, h5py.Group):
            continue
        if len(seen) + len(waiting) + len(item.id) > MAX_OBJECTS:
            raise ValueError(f"more than {MAX_OBJECTS} groups and datasets")
        for name in list(item.id):
            _check_link(item, name)
            waiting.append(item[name])


def _check_link(group: h5py.Group, name: bytes) -> None:
    if group.id.links.get_info(name).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"a link to elsewhere, {group.name}: {name!a}")


def _check_attribute(item: Any, name: str) -> None:
    """Hold an attribute to be a number or a text, or a list of such."""
    found = h5py.h5a.open(item.id, name.encode())
    dtype, shape = found.dtype, found.shape
    is_plain = dtype.kind in "iufS" or h5py.check_string_dtype(dtype) is not None
    fits = shape == () or (shape and len(shape) == 1 and shape[0] <= MAX_CLASSES)
    if not is_plain or not fits or found.get_storage_size() > _MAX_ATTRIBUTE:
        raise ValueError(f"an attribute {name!a} of type {dtype} and shape {shape}")


def check_dataset(dataset: h5py.Dataset, file_size: int) -> None:
    """Hold a dataset to be all there, and of a type and a size that can be."""
    name, shape, dtype = dataset.name, dataset.shape, dataset.dtype
    text = h5py.check_string_dtype(dtype)
    if dtype.str[1:] not in _KINDS and (text is None or text.length is None):
        raise ValueError(f"values of type {dtype} in {name}")
    if not shape or len(shape) > 2 or shape[0] > MAX_ROWS:
        raise ValueError(f"a shape of {shape} in {name}")
    if not 1 <= math.prod(shape[1:]) <= MAX_WIDTH:
        raise ValueError(f"a shape of {shape} in {name}")
    if dataset.maxshape != shape:
        raise ValueError(f"a shape that may grow to {dataset.maxshape} in {name}")
    plist = dataset.id.get_create_plist()
    layout, n_bytes = plist.get_layout(), math.prod(shape) * dtype.itemsize
    if layout == h5py.h5d.CHUNKED:
        check_chunks(dataset, file_size)
    elif layout == h5py.h5d.CONTIGUOUS and n_bytes:
        offset = dataset.id.get_offset()
        if plist.get_external_count() or offset is None:
            raise ValueError(f"no values, or such that lie elsewhere, in {name}")
        if offset + n_bytes > file_size:
            raise ValueError(f"values beyond the end of the file in {name}")
    elif layout not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT):
        raise ValueError(f"no values, or such that lie elsewhere, in {name}")
