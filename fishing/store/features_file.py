"""Opens, describes and verifies features files.

A `FeaturesFile` holds the splits of a ``features.h5``. Their blobs are read when they
are sliced.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fishing.errors import StoreError, one_line, printable
from fishing.progress import Progress, silent
from fishing.store.checks import (
    check_blobs,
    check_names,
    check_projection,
    check_settings,
    check_split,
)
from fishing.store.checksums import find_damage, outline_sha256
from fishing.store.format import BLOBS, DTYPES, JSON_ATTRIBUTES, PROJECTION, SHA256
from fishing.store.index_process import ask
from fishing.store.places import BAD_INDEX, open_values
from fishing.store.quantise import read_scales
from fishing.store.rows import Rows, StoredRows
from fishing.store.shards import Shards, verify_shards
from fishing.store.split import Split
from fishing.store.values import OpenFile, PlainValues

_MAX_ARRAY = 2**28  # bytes that are read at once; a larger file allows its own size
_NOT_SETTINGS = {"format", "format_version", "splits", SHA256}


def load(path: str | os.PathLike[str]) -> FeaturesFile:
    """Open a features file.

    Ids and labels of its splits are read at once, blobs when they are sliced. The file
    stays open as long as one of its splits is used.

    Parameters
    ----------
    path : str or path
        A file, or a folder of shards, that `fishing extract` made.

    Returns
    -------
    FeaturesFile
        Its splits, by name.

    Raises
    ------
    StoreError
        If there is no such file, it is no features file, or it is not whole.
    """
    return FeaturesFile(Path(path))


class FeaturesFile:
    """A features file, open for reading; a context manager.

    Parameters
    ----------
    path : Path
        A file, or a folder of shards, which is read as one file.

    Attributes
    ----------
    settings : dict
        How the file was made: net, temperature, preprocessing and the like.
    splits : dict of str to Split
        In the order in which they were extracted.
    projection : dict of str to array_like of float32, shape (d, k)
        The directions that each blob of a compressed file was projected on, read when
        they are sliced; empty if the file is not compressed.
    sha256 : str
        Over the recorded checksums of all values, and over what holds them together.

    Raises
    ------
    StoreError
        If there is no such file, it is no features file, or it is not whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shards = Shards(path, FeaturesFile) if os.path.isdir(path) else None
        if self._shards is not None:
            self.settings, self.splits = self._shards.settings, self._shards.splits
            self.projection: dict[str, Rows] = {}
            self.sha256 = self._shards.sha256
            return
        self._file = _open(path)
        self._index = ask("read_index", self._file)
        self.settings, self.splits, self.projection = _read(self._file, self._index)
        self.sha256 = outline_sha256(self._index["outline"])

    def __enter__(self) -> FeaturesFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Refuse further reads."""
        (self._shards or self._file).close()

    def release(self) -> None:
        """Keep no descriptor between reads, for which the file is opened anew."""
        self._file.release()

    def __getitem__(self, name: str) -> Split:
        return self.split(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __contains__(self, name: object) -> bool:
        return name in self.splits

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} ({len(self[name])})" for name in self)
        return f"<FeaturesFile '{self.path}': {self.settings.get('net')}, {splits}>"

    def split(self, name: str) -> Split:
        """Get a split by name.

        Raises
        ------
        StoreError
            If there is no such split; the message lists those that there are.
        """
        if name not in self.splits:
            raise StoreError(
                f"{self.path}: expected a split '{name}', found "
                f"{' '.join(self.splits)}; extract it too, or choose among these"
            )
        return self.splits[name]

    def verify(self, progress: Progress = silent) -> None:
        """Check that all values are as they were written, to the last bit.

        Raises
        ------
        StoreError
            If some are not; the message names the damaged datasets.
        """
        if self._shards is not None:
            verify_shards(self.path, progress)
            return
        _refuse_damage(self._file, self._index, progress)


def describe(path: Path) -> dict[str, Any]:
    """Describe what is in a features file.

    Returns
    -------
    dict
        ``settings``; ``splits`` by name with ``n_images``, ``n_failed``, ``n_classes``,
        ``blobs`` (values per image) and ``failed`` (reason by id).

    Raises
    ------
    StoreError
        If the file is missing, or not a whole features file.
    """
    with FeaturesFile(path) as file:
        splits = {
            name: {
                "n_images": len(split),
                "n_failed": len(split.failed_id),
                "n_classes": len(split.classes),
                "blobs": {blob: rows.shape[1] for blob, rows in split.blobs.items()},
                "failed": dict(zip(split.failed_id, split.failed_reason, strict=True)),
            }
            for name, split in file.splits.items()
        }
        return {"settings": file.settings, "splits": splits}


def verify(path: Path, progress: Progress = silent) -> None:
    """Check that a features file is as it was written, to the last bit.

    Parameters
    ----------
    path : Path
    progress : Progress
        Counts bytes of values.

    Raises
    ------
    StoreError
        If the file is missing or damaged; the message names the damaged datasets.
    """
    if os.path.isdir(path):  # which raises no error
        verify_shards(path, progress)
        FeaturesFile(path)  # their parts fit together
        return
    file, refusal = _open(path), None
    try:
        index = ask("read_index", file)
        _read(file, index)
    except StoreError as error:
        refusal, index = error, ask("survey", file)
    _refuse_damage(file, index, progress)
    if refusal is not None:
        raise refusal


def _refuse_damage(
    file: OpenFile, index: Mapping[str, Any], progress: Progress
) -> None:
    damage = find_damage(file, index, progress)
    if damage:
        found = "; ".join(f"{name}: {reason}" for name, reason in damage.items())
        raise StoreError(
            f"{file.path}: expected what was written, found damage in {found}; take a "
            "copy of the file, or extract anew with --overwrite"
        )


def _open(path: Path) -> OpenFile:
    try:
        return OpenFile(path)
    except FileNotFoundError:
        raise StoreError(
            f"expected a features file at '{path}', found none; `fishing extract` "
            "makes one"
        ) from None
    except (OSError, ValueError) as error:
        raise StoreError(
            printable(f"expected a features file at '{path}', found: {one_line(error)}")
            + "; name one that is there and can be read"
        ) from None


def _read(
    file: OpenFile, index: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Split], dict[str, Rows]]:
    """Read the settings, splits and bases of a file, but for their values."""
    try:
        attributes = index["outline"]["/"]["attributes"]
        settings = {
            key: json.loads(value) if key in JSON_ATTRIBUTES else value
            for key, value in attributes.items()
            if key not in _NOT_SETTINGS
        }
        check_settings(settings)
        names = check_names(json.loads(attributes["splits"]))
        splits = {name: _read_split(_Parts(file, index, name), name) for name in names}
        check_blobs(splits)
        bases = {}
        if PROJECTION in settings:
            parts = _Parts(file, index, PROJECTION)
            bases = {blob: parts.rows(blob) for blob in BLOBS if blob in parts}
            check_projection(splits, bases)
    except (OSError, MemoryError) as error:
        raise StoreError(
            f"{file.path}: expected to read it, found {one_line(error)}; look at the "
            "disk and the memory, or take a copy of the file"
        ) from None
    except BAD_INDEX as error:
        raise StoreError(
            f"{file.path}: expected a whole features file, found {one_line(error)}; "
            "extract it anew with --overwrite"
        ) from None
    return settings, splits, bases


class _Parts:
    """The datasets of one split, opened by the index of the file."""

    def __init__(self, file: OpenFile, index: Mapping[str, Any], split: str) -> None:
        self._file, self._split = file, split
        self._outline, self._places = index["outline"], index["places"]

    def __contains__(self, name: str) -> bool:
        return f"{self._split}/{name}" in self._outline

    def attributes(self, name: str = "") -> dict[str, Any]:
        """Get the attributes of a dataset, or of the split itself."""
        path = f"{self._split}/{name}" if name else self._split
        found: dict[str, Any] = self._outline[path]["attributes"]
        return found

    def values(self, name: str) -> PlainValues:
        """Open a dataset."""
        path = f"{self._split}/{name}"
        if path not in self._outline:
            raise ValueError(f"no {name} in {self._split}")
        return open_values(self._file, path, self._outline[path], self._places[path])

    def array(self, name: str, kind: str) -> NDArray[Any]:
        """Read a whole dataset, whose type must be of one kind."""
        values = self.values(name)
        if values.dtype.kind != kind:
            raise ValueError(f"values of type {values.dtype} in {self._split}/{name}")
        # A tiny file could hold any number of zeros, packed by zlib.
        if values.nbytes > max(self._file.size, _MAX_ARRAY):
            raise ValueError(f"{values.nbytes} bytes in {self._split}/{name}")
        return values.read(slice(None))

    def texts(self, name: str) -> tuple[str, ...]:
        """Read a dataset of strings."""
        return tuple(text.decode() for text in self.array(name, "S").tolist())

    def rows(self, name: str) -> Rows:
        """Open a blob."""
        values, path = self.values(name), f"/{self._split}/{name}"
        dtype = {v: k for k, v in DTYPES.items()}.get(values.dtype.str)
        if dtype is None or len(values.shape) != 2:
            raise ValueError(
                f"values of type {values.dtype} and a shape of {values.shape} in {path}"
            )
        if dtype == "float32":
            return StoredRows(path, values)
        if dtype != "float16":
            scales = read_scales(self.attributes(name), values.shape[1], dtype)
            return StoredRows(path, values, scales)
        scale = float(self.attributes(name)["scale"])
        if not 0 < scale < math.inf:
            raise ValueError(f"a scale of {scale} in {path}")
        return StoredRows(path, values, scale)


def _read_split(parts: _Parts, name: str) -> Split:
    """Read one split, but for its blobs; raise ValueError if its parts do not fit."""
    labelled = "labels" in parts
    split = Split(
        image_id=parts.texts("image_id"),
        labels=parts.array("labels", "i") if labelled else None,
        classes=tuple(parts.attributes("labels")["classes"]) if labelled else (),
        blobs={blob: parts.rows(blob) for blob in BLOBS if blob in parts},
        failed_id=parts.texts("failed/image_id"),
        failed_reason=parts.texts("failed/reason"),
        failed_index=parts.array("failed/index", "i"),
        failed_labels=parts.array("failed/labels", "i") if labelled else None,
        devkit=str(parts.attributes()["devkit"]),
        list_sha256=str(parts.attributes()["list_sha256"]),
    )
    check_split(f"/{name}", split)
    return split
