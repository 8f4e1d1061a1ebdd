"""The rows of one split while they are extracted, and a journal that says which count.

In go batches, out comes a `Split`. A crash can tear no more than the batch in flight.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.dataset import ImageList
from fishing.disk import sync_folder, write_durably
from fishing.errors import StoreError
from fishing.rows import Rows
from fishing.store import Split


class Journal:
    """The rows of a split in a plain file, and a journal of the batches.

    A row holds the blobs of one image one after the other. A line of the journal is
    written once the rows that it tells of are on the disk; what the last whole line
    does not know is cut off.

    Parameters
    ----------
    stem : Path
        The two files, without their suffixes.
    images : ImageList
    widths : mapping of str to int
        Values per image of each blob.

    Attributes
    ----------
    n_done : int
        How many images of the list, from its start, are done.

    Raises
    ------
    StoreError
        If rows of another list are there.
    OSError
        If the disk is full or lost.
    """

    def __init__(
        self, stem: Path, images: ImageList, widths: Mapping[str, int]
    ) -> None:
        self._images = images
        self._widths = dict(widths)
        self._row_bytes = 4 * sum(widths.values())
        self.n_done, self._n_rows = 0, 0
        self._failed: dict[int, str] = {}
        self._journal, self._rows = (
            # Unbuffered: closing on a full disk must have nothing left to write.
            file.open("a+b", buffering=0)
            for file in _files(stem)
        )
        try:
            self._recover()
            sync_folder(stem.parent)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def remove(stem: Path) -> None:
        """Remove the files of a split, if there are any."""
        for file in _files(stem):
            file.unlink(missing_ok=True)

    @staticmethod
    def find(folder: Path) -> list[Path]:
        """Find the stems of the splits in a folder."""
        suffixes = {file.suffix for file in _files(Path("split"))}
        files = (file for file in folder.iterdir() if file.suffix in suffixes)
        return sorted({file.with_suffix("") for file in files})

    def _recover(self) -> None:
        """Read the journal and cut off what it does not tell of."""
        n_bytes = os.fstat(self._rows.fileno()).st_size
        whole = 0
        self._journal.seek(0)
        for line in self._journal.read().splitlines(keepends=True):
            entry = _parse(line)
            if whole == 0 and "list" in entry:
                check_list(self._images.sha256, entry["list"], self._images.split)
            elif (
                whole and "rows" in entry and entry["rows"] * self._row_bytes <= n_bytes
            ):
                self.n_done, self._n_rows = entry["done"], entry["rows"]
                self._failed.update({int(i): r for i, r in entry["failed"].items()})
            else:  # torn or damaged: what comes after it does not count either
                break
            whole += len(line)
        self._journal.truncate(whole)
        self._rows.truncate(self._n_rows * self._row_bytes)
        if not whole:
            self._log({"list": self._images.sha256})

    @property
    def n_failed(self) -> int:
        """How many of the images that are done have no row."""
        return len(self._failed)

    def append(
        self,
        n_done: int,
        blobs: Mapping[str, NDArray[np.float32]],
        failed: Mapping[int, str],
    ) -> None:
        """Write the rows, then the line that makes them count."""
        n_rows = self._n_rows
        if blobs:
            parts = [blobs[name].astype("<f4", copy=False) for name in self._widths]
            rows = np.concatenate(parts, axis=1)
            write_durably(self._rows, rows.tobytes())
            n_rows += len(rows)
        self._log({"done": n_done, "rows": n_rows, "failed": dict(failed)})
        self.n_done, self._n_rows = n_done, n_rows
        self._failed.update(failed)

    def _log(self, entry: Mapping[str, Any]) -> None:
        write_durably(self._journal, json.dumps(entry).encode() + b"\n")

    def read(self) -> Split:
        """View the rows as a split."""
        images = self._images
        failed = np.array(sorted(self._failed), dtype=np.int64)
        kept = np.delete(np.arange(self.n_done), failed)
        blobs: dict[str, Rows] = {}
        offset = 0
        for name, width in self._widths.items():
            shape = (len(kept), width)
            blobs[name] = _Columns(self._rows, shape, offset, self._row_bytes)
            offset += 4 * width
        return Split(
            image_id=tuple(images.image_id[i] for i in kept),
            labels=None if images.labels is None else images.labels[kept],
            classes=images.classes,
            blobs=blobs,
            failed_id=tuple(images.image_id[i] for i in failed),
            failed_reason=tuple(self._failed[int(i)] for i in failed),
            failed_index=failed,
            failed_labels=None if images.labels is None else images.labels[failed],
            devkit=images.devkit,
            list_sha256=images.sha256,
        )

    def close(self) -> None:
        """Close both files."""
        self._rows.close()
        self._journal.close()


class _Columns:
    """One blob in a file of rows, read when it is sliced by rows.

    Read rather than mapped: a page of a lost disk would end the process, and those that
    were read would count as its memory.
    """

    def __init__(
        self, file: FileIO, shape: tuple[int, int], offset: int, row_bytes: int
    ) -> None:
        self.shape: tuple[int, ...] = shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self._file, self._offset, self._row_bytes = file, offset, row_bytes

    def __getitem__(self, key: slice) -> NDArray[np.float32]:
        n_rows, width = self.shape
        places = range(n_rows)[key]
        values: NDArray[np.float32] = np.empty((len(places), width), "<f4")
        for place, row in zip(places, values, strict=True):
            offset = place * self._row_bytes + self._offset
            if os.preadv(self._file.fileno(), [row], offset) < row.nbytes:
                raise OSError(errno.EIO, "rows that were written are gone")
        return values


def check_list(expected: str, found: str, split: str) -> None:
    """Refuse to mix rows of different lists of images."""
    if expected != found:
        raise StoreError(
            f"the images or labels of split '{split}' differ from those extracted "
            "before under this name; choose another --output, or --overwrite"
        )


def _files(stem: Path) -> tuple[Path, Path]:
    return (
        stem.with_name(stem.name + ".journal"),
        stem.with_name(stem.name + ".rows"),
    )


def _parse(line: bytes) -> dict[str, Any]:
    """Read a line of a journal; nothing where it is torn or damaged."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else {}
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
