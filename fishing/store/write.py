"""The layout of a features file in HDF5 (docs/format.md): written here, and read.

In go whole splits, out comes one ``features.h5``, and from it its splits. It holds no
clock time, so the same splits give the same bytes. Files from anywhere are read by a
process of its own: see `fishing.store.reader`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fishing.errors import StoreError, one_line
from fishing.nets import BLOBS
from fishing.store.checks import (
    check_names,
    check_settings,
    check_split,
    check_structure,
)
from fishing.store.checksums import (
    HDF5_ERRORS,
    SHA256,
    find_damage,
    plain,
    record_outline,
    reserve_sha256,
)
from fishing.store.chunks import read_values
from fishing.store.hdf5_streams import EndlessInput, Output
from fishing.store.rows import Rows, create_rows, open_rows, write_rows

FORMAT = "fishing-features"
FORMAT_VERSION = 3
_JSON = {"preprocess", "blobs"}
# The first HDF5 that guards its structures by checksums, whatever the library's own.
_HDF5_VERSION = ("v110", "v110")


@dataclass(frozen=True)
class Split:
    """One split of a features file, as long as the file is open.

    Attributes
    ----------
    image_id : tuple of str, length n
        In the order of the split file.
    labels : ndarray of int8, shape (n, n_classes), or None
        1 positive, -1 negative, 0 difficult.
    classes : tuple of str
    blobs : mapping of str to array_like of float32, shape (n, d)
        By the names of `fishing.backends.BLOBS`; read from the file when sliced.
    failed_id, failed_reason : tuple of str
        Images without a row.
    failed_index : ndarray of int64
        Their places in the split file, counted from 0.
    failed_labels : ndarray of int8, shape (n_failed, n_classes), or None
    devkit, list_sha256 : str
    """

    image_id: tuple[str, ...]
    labels: NDArray[np.int8] | None
    classes: tuple[str, ...]
    blobs: Mapping[str, Rows]
    failed_id: tuple[str, ...]
    failed_reason: tuple[str, ...]
    failed_index: NDArray[np.int64]
    failed_labels: NDArray[np.int8] | None
    devkit: str
    list_sha256: str

    def __len__(self) -> int:
        return len(self.image_id)

    def __repr__(self) -> str:
        n_classes, n_failed = len(self.classes), len(self.failed_id)
        return f"<Split: {len(self)} images, {n_failed} failed, {n_classes} classes>"


class StoredFile:
    """A features file as HDF5 has it, open for reading.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    settings, splits, format_version
        As in `fishing.store.FeaturesFile`.

    Raises
    ------
    StoreError
        If there is no such file, or it is no features file, or not whole.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = h5py.File(path, "r")
        except FileNotFoundError:
            raise StoreError(
                f"expected a features file at '{path}', found none; "
                "`fishing extract` makes one"
            ) from None
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path}: expected an HDF5 file, found {one_line(error)}"
            ) from None
        try:
            check_structure(self._file)
            self.settings = _read_settings(self._file)
            self.format_version: int = self.settings.pop("format_version")
            check_settings(self.settings)
            names = check_names(json.loads(self._file.attrs["splits"]))
            self.splits = {name: _read_split(self._file[name]) for name in names}
            _check_widths(self.splits)
        except (*HDF5_ERRORS, MemoryError) as error:
            self._file.close()
            raise StoreError(
                f"{path}: expected a whole features file, found {one_line(error)}; "
                "extract it anew with --overwrite"
            ) from None

    def close(self) -> None:
        """Close it."""
        self._file.close()


def damage_of(path: Path, progress: Callable[[int, int], None]) -> dict[str, str]:
    """Say what is wrong with the datasets of a features file, by its checksums.

    Nothing, where it cannot even be opened, or has no checksums.

    Parameters
    ----------
    path : Path
    progress : callable
        Called with how many bytes of values are read, and of how many.

    Returns
    -------
    dict of str to str
        See `fishing.store.checksums.find_damage`.
    """
    with (
        suppress(*HDF5_ERRORS),
        EndlessInput(path) as source,
        h5py.File(source, "r") as file,
    ):
        if file.attrs["format_version"] > 1:
            return find_damage(file, path.stat().st_size, progress)
    return {}


def write_features(
    path: Path,
    settings: Mapping[str, Any],
    splits: Mapping[str, Split],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a features file in one go.

    Parameters
    ----------
    path : Path
    settings : mapping
        How the values were made and, as `fishing.store.storage_settings` says it, how
        they are stored; becomes the attributes of the file.
    splits : mapping of str to Split
    progress : callable, optional
        Called with how many bytes of values are written, and of how many.

    Raises
    ------
    OSError
        If the disk is full or lost.
    """
    report = progress or (lambda *_: None)
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
        reserve_sha256(file)
        # All that holds the values comes before them: a lost tail costs values only.
        made = {
            name: _create_split(file, name, split, settings)
            for name, split in splits.items()
        }
        file.flush()  # HDF5 puts off some of it
        todo = [pair for datasets in made.values() for pair in datasets]
        done, total = 0, sum(dataset.nbytes for dataset, _ in todo)
        for dataset, values in todo:
            for n_bytes in write_rows(dataset, values):
                done += n_bytes
                report(done, total)
        record_outline(file)


def _read_settings(file: h5py.File) -> dict[str, Any]:
    """Read the attributes of the file; raise ValueError where it is another format."""
    attrs = {key: plain(value) for key, value in file.attrs.items()}
    if attrs.pop("format", None) != FORMAT:
        raise ValueError("an HDF5 file of another kind")
    version = attrs["format_version"]
    if version != FORMAT_VERSION:
        age = "an earlier" if version < FORMAT_VERSION else "a later"
        raise ValueError(f"format {version}, made by {age} version of fishing")
    attrs.pop("splits")
    attrs.pop(SHA256, None)
    for key in _JSON & set(attrs):
        attrs[key] = json.loads(attrs[key])
    return attrs


def _create_split(
    file: h5py.File, name: str, split: Split, settings: Mapping[str, Any]
) -> list[tuple[h5py.Dataset, Rows]]:
    """Make one group; its datasets, and the values that belong into them."""
    group = file.create_group(name)
    for part in ("forward", "backward", "failed"):
        group.create_group(part)  # one made on the way would hold a clock time
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
        reserve_sha256(dataset)
        made.append((dataset, values))
    if split.labels is not None:
        group["labels"].attrs["classes"] = _fixed_length(split.classes)
    for blob, rows in split.blobs.items():
        made.append((create_rows(group, blob, rows.shape, settings), rows))
    return made


def _read_split(group: h5py.Group) -> Split:
    """View one group; raise ValueError where its parts do not fit together."""
    labelled = "labels" in group
    required = ["image_id", *BLOBS, *(f"failed/{n}" for n in ("image_id", "reason"))]
    required += ["failed/index"] + ["failed/labels"] * labelled
    missing = [name for name in required if name not in group]
    if missing:
        raise ValueError(f"no {missing[0]} in {group.name}")
    split = Split(
        image_id=_texts(group["image_id"]),
        labels=read_values(group["labels"]) if labelled else None,
        classes=tuple(plain(group["labels"].attrs["classes"])) if labelled else (),
        blobs={name: open_rows(group[name]) for name in BLOBS},
        failed_id=_texts(group["failed/image_id"]),
        failed_reason=_texts(group["failed/reason"]),
        failed_index=read_values(group["failed/index"]),
        failed_labels=read_values(group["failed/labels"]) if labelled else None,
        devkit=str(plain(group.attrs["devkit"])),
        list_sha256=str(plain(group.attrs["list_sha256"])),
    )
    _check_shapes(split, group.name)
    check_split(group.name, split)
    return split


def _texts(dataset: Any) -> tuple[str, ...]:
    """Read a dataset of strings."""
    if dataset.dtype.kind != "S":
        raise ValueError(f"{dataset.dtype}, not strings, in {dataset.name}")
    return tuple(text.decode() for text in read_values(dataset).tolist())


def _check_shapes(split: Split, name: str) -> None:
    """Raise ValueError where the parts of a split do not fit together."""
    n, m, n_classes = len(split), len(split.failed_id), len(split.classes)
    found: dict[str, tuple[int, ...]] = {
        "failed/reason": (len(split.failed_reason),),
        "failed/index": split.failed_index.shape,
    }
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(found, (m,))
    if split.labels is not None and split.failed_labels is not None:
        found |= {"labels": split.labels.shape}
        found |= {"failed/labels": split.failed_labels.shape}
        expected |= {"labels": (n, n_classes), "failed/labels": (m, n_classes)}
    for blob, rows in split.blobs.items():
        found[blob] = rows.shape
        expected[blob] = (n, rows.shape[-1])
        if rows.dtype != np.float32:
            raise ValueError(f"values of type {rows.dtype} in {name}/{blob}")
    for part, shape in found.items():
        if shape != expected[part]:
            raise ValueError(
                f"a shape of {shape} in {name}/{part}, where {expected[part]} fits "
                f"{n} images and {m} failed ones"
            )
    if sorted(set(split.failed_index) & set(range(n + m))) != list(split.failed_index):
        raise ValueError(f"other places than those of {n + m} images in {name}/failed")


def _check_widths(splits: Mapping[str, Split]) -> None:
    """Raise ValueError where splits have blobs of different widths."""
    for blob in BLOBS:
        widths = {split.blobs[blob].shape[1] for split in splits.values()}
        if len(widths) > 1:
            raise ValueError(f"splits with {blob} of {sorted(widths)} values an image")


def _write_text(part: h5py.Group, key: str, text: str) -> None:
    """Write a string as an attribute."""
    value = _fixed_length([text])
    part.attrs.create(key, value[0], dtype=value.dtype)


def _fixed_length(values: Sequence[str]) -> NDArray[np.bytes_]:
    """Encode strings, all of one length.

    Those of variable length lie in the one structure of HDF5 that has no checksum, and
    that it hangs on when a bit of it flips.
    """
    encoded = [value.encode() for value in values]
    length = max([1, *map(len, encoded)])
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", length))
