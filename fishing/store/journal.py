"""The rows of one split while they are extracted, and a journal that counts them.

A crash can tear no more than the batch in flight, and rows that are damaged later do
not count.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import StoreError
from fishing.files import sync_folder, write_durably
from fishing.images import ImageList
from fishing.mounts import not_offered
from fishing.store.rows import Rows, StoredRows
from fishing.store.split import Split
from fishing.store.values import OpenFile, PlainValues

_BLOCK = 2**20  # bytes of rows that are read at once
_REASON = 2**12  # bytes of a line that one failed image takes, at most


@dataclass(frozen=True)
class _Batch:
    """The rows that a line of the journal counts, and where the next line begins."""

    n_done: int
    n_rows: int
    sha256: str
    end: int


class Journal:
    """The rows of a split in a plain file, and a journal of the batches.

    A row holds the blobs of one image one after the other. A line of the journal is
    written once the rows that it counts are on the disk; what lies behind the rows that
    the last whole line counts is cut off. A line has the checksum of its rows, and one
    of itself and all lines before it.

    The two files are named by a stem and their suffixes; `widths` are the values per
    image of each blob. Raises StoreError if rows of another list are there, and OSError
    if the disk is full or lost.
    """

    def __init__(
        self, stem: Path, images: ImageList, widths: Mapping[str, int]
    ) -> None:
        self._images = images
        self._widths = dict(widths)
        self._row_bytes = 4 * sum(widths.values())
        self._batches = [_Batch(0, 0, "", 0)]
        self._chain = ""
        self._failed: dict[int, str] = {}
        is_new = not any(file.exists() for file in _files(stem))
        with ExitStack() as undo:
            if is_new:  # nothing is left of what could not be started
                undo.callback(Journal.remove, stem)
            with not_offered("appending to files", stem):
                self._journal, self._rows = (
                    # Unbuffered: closing on a full disk must have nothing to write.
                    undo.enter_context(file.open("a+b", buffering=0))
                    for file in _files(stem)
                )
            self._recover()
            sync_folder(stem.parent)
            undo.pop_all()

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
        """Read the journal, and cut off the rows that it does not count."""
        n_bytes = os.fstat(self._rows.fileno()).st_size
        for line in self._lines():
            entry, chain = _parse(line, self._chain)
            if not self._chain and "list" in entry:
                check_list(self._images.sha256, entry["list"], self._images.split)
                batch = _Batch(0, 0, "", len(line))
            elif self._chain and self._is_next(entry, n_bytes):
                end = self._batches[-1].end + len(line)
                batch = _Batch(entry["done"], entry["rows"], entry["sha256"], end)
                self._failed |= {int(i): r for i, r in entry["failed"].items()}
            else:  # torn or damaged: what comes after it does not count either
                break
            self._batches.append(batch)
            self._chain = chain
        self._cut()
        if not self._chain:
            self._log({"list": self._images.sha256}, 0, 0)

    def _lines(self) -> Iterator[bytes]:
        """Read the journal line by line, up to the longest that `append` writes."""
        self._journal.seek(0)
        source = io.BufferedReader(self._journal)
        try:
            while line := source.readline(_REASON * (1 + len(self._images))):
                yield line
        finally:
            source.detach()  # else it would close the file

    def _is_next(self, entry: Mapping[str, Any], n_bytes: int) -> bool:
        """Tell whether an entry can follow the last batch."""
        done, rows, failed = (entry.get(key) for key in ("done", "rows", "failed"))
        before = self._batches[-1]
        return (
            type(done) is int
            and type(rows) is int
            and isinstance(failed, dict)
            and isinstance(entry.get("sha256"), str)
            and before.n_done < done <= len(self._images)
            and before.n_rows <= rows <= n_bytes // self._row_bytes
            and set(failed) <= {str(i) for i in range(before.n_done, done)}
            and done - rows == len(self._failed) + len(failed)
            and all(isinstance(r, str) and _is_text(r) for r in failed.values())
        )

    def _cut(self) -> None:
        """Cut both files behind the last batch."""
        last = self._batches[-1]
        ends = {self._journal: last.end, self._rows: last.n_rows * self._row_bytes}
        for file, end in ends.items():
            if os.fstat(file.fileno()).st_size > end:
                with not_offered("the cutting of files", Path(str(file.name))):
                    file.truncate(end)

    @property
    def n_done(self) -> int:
        """How many images of the list, from its start, are done."""
        return self._batches[-1].n_done

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
        """Write the rows of a batch, then the line that makes them count."""
        n_rows, content = self._batches[-1].n_rows, b""
        if blobs:
            parts = [blobs[name].astype("<f4", copy=False) for name in self._widths]
            rows = np.concatenate(parts, axis=1)
            content = rows.tobytes()
            write_durably(self._rows, content)
            n_rows += len(rows)
        entry = {"done": n_done, "rows": n_rows, "failed": dict(failed)}
        sha256 = hashlib.sha256(content).hexdigest()
        self._log({**entry, "sha256": sha256}, n_done, n_rows, sha256)
        self._failed.update(failed)

    def _log(
        self, entry: Mapping[str, Any], n_done: int, n_rows: int, sha256: str = ""
    ) -> None:
        """Write a line, and remember its batch."""
        chain = _chained(self._chain, entry)
        line = json.dumps({**entry, "chain": chain}).encode() + b"\n"
        write_durably(self._journal, line)
        end = self._batches[-1].end + len(line)
        self._batches.append(_Batch(n_done, n_rows, sha256, end))
        self._chain = chain

    def check(self) -> Iterator[int]:
        """Check, batch by batch, that the rows are those that were written.

        Yields how many images are checked. If rows are damaged, they and all after them
        do not count any more, and a StoreError is raised.
        """
        place = 0
        for number, batch in enumerate(self._batches):
            end = batch.n_rows * self._row_bytes
            digest = hashlib.sha256()
            while place < end:
                block = os.pread(self._rows.fileno(), min(_BLOCK, end - place), place)
                if not block:
                    break
                digest.update(block)
                place += len(block)
            if batch.sha256 and digest.hexdigest() != batch.sha256:
                del self._batches[number:]
                self._cut()
                raise StoreError(
                    f"expected the rows of split '{self._images.split}' that were "
                    f"written before, found damage behind image {self.n_done}; the "
                    "same command goes on from there"
                )
            yield batch.n_done

    def read(self) -> Split:
        """View the rows as a split, whose blobs are read when they are sliced."""
        images = self._images
        failed = np.array(sorted(self._failed), dtype=np.int64)
        kept = np.delete(np.arange(self.n_done), failed)
        # Not mapped: a page of a lost disk would end the process, and pages that were
        # read would count as its memory.
        file, dtype = OpenFile(Path(self._rows.name)), np.dtype("<f4")
        blobs: dict[str, Rows] = {}
        offset = 0
        for name, width in self._widths.items():
            shape = (len(kept), width)
            values = PlainValues(file, dtype, shape, offset, stride=self._row_bytes)
            blobs[name] = StoredRows(name, values)
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


def check_list(expected: str, found: str, split: str) -> None:
    """Refuse to mix rows of different lists of images."""
    if expected != found:
        raise StoreError(
            f"the images or labels of split '{split}' differ from those extracted "
            "before under this name; choose another --output, or --overwrite"
        )


def _files(stem: Path) -> tuple[Path, Path]:
    """Name the journal and the rows of a split."""
    journal, rows = (stem.with_name(stem.name + end) for end in (".journal", ".rows"))
    return journal, rows


def _parse(line: bytes, before: str) -> tuple[dict[str, Any], str]:
    """Read a line of a journal and its checksum; both are empty if it is damaged."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else {}
        chain = entry.pop("chain")
        is_whole = bool(chain == _chained(before, entry))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}, ""
    return (entry, chain) if is_whole else ({}, "")


def _chained(before: str, entry: Mapping[str, Any]) -> str:
    """Compute the checksum of an entry and all before it."""
    return hashlib.sha256(before.encode() + json.dumps(entry).encode()).hexdigest()


def _is_text(reason: str) -> bool:
    """Tell whether a text can be written: JSON may hold half a character."""
    try:
        reason.encode()
    except UnicodeEncodeError:
        return False
    return True
