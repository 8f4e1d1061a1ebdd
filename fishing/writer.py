"""Rows on their way into a features file, safe from the first batch on.

In go batches of blobs, out comes one ``features.h5``. While an extraction runs nothing
is HDF5: each split is a plain file of rows and a journal in the folder
``features.h5.partial``, so that a crash can tear no more than the batch in flight. The
file itself is written in one go at the end, from the rows in their order, and gets its
name when it is whole; so the same work gives the same bytes, however often it was
interrupted.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fishing.dataset import ImageList
from fishing.errors import StoreError
from fishing.rows import Rows, with_storage
from fishing.store import FeaturesFile, Split, one_line, write_features


class FeaturesWriter:
    """The work on one features file; a context manager.

    Opening it takes up work that was interrupted. Leaving it before `publish` keeps
    all batches that were appended.

    Parameters
    ----------
    path : Path
        The features file; rows wait in ``<path>.partial`` beside it.
    settings : mapping
        What determines the values and how they are stored: compared with that of the
        work found.
    overwrite : bool
        Start anew. A features file that is there stays until the new one is whole.

    Raises
    ------
    StoreError
        If the file or the rows found were made with other settings, another process
        writes them, or they cannot be written.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.path = Path(os.path.realpath(path))
        if self.path.is_dir() or not path.name:
            raise StoreError(
                f"expected the name of a file to write, found the folder '{path}'; "
                "choose another --output"
            )
        self._settings = dict(settings)
        self._folder = self.path.with_name(self.path.name + ".partial")
        self._splits: dict[str, _PartialSplit] = {}
        self._published: dict[str, str] = {}
        self._n_failed: dict[str, int] = {}
        with _disk_errors(self.path):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self._folder / "lock")
        try:
            with _disk_errors(self.path):
                self._take_up(overwrite)
        except BaseException:
            self._leave()
            raise

    def _take_up(self, overwrite: bool) -> None:
        """Compare the settings with those of the work found, or start anew."""
        record = self._folder / "settings.json"
        names = {file.name for file in self._folder.iterdir()} - {"lock"}
        if names and "settings.json" not in names:
            raise StoreError(
                f"expected an interrupted extraction in {self._folder}, found other "
                "files; move them away, or choose another --output"
            )
        if overwrite:
            _check_is_hdf5(self.path)
            for journal in self._folder.glob("*.journal"):
                _PartialSplit.remove(journal.with_suffix(""))
            record.unlink(missing_ok=True)
        replaced = _identity(self.path) if overwrite else None
        if record.exists():
            found = _read_record(record)
            _check_settings(self._settings, found["settings"], self._folder)
            replaced = found["replaced"]
        elif self.path.exists() and not overwrite:
            with FeaturesFile(self.path) as file:
                _check_settings(self._settings, file.settings, self.path)
        if not record.exists():
            content = {"settings": self._settings, "replaced": replaced}
            _write_durably(record, json.dumps(content).encode())
        if self.path.exists() and _identity(self.path) != replaced:
            with FeaturesFile(self.path) as file:
                _check_settings(self._settings, file.settings, self.path)
                self._published = {k: s.list_sha256 for k, s in file.splits.items()}
                self._n_failed = {k: len(s.failed_id) for k, s in file.splits.items()}
        for name in self._published:  # a crash may have come after the publishing
            _PartialSplit.remove(self._folder / name)

    def __enter__(self) -> FeaturesWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for split in self._splits.values():
            split.close()
        self._leave()

    def _leave(self) -> None:
        """Let go of the lock, and of the folder unless work waits in it."""
        with suppress(OSError):
            names = {file.name for file in self._folder.iterdir()}
            if names <= {"lock", "settings.json", self.path.name}:
                for name in sorted(names - {"lock"}):
                    (self._folder / name).unlink()
                (self._folder / "lock").unlink()
                self._folder.rmdir()
        self._lock.close()

    def pending(self, lists: Sequence[ImageList]) -> list[ImageList]:
        """Find the splits that the features file does not hold yet.

        Raises
        ------
        StoreError
            If it holds a split of that name with other images or labels.
        """
        for images in lists:
            found = self._published.get(images.split, images.sha256)
            _check_list(images.sha256, found, images.split)
        return [images for images in lists if images.split not in self._published]

    def open_split(self, images: ImageList, widths: Mapping[str, int]) -> int:
        """Open a split for appending; how many of its images are done already.

        Parameters
        ----------
        images : ImageList
        widths : mapping of str to int
            Values per image of each blob.

        Raises
        ------
        StoreError
            If rows of another list are there under the same name.
        """
        with _disk_errors(self.path):
            split = _PartialSplit(self._folder / images.split, images, widths)
        self._splits[images.split] = split
        self._n_failed[images.split] = split.n_failed
        return split.n_done

    def append(
        self,
        split: str,
        n_done: int,
        blobs: Mapping[str, NDArray[np.float32]],
        failed: Mapping[int, str],
    ) -> None:
        """Append a batch; once this returns a crash cannot lose it.

        Parameters
        ----------
        split : str
        n_done : int
            How many images of the list, from its start, are done with this batch.
        blobs : mapping of str to ndarray of float32, shape (n, d)
            The rows of those of them that could be read; empty if none could.
        failed : mapping of int to str
            Index in the list and reason of those that could not.

        Raises
        ------
        StoreError
            If the disk is full or lost.
        """
        with _disk_errors(self.path):
            self._splits[split].append(n_done, blobs, failed)
        self._n_failed[split] += len(failed)

    def n_failed(self, split: str) -> int:
        """Count the images without a row in a split that is open or published."""
        return self._n_failed[split]

    def discard(self, split: str) -> None:
        """Forget what was appended to an open split."""
        self._splits.pop(split).close()
        _PartialSplit.remove(self._folder / split)

    def publish(self) -> None:
        """Write the features file, give it its name, and remove the rows.

        Raises
        ------
        StoreError
            If the file cannot be written; the rows stay, and a next run goes on.
        """
        whole = self._folder / self.path.name
        new = {name: split.read() for name, split in self._splits.items()}
        with _disk_errors(self.path):
            if self._published:
                with FeaturesFile(self.path) as old:
                    write_features(whole, self._settings, {**old.splits, **new})
            else:
                write_features(whole, self._settings, new)
            put_in_place(whole, self.path)
            for name, split in self._splits.items():
                split.close()
                _PartialSplit.remove(self._folder / name)


class _PartialSplit:
    """The rows of a split in a plain file, and a journal that says which count.

    A row holds the blobs of one image one after the other. A line of the journal is
    written after the rows that it tells of; what the last whole line does not know is
    cut off.
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
            for file in self._files(stem)
        )
        try:
            self._recover()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _files(stem: Path) -> tuple[Path, Path]:
        return (
            stem.with_name(stem.name + ".journal"),
            stem.with_name(stem.name + ".rows"),
        )

    @classmethod
    def remove(cls, stem: Path) -> None:
        """Remove the files of a split, if there are any."""
        for file in cls._files(stem):
            file.unlink(missing_ok=True)

    def _recover(self) -> None:
        """Read the journal and cut off what it does not tell of."""
        n_bytes = os.fstat(self._rows.fileno()).st_size
        whole = 0
        self._journal.seek(0)
        for line in self._journal.read().splitlines(keepends=True):
            entry = _parse(line)
            if whole == 0 and "list" in entry:
                _check_list(self._images.sha256, entry["list"], self._images.split)
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
            _write(self._rows, rows.tobytes())
            n_rows += len(rows)
        self._log({"done": n_done, "rows": n_rows, "failed": dict(failed)})
        self.n_done, self._n_rows = n_done, n_rows
        self._failed.update(failed)

    def _log(self, entry: Mapping[str, Any]) -> None:
        _write(self._journal, json.dumps(entry).encode() + b"\n")

    def read(self) -> Split:
        """View the rows as a split."""
        images = self._images
        failed = np.array(sorted(self._failed), dtype=np.int64)
        kept = np.delete(np.arange(self.n_done), failed)
        shape = (len(kept), self._row_bytes // 4)
        rows: NDArray[np.float32] = np.empty(shape, np.float32)
        if len(kept):  # an empty file cannot be mapped
            rows = np.memmap(self._rows, "<f4", "r", shape=shape)
        blobs: dict[str, Rows] = {}
        start = 0
        for name, width in self._widths.items():
            blobs[name] = rows[:, start : start + width]
            start += width
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


def put_in_place(whole: Path, path: Path) -> None:
    """Give a file that is whole its name, so that no power cut can tear it.

    Raises
    ------
    OSError
        If the disk is full or lost.
    """
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(whole, path)
    _sync_folder(path.parent)


def _check_settings(
    expected: Mapping[str, Any], found: Mapping[str, Any], path: Path
) -> None:
    """Refuse to mix rows that were made in different ways, and say in which.

    How they are stored counts too, since the whole file is stored in one way.
    """
    expected, found = with_storage(expected), with_storage(found)
    for key in {**expected, **found}:
        if expected.get(key) != found.get(key):
            raise StoreError(
                f"{path} was made with another {key}: expected {expected.get(key)}, "
                f"found {found.get(key)}; choose another --output, or --overwrite"
            )


def _check_list(expected: str, found: str, split: str) -> None:
    """Refuse to mix rows of different lists of images."""
    if expected != found:
        raise StoreError(
            f"the images or labels of split '{split}' differ from those extracted "
            "before under this name; choose another --output, or --overwrite"
        )


def _parse(line: bytes) -> dict[str, Any]:
    """Read a line of a journal; nothing where it is torn or damaged."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else {}
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _read_record(record: Path) -> dict[str, Any]:
    """Read what determines the rows that wait."""
    try:
        found = json.loads(record.read_bytes())
        return {"settings": dict(found["settings"]), "replaced": found["replaced"]}
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            f"{record}: expected the settings of an interrupted extraction, found "
            "something else; start anew with --overwrite"
        ) from None


def _identity(path: Path) -> list[int] | None:
    """Tell one file from another that gets its name later."""
    if not path.exists():
        return None
    state = path.stat()
    return [state.st_ino, state.st_size, state.st_mtime_ns]


def _check_is_hdf5(path: Path) -> None:
    """Refuse to overwrite what is not even a damaged features file."""
    signature = b"\x89HDF\r\n\x1a\n"
    if path.exists() and path.open("rb").read(len(signature)) != signature:
        raise StoreError(
            f"expected a features file to overwrite at {path}, found another kind of "
            "file; move it away, or choose another --output"
        )


def _lock(path: Path) -> IO[str]:
    """Hold a lock file open; the system lets go of it when the process ends."""
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise StoreError(
                f"expected to be alone in {path.parent}, found that {holder} writes "
                "there; wait for it, or choose another --output"
            ) from None
        # The holder before may have removed the file that was just opened.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()
        path.parent.mkdir(exist_ok=True)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
    file.flush()
    return file


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk or HDF5 says into one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise StoreError(
            f"{path} cannot be written: {one_line(error)}; once that is mended, the "
            "same command goes on from the last finished batch"
        ) from None


def _write(file: FileIO, content: bytes) -> None:
    """Write all bytes, down to the disk."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_durably(path: Path, content: bytes) -> None:
    """Write a small file under another name and rename it."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb", buffering=0) as file:
        _write(file, content)
    os.replace(temporary, path)
    _sync_folder(path.parent)
