"""Writes a features file in HDF5, as docs/format.md describes it.

The file holds no clock time, so the same splits give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fishing.errors import StoreError
from fishing.progress import Progress, silent
from fishing.store.checksums import outline_sha256
from fishing.store.format import (
    BLOBS,
    DTYPES,
    FORMAT,
    FORMAT_VERSION,
    MAX_ROWS,
    PROJECTION,
    SHA256,
)
from fishing.store.hdf5_streams import Output
from fishing.store.index import part_names, read_outline
from fishing.store.quantise import Projection, packed_width, quantise
from fishing.store.rows import BLOCK_ROWS, Rows, row_blocks
from fishing.store.settings import with_storage
from fishing.store.split import Split

# The first HDF5 that guards its structures by checksums, whatever the library's own.
_HDF5_VERSION = ("v110", "v110")
# Higher levels cost twice the time for 2 % of the size.
_GZIP = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
# A chunk is this large at most: the kernel reads columns, others read rows.
_CHUNK = (BLOCK_ROWS, 512)


def write_features(
    path: Path,
    settings: Mapping[str, Any],
    splits: Mapping[str, Split],
    progress: Progress = silent,
    projection: Mapping[str, Projection] | None = None,
) -> None:
    """Write a features file in one go.

    Parameters
    ----------
    path : Path
    settings : mapping
        How the values were made and how they are stored (see `storage_settings`); they
        become attributes of the file.
    splits : mapping of str to Split
        All with the same blobs.
    progress : Progress
        Counts bytes of values.
    projection : mapping of str to Projection, optional
        How the blobs were compressed, which integers need.

    Raises
    ------
    StoreError
        If a split has no blobs, or one that docs/format.md does not name; or if it has
        more images than a file may hold.
    OSError
        If the disk is full or lost.
    """
    for name, split in splits.items():
        if not split.blobs or not split.blobs.keys() <= set(BLOBS):
            raise StoreError(
                f"expected blobs of: {' '.join(BLOBS)}; found "
                f"{' '.join(split.blobs) or 'none'} in split '{name}'"
            )
        if len(split) > MAX_ROWS:
            raise StoreError(
                f"expected at most {MAX_ROWS} images in a split of one file, found "
                f"{len(split)} in split '{name}'; keep them in a folder of shards"
            )
    with (
        Output(path) as target,
        h5py.File(target, "w", libver=_HDF5_VERSION) as file,
    ):
        _write_text(file, "format", FORMAT)
        file.attrs["format_version"] = FORMAT_VERSION
        for key, value in settings.items():
            text = json.dumps(value) if isinstance(value, dict) else value
            if isinstance(text, str):
                _write_text(file, key, text)
            else:
                file.attrs[key] = value
        _write_text(file, "splits", json.dumps(list(splits)))
        _reserve_sha256(file)
        # All structures come before the values, so that a lost tail costs values only.
        todo = []
        for name, split in splits.items():
            todo += _create_split(file, name, split, settings, projection or {})
        if projection:
            todo += _create_projection(file, projection)
        file.flush()  # HDF5 would put off some of them
        done, total = 0, sum(dataset.nbytes for dataset, _ in todo)
        for dataset, values in todo:
            for n_bytes in _write_rows(dataset, values):
                done += n_bytes
                progress(path.name, done, total, "B")
        outline = read_outline(file, part_names(list(splits)))
        _record_sha256(file, outline_sha256(outline))


def _create_split(
    file: h5py.File,
    name: str,
    split: Split,
    settings: Mapping[str, Any],
    projection: Mapping[str, Projection],
) -> list[tuple[h5py.Dataset, Rows]]:
    """Create the group of a split, and pair its empty datasets with their values."""
    group = _create_group(file, name, ("forward", "backward", "failed"))
    _write_text(group, "list_sha256", split.list_sha256)
    _write_text(group, "devkit", split.devkit)
    arrays: dict[str, NDArray[Any]] = {
        "image_id": _fixed_length(split.image_id),
        "failed/image_id": _fixed_length(split.failed_id),
        "failed/reason": _fixed_length(split.failed_reason),
        "failed/index": split.failed_index,
    }
    if split.labels is not None and split.failed_labels is not None:
        arrays |= {"labels": split.labels, "failed/labels": split.failed_labels}
    made: list[tuple[h5py.Dataset, Rows]] = []
    for key, values in arrays.items():
        dataset = group.create_dataset(key, shape=values.shape, dtype=values.dtype)
        _reserve_sha256(dataset)
        made.append((dataset, values))
    if split.labels is not None:
        group["labels"].attrs["classes"] = _fixed_length(split.classes)
    for blob in BLOBS:
        if blob in split.blobs:
            rows = split.blobs[blob]
            made.append((_create_rows(group, blob, rows.shape, settings), rows))
            if blob in projection and projection[blob].scales is not None:
                made[-1][0].attrs["scales"] = projection[blob].scales
    return made


def _create_projection(
    file: h5py.File, projection: Mapping[str, Projection]
) -> list[tuple[h5py.Dataset, Rows]]:
    """Create the group of the bases, and pair its datasets with their values."""
    group = _create_group(file, PROJECTION, ("forward", "backward"))
    return [
        (_create_rows(group, blob, one.bases.shape, {}), one.bases)
        for blob, one in projection.items()
    ]


def _create_group(file: h5py.File, name: str, parts: Sequence[str]) -> h5py.Group:
    """Create a group and those in it; one made on the way would hold a clock time."""
    group = file.create_group(name)
    for part in parts:
        group.create_group(part)
    return group


def _create_rows(
    group: h5py.Group, name: str, shape: tuple[int, ...], settings: Mapping[str, Any]
) -> h5py.Dataset:
    """Create the dataset of a blob, without its values."""
    storage = with_storage(settings)
    layout: dict[str, Any] = {}
    dtype = DTYPES[storage["dtype"]]
    shape = (shape[0], packed_width(shape[1], storage["dtype"]))
    # HDF5 has no chunks without values.
    if storage["compression"] == "gzip" and math.prod(shape):
        layout = {"chunks": tuple(map(min, shape, _CHUNK)), **_GZIP}
    dataset = group.create_dataset(name, shape=shape, dtype=dtype, **layout)
    if dataset.dtype == np.float16:
        dataset.attrs["scale"] = np.float32(1)
    _reserve_sha256(dataset)
    return dataset


def _write_rows(dataset: h5py.Dataset, rows: Any) -> Iterator[int]:
    """Write values a block of rows at a time, then their checksum; yield their bytes.

    For float16 the rows are read twice, since the scale depends on the largest value.
    """
    is_half = dataset.dtype == np.float16
    scales = dataset.attrs.get("scales")
    blocks = list(row_blocks(len(dataset)))
    if is_half:
        magnitudes = (float(np.abs(rows[block]).max(initial=0)) for block in blocks)
        scale = _half_scale(max(magnitudes, default=0))
        dataset.attrs.modify("scale", scale)
    digest = hashlib.sha256()
    for block in blocks:
        values = rows[block] / scale if is_half else rows[block]
        if scales is not None:
            dtype = "int4" if dataset.dtype == np.uint8 else "int8"
            values = quantise(values, scales, dtype)
        values = np.ascontiguousarray(values, dataset.dtype)
        digest.update(values.data)
        dataset[block] = values
        yield values.nbytes
    _record_sha256(dataset, digest.hexdigest())


def _reserve_sha256(part: Any) -> None:
    """Reserve room for the checksum of a file or dataset that has no values yet."""
    part.attrs[SHA256] = np.bytes_("0" * 64)


def _record_sha256(part: Any, hexdigest: str) -> None:
    part.attrs.modify(SHA256, np.bytes_(hexdigest))


def _write_text(part: h5py.Group, key: str, text: str) -> None:
    """Write a string as an attribute."""
    value = _fixed_length([text])
    part.attrs.create(key, value[0], dtype=value.dtype)


def _fixed_length(values: Sequence[str]) -> NDArray[np.bytes_]:
    """Encode strings, all of one length.

    HDF5 keeps strings of variable length in its one structure without a checksum, and
    hangs when a bit of it flips.
    """
    encoded = [value.encode() for value in values]
    length = max([1, *map(len, encoded)])
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", length))


def _half_scale(largest: float) -> np.float32:
    """Choose the power of two that brings the largest value near float16's limit.

    Gradients may be as small as 1e-8, where float16 has no digits left. With the scale
    all values that are at least 2^-29 of the largest one keep 11 bits.
    """
    mantissa, exponent = math.frexp(largest)
    # As it will be stored: writing what was read must find the same scale again.
    exponent += math.frexp(float(np.float16(mantissa)))[1]
    # Not below float32's own limit: the scale is a float32, and divides.
    return np.float32(2.0 ** max(exponent - 16, -126))
