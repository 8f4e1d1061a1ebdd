"""Writes a features file batch by batch, so that a crash loses no finished batch.

While an extraction runs nothing is HDF5: each split is a plain file of rows and a
journal in the folder ``features.h5.partial``. The features file is written in one go at
the end, from the rows in their order, and gets its name when it is whole. So the same
work gives the same bytes, however often it was interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import InUseError, StoreError, one_line
from fishing.files import is_unfinished, lock, name_whole_file, sync_folder
from fishing.images import ImageList
from fishing.progress import Progress, silent
from fishing.store.features_file import FeaturesFile
from fishing.store.format import FORMAT_VERSION
from fishing.store.journal import Journal, check_list
from fishing.store.settings import check_same_settings, read_record, write_record
from fishing.store.split import Split
from fishing.store.write import write_features

_RECORD = "settings.json"


class FeaturesWriter:
    """Writes one features file; a context manager.

    Entering it takes up work that was interrupted. Leaving it before `publish` keeps
    all batches that were appended.

    Parameters
    ----------
    path : Path
        The features file; rows wait in ``<path>.partial`` beside it.
    settings : mapping
        What determines the values and how they are stored, as `ExtractionSettings`
        records it. It must equal the settings of the work that is found.
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
        self._folder = waiting_rows(self.path)
        self._whole = self._folder / "whole.h5"
        self._splits: dict[str, Journal] = {}
        self._published: dict[str, str] = {}
        self._n_failed: dict[str, int] = {}
        with _disk_errors(self.path):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock = lock(self._folder / "lock", self._refuse)
            except OSError:
                self._remove_if_empty()
                raise
        try:
            with _disk_errors(self.path):
                self._take_up(overwrite)
        except BaseException:
            self._leave()
            raise

    def _refuse(self, holder: str) -> None:
        raise InUseError(
            f"expected to be alone in {self._folder}, found that {holder} writes "
            "there; wait for it, or choose another --output"
        )

    def _take_up(self, overwrite: bool) -> None:
        """Compare the settings with those of the work found, or start anew."""
        record = self._folder / _RECORD
        files = {file.name: file for file in self._folder.iterdir()}
        # The record is removed last: without it, the folder counts as somebody else's.
        for name in [name for name in files if is_unfinished(name)]:
            files.pop(name).unlink()
        if (files.keys() - {"lock"} and _RECORD not in files) or any(
            file.is_symlink() or not file.is_file() for file in files.values()
        ):
            raise StoreError(
                f"expected an interrupted extraction in {self._folder}, found other "
                "files; move them away, or choose another --output"
            )
        self._whole.unlink(missing_ok=True)  # left by a crash before it was whole
        settings = {"format_version": FORMAT_VERSION, **self._settings}
        if overwrite:
            _check_is_hdf5(self.path)
            for stem in Journal.find(self._folder):
                Journal.remove(stem)
            sync_folder(self._folder)
            replaced = _identity(self.path)
            write_record(record, settings, replaced)
        elif record.exists():
            found, replaced = read_record(record)
            check_same_settings(settings, found, self._folder)
        else:
            replaced = None
            self._check_finished(settings)
            write_record(record, settings, replaced)
        if self.path.exists() and _identity(self.path) != replaced:
            self._check_finished(settings)
        for name in self._published:  # a crash may have come after the publishing
            Journal.remove(self._folder / name)

    def _check_finished(self, settings: Mapping[str, Any]) -> None:
        """Compare the settings with those of the features file, if there is one."""
        if self.path.exists():
            with FeaturesFile(self.path) as file:
                found = {"format_version": FORMAT_VERSION, **file.settings}
                check_same_settings(settings, found, self.path)
                self._published = {k: s.list_sha256 for k, s in file.splits.items()}
                self._n_failed = {k: len(s.failed_id) for k, s in file.splits.items()}

    def __enter__(self) -> FeaturesWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for split in self._splits.values():
            split.close()
        self._leave()

    def _leave(self) -> None:
        """Release the lock, and remove the folder unless work waits in it."""
        self._remove_if_empty()
        self._lock.close()

    def _remove_if_empty(self) -> None:
        """Remove the folder unless work, or a file of somebody else, is in it."""
        with suppress(OSError):
            own = (_RECORD, "lock")
            if {file.name for file in self._folder.iterdir()} <= set(own):
                for name in own:
                    (self._folder / name).unlink(missing_ok=True)
                self._folder.rmdir()

    def pending(self, lists: Sequence[ImageList]) -> list[ImageList]:
        """Find the splits that the features file does not hold yet.

        Raises
        ------
        StoreError
            If it holds a split of the same name with other images or labels.
        """
        for images in lists:
            found = self._published.get(images.split, images.sha256)
            check_list(images.sha256, found, images.split)
        return [images for images in lists if images.split not in self._published]

    def open_split(self, images: ImageList, widths: Mapping[str, int]) -> int:
        """Open a split for appending, and count its images that are done already.

        Parameters
        ----------
        images : ImageList
        widths : mapping of str to int
            Values per image of each blob.

        Returns
        -------
        int
            How many images of the list, from its start, are done.

        Raises
        ------
        StoreError
            If rows of another list are there under the same name.
        """
        with _disk_errors(self.path):
            split = Journal(self._folder / images.split, images, widths)
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
            The rows of the images that could be read; empty if none could.
        failed : mapping of int to str
            The reason for each image that could not, by its index in the list.

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
        """Remove what was appended to an open split."""
        self._splits.pop(split).close()
        Journal.remove(self._folder / split)

    def publish(self, progress: Progress = silent) -> None:
        """Write the features file, give it its name, and remove the rows.

        Parameters
        ----------
        progress : Progress
            Counts images while rows are checked, then bytes.

        Raises
        ------
        StoreError
            If the file cannot be written, or rows are damaged. All rows before the
            damage stay, and the same command goes on from there.
        """
        n_checked, total = 0, sum(split.n_done for split in self._splits.values())
        with _disk_errors(self.path):
            for split in self._splits.values():
                for n in split.check():
                    progress("checking rows", n_checked + n, total, "images")
                n_checked += split.n_done
            new = {name: split.read() for name, split in self._splits.items()}
            try:
                self._write_whole(new, progress)
                name_whole_file(self._whole, self.path)
            except BaseException:
                with suppress(OSError):  # an unfinished file would only fill the disk
                    self._whole.unlink(missing_ok=True)
                raise
            for name, split in self._splits.items():
                split.close()
                Journal.remove(self._folder / name)

    def _write_whole(self, new: Mapping[str, Split], progress: Progress) -> None:
        """Write new splits, after those of the features file if there is one."""

        def report(label: str, done: int, total: int | None, unit: str) -> None:
            progress(f"writing {self.path.name}", done, total, unit)

        if not self._published:
            write_features(self._whole, self._settings, new, report)
            return
        with FeaturesFile(self.path) as old:
            old.verify(progress)  # damage must not get new checksums
            splits = {**old.splits, **new}
            write_features(self._whole, self._settings, splits, report)


def waiting_rows(path: Path) -> Path:
    """Name the folder in which the rows of a features file wait while it is made."""
    return path.with_name(path.name + ".partial")


def _identity(path: Path) -> list[int] | None:
    """Tell a file from another one that has its name later."""
    if not path.exists():
        return None
    state = path.stat()
    return [state.st_ino, state.st_size, state.st_mtime_ns]


def _check_is_hdf5(path: Path) -> None:
    """Refuse to overwrite a file that is not HDF5."""
    signature = b"\x89HDF\r\n\x1a\n"
    if path.exists() and path.open("rb").read(len(signature)) != signature:
        raise StoreError(
            f"expected a features file to overwrite at {path}, found another kind of "
            "file; move it away, or choose another --output"
        )


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of the disk or of HDF5 into a StoreError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise StoreError(
            f"{path} cannot be written: {one_line(error)}; once that is mended, the "
            "same command goes on from the last finished batch"
        ) from None
