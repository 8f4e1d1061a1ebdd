"""A folder of shards, read as one features file.

Each shard is a features file of a part of the list. HDF5's virtual datasets would read
a missing one as zeros without a word; here it is an error that names it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fishing.errors import StoreError, one_line
from fishing.files import file_sha256
from fishing.images import ImageList
from fishing.processes import in_threads
from fishing.progress import Progress, silent
from fishing.store.manifest import Manifest, read_manifest, shard_path
from fishing.store.rows import StackedRows
from fishing.store.settings import check_same_settings
from fishing.store.split import Split

_MOST_NAMED = 10  # shards in one message


def stored_bytes(path: Path) -> int:
    """Add up the bytes of a features file, or of the shards of a folder."""
    if not path.is_dir():
        return path.stat().st_size
    shards = range(len(read_manifest(path).shards))
    return sum(shard_path(path, number).stat().st_size for number in shards)


class OpenShard(Protocol):
    """What is needed of an open `FeaturesFile`, which is built on this module."""

    path: Path
    settings: dict[str, Any]
    splits: dict[str, Split]

    def release(self) -> None:
        """Keep no descriptor between reads."""
        ...

    def close(self) -> None:
        """Refuse further reads."""
        ...


class Shards:
    """The shards of a folder, open for reading.

    Parameters
    ----------
    folder : Path
    open_file : callable
        Opens one shard.

    Attributes
    ----------
    settings, splits
        As those of a `FeaturesFile`.
    sha256 : str
        Over the SHA-256 of all shards.

    Raises
    ------
    StoreError
        If the manifest or a shard is missing, damaged, or belongs to other work.
    """

    def __init__(self, folder: Path, open_file: Callable[[Path], OpenShard]) -> None:
        self._folder = folder
        self._manifest = read_manifest(folder)
        n = len(self._manifest.shards)
        _refuse_missing(folder, self._manifest)
        opened: dict[int, OpenShard] = {}

        def open_one(number: int) -> None:
            opened[number] = _open(folder, number, self._manifest, open_file)

        in_threads(open_one, range(n))
        self._files = [opened[number] for number in range(n)]
        digests = "".join(shard.sha256 for shard in self._manifest.shards)
        self.sha256 = hashlib.sha256(digests.encode()).hexdigest()
        self.settings: dict[str, Any] = self._files[
            0
        ].settings  # in the order of a single file
        self.splits = {
            name: self._joined(name, list_sha256)
            for name, list_sha256 in self._manifest.lists.items()
        }

    def __len__(self) -> int:
        return len(self._files)

    def close(self) -> None:
        """Refuse further reads."""
        for file in self._files:
            file.close()

    def _joined(self, name: str, list_sha256: str) -> Split:
        """View the parts of a split as a whole."""
        files = [file for file in self._files if name in file.splits]
        first = _kind(files[0].splits[name])
        for file in files:
            if _kind(file.splits[name]) != first:
                raise StoreError(
                    f"{file.path}: expected {first} in split '{name}' as in the first "
                    f"shard, found {_kind(file.splits[name])}; remove this shard and "
                    "make it anew"
                )
        split = _stacked([file.splits[name] for file in files])
        if _list(name, split).sha256 != list_sha256:
            raise StoreError(
                f"{self._folder}: expected the images and labels that the manifest "
                f"records of split '{name}', found others; take a copy of the folder, "
                "or extract anew into another one"
            )
        return dataclasses.replace(split, list_sha256=list_sha256)


def verify_shards(folder: Path, progress: Progress = silent) -> None:
    """Check that all shards are the files that the manifest records, to the last bit.

    Parameters
    ----------
    folder : Path
    progress : Progress
        Counts bytes.

    Raises
    ------
    StoreError
        If some are not; the message names them.
    """
    manifest = read_manifest(folder)
    _refuse_missing(folder, manifest)
    paths = [shard_path(folder, i) for i in range(len(manifest.shards))]
    done, total = 0, sum(path.stat().st_size for path in paths)
    damage = []
    for path, shard in zip(paths, manifest.shards, strict=True):
        try:
            if file_sha256(path) != shard.sha256:
                damage.append(f"{path}: other bytes than the manifest records")
        except OSError as error:
            damage.append(f"{path}: {one_line(error)}")
        done += path.stat().st_size
        progress(folder.name, done, total, "B")
    if damage:
        more = len(damage) - _MOST_NAMED
        raise StoreError(
            f"{len(damage)} of {len(paths)} shards are damaged: "
            + "; ".join(damage[:_MOST_NAMED])
            + (f"; and {more} more" if more > 0 else "")
            + "; run the same extraction again, which makes them anew"
        )


def _refuse_missing(folder: Path, manifest: Manifest) -> None:
    """Name the shards that are not there or not finished."""
    missing = [
        number
        for number, shard in enumerate(manifest.shards)
        if not shard.sha256 or not shard_path(folder, number).exists()
    ]
    if missing:
        named = " ".join(f"{number:05d}" for number in missing[:_MOST_NAMED])
        more = " ..." if len(missing) > _MOST_NAMED else ""
        n = len(manifest.shards)
        raise StoreError(
            f"{folder}: expected {n} shards, found {len(missing)} of them missing or "
            f"not finished: {named}{more}; `fishing extract --shards {n} --shard "
            f"{missing[0]}` with the same options makes the first of them"
        )


def _open(
    folder: Path,
    number: int,
    manifest: Manifest,
    open_file: Callable[[Path], OpenShard],
) -> OpenShard:
    """Open a shard, and check that it is the part that the manifest says."""
    path, shard = shard_path(folder, number), manifest.shards[number]
    if path.is_dir():
        raise StoreError(
            f"{path}: expected a shard, found a folder; remove it and make it anew"
        )
    file = open_file(path)
    check_same_settings(
        *(manifest.settings, file.settings, path), "remove it and make it anew"
    )
    rows = {name: len(split) for name, split in file.splits.items()}
    n_images = {
        name: len(split) + len(split.failed_id) for name, split in file.splits.items()
    }
    if rows != shard.rows or n_images != {
        name: stop - start for name, (start, stop) in shard.images.items()
    }:
        raise StoreError(
            f"{path}: expected rows of {shard.rows} images, as the manifest records, "
            f"found {rows}; remove this shard and make it anew"
        )
    file.release()
    return file


def _kind(split: Split) -> str:
    """Say what all parts of a split must have in common."""
    blobs = (f"{blob} {rows.shape[1]}" for blob, rows in split.blobs.items())
    labels = "no labels" if split.labels is None else " ".join(split.classes)
    return f"{' '.join(blobs)}; {labels}; {split.devkit}"


def _stacked(parts: Sequence[Split]) -> Split:
    """View parts of one list, one after the other, as one split."""
    starts = [0, *accumulate(len(part) + len(part.failed_id) for part in parts)]
    blobs = {
        name: StackedRows([part.blobs[name] for part in parts])
        for name in parts[0].blobs
    }
    return dataclasses.replace(
        parts[0],
        image_id=_chained(part.image_id for part in parts),
        labels=_concatenated([part.labels for part in parts]),
        blobs=blobs,
        failed_id=_chained(part.failed_id for part in parts),
        failed_reason=_chained(part.failed_reason for part in parts),
        failed_index=np.concatenate(
            [part.failed_index + n for part, n in zip(parts, starts, strict=False)]
        ),
        failed_labels=_concatenated([part.failed_labels for part in parts]),
    )


def _chained(texts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(chain.from_iterable(texts))


def _concatenated(parts: Sequence[NDArray[np.int8] | None]) -> NDArray[np.int8] | None:
    """Put labels one below the other, if there are any."""
    found = [part for part in parts if part is not None]
    return np.concatenate(found) if found else None


def _list(name: str, split: Split) -> ImageList:
    """Put the images of a split into the order of their list again."""
    failed = split.failed_index
    kept = np.delete(np.arange(len(split) + len(failed)), failed)
    order = np.argsort(np.concatenate([kept, failed]), kind="stable")
    ids = (*split.image_id, *split.failed_id)
    labels = None
    if split.labels is not None and split.failed_labels is not None:
        labels = np.concatenate([split.labels, split.failed_labels])[order]
    return ImageList(name, tuple(ids[i] for i in order), (), split.classes, labels)
