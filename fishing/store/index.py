"""Finds where the values of a features file lie, in a process of its own.

On some damaged files libhdf5 crashes, on others it does not come to an end or writes
beyond its memory. So a separate process opens the file, says in JSON what is in it and
at which offsets, and ends. It reads no values: the process that started it
(`fishing.store.index_process`) reads them without HDF5.

The answer is a mapping with ``outline`` (the attributes, and the ``shape`` and
``dtype`` of a dataset, by name), ``places`` (where values lie, see `check_place`) and
``damage`` (what is wrong with a dataset), or with ``refusal`` alone.
"""

from __future__ import annotations

import json
import math
import os
import resource
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np

from fishing.errors import StoreError, one_line
from fishing.file_kinds import kind_of
from fishing.files import write_all
from fishing.images import MAX_CLASSES
from fishing.store.checks import check_names
from fishing.store.format import (
    BLOBS,
    DATASETS,
    FORMAT,
    FORMAT_VERSION,
    PROJECTION,
)
from fishing.store.hdf5_streams import Input
from fishing.store.places import BAD_INDEX, check_form, check_place, n_chunks
from fishing.store.values import SHUFFLE

#: Bytes of memory that the process may allocate.
MEMORY = 2**32
_FAR_AWAY = 2**62
_MAX_OBJECTS = 10_000
_MAX_ATTRIBUTE = 2**20  # bytes
#: What h5py raises over damage.
_ERRORS = (*BAD_INDEX, OSError)


def answer(
    task: Callable[[int], dict[str, Any]], descriptor: int, pipe: int, seconds: int
) -> None:
    """Do a task within limits, write its answer to a pipe, and end the process.

    The task is `read_index` or `survey` of the open features file; it may take so many
    seconds of the processor's time.
    """
    _limit(seconds)
    with open(pipe, "wb", buffering=0) as out:
        write_all(out, b"\n")  # it got as far as this
        try:
            content = task(descriptor)
        except StoreError as error:
            content = {"refusal": str(error)}
        except MemoryError:
            content = {
                "refusal": "expected to read it within the memory that is allowed, "
                f"found that it takes more; allow up to {MEMORY >> 30} GiB by ulimit "
                "-v, or free memory"
            }
        write_all(out, json.dumps(content).encode())
    os._exit(0)


def _limit(seconds: int) -> None:
    """Limit the time and memory that this process may take from now on."""
    pages = 0
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as status:
            pages = int(status.read().split()[0])
    limits = {
        resource.RLIMIT_CPU: int(time.process_time()) + 1 + seconds,
        resource.RLIMIT_AS: pages * resource.getpagesize() + MEMORY,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard < 0 else min(most, hard), hard))


def read_index(descriptor: int) -> dict[str, Any]:
    """Check all that is in an open features file, and find where its values lie.

    Raises StoreError if it is no features file of this format, or not whole.
    """
    size = os.fstat(descriptor).st_size
    with _opened(Input(descriptor, size)) as file:
        _check_version(file)
        parts = _Parts(file)
        found = _describe(parts, size)
        for reason in found["damage"].values():
            raise ValueError(reason)
        _check_others(parts, size, found["outline"])
        return found


def survey(descriptor: int) -> dict[str, Any]:
    """Find where values lie in an open features file that may have lost its tail.

    Raises StoreError if HDF5 cannot open it, or it is of another format.
    """
    size = os.fstat(descriptor).st_size
    with _opened(Input(descriptor, _FAR_AWAY)) as file:
        _check_version(file)
        return _describe(_Parts(file), size)


def plain(value: Any) -> Any:
    """Turn the value of an attribute into a text, a number or a list of them."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def read_outline(file: h5py.File, names: list[str]) -> dict[str, Any]:
    """Collect attributes, shapes and types of the parts of a file that are there."""
    parts = _Parts(file)
    return {name: _form(part) for name in names if (part := parts.open(name))}


def part_names(splits: list[str]) -> list[str]:
    """List the names of the file itself, its splits, and their possible datasets."""
    datasets = (f"{split}/{name}" for split in splits for name in DATASETS)
    bases = (f"{PROJECTION}/{blob}" for blob in BLOBS)
    return list(dict.fromkeys(["/", *splits, *datasets, *bases]))


@contextmanager
def _opened(source: Input) -> Iterator[h5py.File]:
    """Open a file, and turn the errors of h5py into a StoreError."""
    try:
        file = h5py.File(source, "r")
    except _ERRORS as error:
        _check_disk(source)
        raise StoreError(
            f"expected an HDF5 file, found {_kind(source) or one_line(error)}; name a "
            "file that `fishing extract` made, or take a copy of it"
        ) from None
    try:
        with file:
            yield file
    except _ERRORS as error:
        _check_disk(source)
        raise StoreError(
            f"expected a whole features file, found {one_line(error)}; extract it anew "
            "with --overwrite"
        ) from None


def _kind(source: Input) -> str | None:
    """Say what a file is that HDF5 does not take for one of its own."""
    head = bytearray(1024)
    source.seek(0)
    source.readinto(head)
    return None if head.startswith(b"\x89HDF") else kind_of(bytes(head))


def _check_disk(source: Input) -> None:
    """Raise a StoreError if the disk failed, which tells nothing of the file."""
    if source.error is not None:
        raise StoreError(
            f"expected to read it, found {one_line(source.error)}; the file may be "
            "whole: look at the disk or the network, and run the same command again"
        )


def _check_version(file: h5py.File) -> None:
    if "format" not in file.attrs or _attribute(file, "format") != FORMAT:
        raise ValueError("an HDF5 file of another kind")
    version = _attribute(file, "format_version")
    if version != FORMAT_VERSION:
        age = "an earlier" if version in (1, 2) else "another"
        raise ValueError(
            f"format {str(version)[:100]}, made by {age} version of fishing"
        )


class _Parts:
    """The groups and datasets of a file, each opened once.

    Links that lead elsewhere are not followed.
    """

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self._opened: dict[str, Any] = {"": file}

    def open(self, path: str) -> Any:
        """Open a group or dataset, or return None if there is none."""
        path = path.strip("/")
        if path in self._opened:
            return self._opened[path]
        above, _, name = path.rpartition("/")
        group = self.open(above)
        if group is None:
            return None
        if not isinstance(group, h5py.Group):
            raise ValueError(f"no group at {group.name}")
        if not group.id.links.exists(name.encode()):
            return None
        return self._member(group, name.encode(), path)

    def _member(self, group: h5py.Group, name: bytes, path: str) -> Any:
        if path not in self._opened:
            _check_link(group, name)
            self._opened[path] = group[name]
        return self._opened[path]

    def walk(self) -> Iterator[tuple[str, Any]]:
        """Yield all of them; raise ValueError where a link leads elsewhere."""
        waiting, seen = [("", self.file)], set()
        while waiting:
            path, item = waiting.pop()
            place = h5py.h5o.get_info(item.id).addr
            if place in seen:
                raise ValueError(f"one object under two names, such as {item.name!a}")
            seen.add(place)
            yield path or "/", item
            if not isinstance(item, h5py.Group):
                continue
            if len(seen) + len(waiting) + len(item.id) > _MAX_OBJECTS:
                raise ValueError(f"more than {_MAX_OBJECTS} groups and datasets")
            for name in list(item.id):
                below = f"{path}/{name.decode('utf-8', 'surrogateescape')}".lstrip("/")
                waiting.append((below, self._member(item, name, below)))


def _describe(parts: _Parts, size: int) -> dict[str, Any]:
    """Describe all parts of a file, and say which are damaged."""
    found: dict[str, Any] = {"outline": {}, "places": {}, "damage": {}}
    splits = check_names(json.loads(parts.file.attrs["splits"]))
    for name in part_names(splits):
        try:
            part = parts.open(name)
            if part is not None:
                form = _form(part)
                if isinstance(part, h5py.Dataset):
                    found["places"][name] = _place(part, form, size)
                elif name.endswith(DATASETS):
                    raise ValueError(f"a group, not a dataset, at {name}")
                found["outline"][name] = form
        except _ERRORS as error:
            found["damage"][name] = one_line(error)
    return found


def _form(part: Any) -> dict[str, Any]:
    """Collect the attributes of a part, and the shape and type of a dataset."""
    names: list[bytes] = []
    h5py.h5a.iterate(part.id, lambda name, *_: names.append(name))
    texts = [name.decode("utf-8", "surrogateescape") for name in names]
    form: dict[str, Any] = {"attributes": {t: _attribute(part, t) for t in texts}}
    if isinstance(part, h5py.Dataset):
        shape = None if part.shape is None else list(part.shape)
        form |= {"shape": shape, "dtype": part.dtype.str}
    return form


def _check_others(parts: _Parts, size: int, known: Container[str]) -> None:
    """Check that everything else in a file is plain, and lies in the file itself."""
    if parts.file.userblock_size:
        raise ValueError("a user block before it")
    for name, item in parts.walk():
        if name not in known:
            form = _form(item)
            if isinstance(item, h5py.Dataset):
                _place(item, form, size)


def _check_link(group: h5py.Group, name: bytes) -> None:
    if group.id.links.get_info(name).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"a link to elsewhere, {group.name}: {name!a}")


def _attribute(item: Any, name: str) -> Any:
    """Read an attribute, which must be a number, a text or a list of them."""
    found = h5py.h5a.open(item.id, name.encode("utf-8", "surrogateescape"))
    dtype, shape = found.dtype, found.shape
    is_plain = dtype.kind in "iufS" or h5py.check_string_dtype(dtype) is not None
    fits = shape == () or (shape and len(shape) == 1 and shape[0] <= MAX_CLASSES)
    if not is_plain or not fits or found.get_storage_size() > _MAX_ATTRIBUTE:
        raise ValueError(f"an attribute {name!a} of type {dtype} and shape {shape}")
    values = np.zeros(shape, dtype)
    found.read(values)
    return plain(values)


def _place(dataset: h5py.Dataset, form: dict[str, Any], size: int) -> dict[str, Any]:
    """Find where the values of a dataset lie; raise ValueError if it cannot be read."""
    name, plist = dataset.name, dataset.id.get_create_plist()
    check_form(name, form)
    dtype, shape = np.dtype(form["dtype"]), tuple(form["shape"])
    if not _is_stored_as(dataset.id.get_type(), dtype):
        raise ValueError(f"values of another type than {dtype} in {name}")
    if dataset.maxshape != shape:
        raise ValueError(f"a shape that may grow to {dataset.maxshape} in {name}")
    place: dict[str, Any] = {}
    if plist.get_layout() == h5py.h5d.CHUNKED:
        place = _chunks(dataset)
    elif plist.get_layout() == h5py.h5d.CONTIGUOUS and not plist.get_external_count():
        offset = dataset.id.get_offset() if math.prod(shape) else 0
        place = {} if offset is None else {"offset": offset}
    if not place:
        raise ValueError(f"no values, or values that lie elsewhere, in {name}")
    check_place(name, form, place, size)
    return place


def _chunks(dataset: h5py.Dataset) -> dict[str, Any]:
    """List the chunks of a dataset; return an empty mapping if some are missing."""
    plist, chunks = dataset.id.get_create_plist(), list(dataset.chunks)
    found = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    filters = [kind for kind, *_ in found]
    for kind, _, parameters, _ in found:
        if kind == SHUFFLE and parameters != (dataset.dtype.itemsize,):
            raise ValueError(f"values behind filters {filters} in {dataset.name}")
    expected = n_chunks(dataset.shape, chunks)
    if dataset.id.get_num_chunks() != expected:
        return {}
    table: list[list[int]] = []

    def append(chunk: Any) -> None:
        where = [chunk.byte_offset, chunk.size, chunk.filter_mask]
        table.append([*chunk.chunk_offset, *where])

    if expected:
        dataset.id.chunk_iter(append)
    return {"chunks": chunks, "filters": filters, "table": table}


def _is_stored_as(stored: Any, dtype: np.dtype[Any]) -> bool:
    """Tell whether the bytes in the file are those of numpy's type."""
    if dtype.kind == "S":
        return bool(stored.get_size() == dtype.itemsize)
    return bool(stored.equal(h5py.h5t.py_create(dtype)))
