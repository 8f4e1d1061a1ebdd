"""Extraction into a folder of shards, by one process or by many that share the folder.

Each shard is a features file of a part of the list, which begins at a multiple of the
batch size. So all batches, and thus all rows, are those of a single run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from pathlib import Path
from typing import Any

from fishing import __version__
from fishing.errors import DataError, NetError, StoreError, one_line
from fishing.extract.cut_lists import cut, n_images, parts_of
from fishing.extract.to_file import (
    Extracted,
    NetOnDemand,
    extract_lists,
    none_can_be_read,
)
from fishing.files import file_sha256
from fishing.images import ImageList
from fishing.processes import usable_cores
from fishing.progress import Progress, silent
from fishing.store import (
    ExtractionSettings,
    Manifest,
    Shard,
    begin_shards,
    is_begun,
    read_manifest,
    record_shard,
    remember_data,
    shard_path,
    verify,
    waiting_rows,
)

_log = logging.getLogger(__name__)

#: Images that go through the net at once unless a number is given. It does not depend
#: on the device, because the parts of the list begin at its multiples.
BATCH_SIZE = 32
# What computes an input and its blobs, by the backend; any of the names may be there.
_LIBRARIES = {
    "images": ("numpy", "opencv-python-headless", "opencv-python"),
    "onnx": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
}


def extract_shards(
    settings: ExtractionSettings,
    lists: Sequence[ImageList],
    folder: Path,
    n_shards: int,
    *,
    shard: int | None = None,
    data: Path | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    strict: bool = False,
    progress: Progress = silent,
) -> list[Extracted]:
    """Write the paired blobs of all images into a folder of shards, or one of these.

    Shards that are there are checked by their SHA-256. Damaged ones are made anew, and
    interrupted ones are resumed. Any number of processes may make shards of one folder
    at a time.

    Parameters
    ----------
    settings : ExtractionSettings
    lists : sequence of ImageList
        The whole lists, of which each shard takes a part.
    folder : Path
        It is made if it is not there.
    n_shards : int
        At most one for each batch.
    shard : int, optional
        The number of the shard to make, from 0. By default, all of them are made.
    data : Path, optional
        See `extract`.
    device : str
        See `extract`.
    batch_size : int, optional
        Images that go through the net at once; by default 32, also on a GPU.
    strict : bool
        See `extract`.
    progress : Progress
        Counts images.

    Returns
    -------
    list of Extracted
        One for each list, of those of its images that belong to the shards made.

    Raises
    ------
    DataError
        If no image of a split can be read, or, if `strict`, one cannot.
    StoreError
        If the folder holds other work, another process makes the same shard, or the
        disk is full.
    FishingError
        If the net or the backend cannot be used.
    """
    size = batch_size or BATCH_SIZE
    cuts = cut(lists, n_shards, size)
    if shard is not None and not 0 <= shard < n_shards:
        raise DataError(
            f"expected a --shard from 0 to {n_shards - 1}, found {shard}; --shards "
            "says how many there are"
        )
    with NetOnDemand(settings, device=device, batch_size=size) as net:
        run = circumstances(net.settings.backend, device, size, usable_cores())
        if not is_begun(folder):  # what the net refuses is refused before
            _check_batch_size(net, size)
            net.widths()
        begin_shards(folder, new_manifest(net.record, run, lists, cuts))
        chosen = range(n_shards) if shard is None else [shard]
        sizes = [n_images(cuts[number]) for number in chosen]
        done: list[Extracted] = []
        for number, before in zip(chosen, accumulate([0, *sizes]), strict=False):
            report = of_all(progress, folder.name, before, sum(sizes), cuts[number])
            parts = parts_of(lists, cuts[number])
            done += make_shard(net, parts, folder, number, size, strict, report)
    return conclude(lists, folder, data, done)


def new_manifest(
    settings: dict[str, Any],
    run: dict[str, Any],
    lists: Sequence[ImageList],
    cuts: Sequence[dict[str, list[int]]],
) -> Manifest:
    """Make the manifest of shards of which none is made."""
    digests = {images.split: images.sha256 for images in lists}
    return Manifest(settings, run, digests, [Shard(one, {}, "") for one in cuts])


def conclude(
    lists: Sequence[ImageList],
    folder: Path,
    data: Path | None,
    done: Sequence[Extracted],
) -> list[Extracted]:
    """Remember the data set, refuse a list without rows, and add up what was done."""
    if data is not None:
        remember_data(folder, data)
    manifest = read_manifest(folder)
    for images in lists:
        if all(one.sha256 for one in manifest.shards) and not any(
            one.rows.get(images.split) for one in manifest.shards
        ):
            raise none_can_be_read(images)
    return [_together(images, done) for images in lists]


def circumstances(
    backend: str, device: str, batch_size: int, threads: int
) -> dict[str, Any]:
    """Say what else than the settings determines the last bits of a row."""
    found: dict[str, Any] = {"batch_size": batch_size, "fishing": __version__}
    for name in (*_LIBRARIES["images"], *_LIBRARIES.get(backend.split("-")[0], ())):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    if device != "cpu":
        return {**found, "device": "gpu"}
    return {**found, "device": "cpu", "threads": threads}


def find_whole(path: Path, shard: Shard) -> list[Extracted]:
    """Say what a shard holds if it is recorded and has its SHA-256; else nothing."""
    if not shard.sha256 or _sha256(path) != shard.sha256 or waiting_rows(path).exists():
        return []
    return [
        Extracted(name, stop - start, stop - start - shard.rows[name], True)
        for name, (start, stop) in shard.images.items()
    ]


def make_shard(
    net: NetOnDemand,
    parts: Sequence[ImageList],
    folder: Path,
    number: int,
    batch_size: int,
    strict: bool,
    progress: Progress,
) -> list[Extracted]:
    """Make a shard of its parts of the lists, unless it is whole, and record it."""
    path, shard = shard_path(folder, number), read_manifest(folder).shards[number]
    if whole := find_whole(path, shard):
        return whole
    found = _sha256(path)
    is_damaged = bool(found) and not _is_whole(path, found, shard)
    if is_damaged:
        _log.warning("%s is damaged, and is made anew", path)
    if is_damaged or not found:
        _check_batch_size(net, batch_size)
    done = extract_lists(
        *(net, parts, path),
        overwrite=is_damaged,
        strict=strict,
        may_lack_rows=True,
        progress=progress,
    )
    rows = {one.split: one.n_images - one.n_failed for one in done}
    record_shard(folder, number, rows, _sha256(path))
    return done


def _check_batch_size(net: NetOnDemand, batch_size: int) -> None:
    """Refuse another batch size than the only one of a net."""
    if net.load().batch_size != batch_size:
        raise NetError(
            f"expected --batch-size {net.load().batch_size}, the only one that "
            f"{net.settings.net.name} takes, found {batch_size}"
        )


def _sha256(path: Path) -> str:
    """Compute the SHA-256 of a shard; it is empty if there is no such file."""
    try:
        return file_sha256(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StoreError(
            f"expected to read {path}, found: {one_line(error)}; look at the disk, or "
            "remove the file"
        ) from None


def _is_whole(path: Path, sha256: str, shard: Shard) -> bool:
    """Tell whether a shard is as it was written."""
    if shard.sha256:
        return sha256 == shard.sha256
    try:  # whoever made it has not recorded it
        verify(path)
    except StoreError:
        return False
    return True


def of_all(
    progress: Progress,
    name: str,
    before: int,
    n_all: int,
    part: Mapping[str, Sequence[int]],
) -> Progress:
    """Report the images of one shard as a part of all that are to be done."""
    starts = {}
    for split, (start, stop) in part.items():
        starts[split] = before
        before += stop - start

    def report(label: str, done: int, total: int | None, unit: str) -> None:
        if unit == "images" and label in starts:
            progress(name, starts[label] + done, n_all, unit)

    return report


def _together(images: ImageList, done: Sequence[Extracted]) -> Extracted:
    """Add up what was done for the parts of one list."""
    parts = [one for one in done if one.split == images.split]
    return Extracted(
        images.split,
        sum(one.n_images for one in parts),
        sum(one.n_failed for one in parts),
        was_there=bool(parts) and all(one.was_there for one in parts),
        n_damaged=sum(one.n_damaged for one in parts),
        left_alone=dict(images.left_alone),
    )
