"""The store: features files, opened by name, described and verified.

In goes the path of a ``features.h5``, out come its splits, whose blobs are read when
they are sliced: by another process, since the file may come from anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fishing.errors import StoreError
from fishing.errors import one_line as one_line
from fishing.progress import Progress, silent
from fishing.store.reader import Reader, find_damage
from fishing.store.rows import Rows as Rows
from fishing.store.write import FORMAT_VERSION as FORMAT_VERSION
from fishing.store.write import Split as Split
from fishing.store.write import write_features as write_features


def load(path: str | os.PathLike[str]) -> FeaturesFile:
    """Open a features file.

    Its splits are had by name. Their ids and labels are in memory, their blobs are read
    when they are sliced; the file stays open as long as one of them is used.

    Parameters
    ----------
    path : str or path
        As `fishing extract` made it.

    Returns
    -------
    FeaturesFile
        Its splits, by name.

    Raises
    ------
    StoreError
        If there is no such file, or it is no features file, or not whole.
    """
    return FeaturesFile(Path(path))


class FeaturesFile:
    """A features file, open for reading; a context manager.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    settings : dict
        How the file was made: net, temperature, preprocessing and the like.
    splits : dict of str to Split
        In the order in which they were extracted.
    format_version : int
        Files of version 1 have no checksums.

    Raises
    ------
    StoreError
        If there is no such file, or it is no features file, or not whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_file():
            raise StoreError(
                f"expected a features file at '{path}', found a folder, a device or a "
                "pipe"
            )
        self._reader = Reader(path)
        self.settings = self._reader.settings
        self.format_version = self._reader.format_version
        self.splits = self._reader.splits()

    def __enter__(self) -> FeaturesFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

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
        """Get a split by name; a StoreError says which there are."""
        if name not in self.splits:
            raise StoreError(
                f"{self.path}: expected a split '{name}', found "
                f"{' '.join(self.splits)}; extract it too, or choose among these"
            )
        return self.splits[name]


def describe(path: Path) -> dict[str, Any]:
    """Say what is in a features file.

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
    """Find out whether a features file is as it was written, to the last bit.

    Parameters
    ----------
    path : Path
    progress : Progress
        Counts bytes of values.

    Raises
    ------
    StoreError
        If the file is missing, damaged (it names the datasets), or has no checksums.
    """
    damage = find_damage(
        path, lambda done, total: progress(path.name, done, total, "B")
    )
    if damage:
        found = "; ".join(f"{name}: {reason}" for name, reason in damage.items())
        raise StoreError(
            f"{path}: expected what was written, found damage in {found}; take a copy "
            "of the file, or extract anew with --overwrite"
        )
    with FeaturesFile(path) as whole:
        if whole.format_version == 1:
            raise StoreError(
                f"{path}: expected checksums, found a file of format version 1, which "
                "has none; extract anew with --overwrite"
            )
