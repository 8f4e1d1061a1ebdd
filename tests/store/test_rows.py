from __future__ import annotations

import errno
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest

from conftest import SETTINGS, make_split, write_file
from fishing.errors import StoreError
from fishing.store import (
    LARGEST,
    FeaturesFile,
    Projection,
    load,
    row_blocks,
    storage_settings,
    write_features,
)
from fishing.store.rows import StackedRows, StoredRows
from fishing.store.values import OpenFile, PlainValues

BLOB = "forward/x7"


class Stored(NamedTuple):
    """Rows in a file, and the array that they equal."""

    rows: StoredRows
    array: np.ndarray


def _whole_numbers(shape: tuple[int, int]) -> np.ndarray:
    """Make numbers that float16 holds exactly."""
    return np.random.default_rng(0).integers(-99, 99, shape).astype(np.float32)


@pytest.fixture(
    scope="module",
    params=[
        *("float32 none", "float32 gzip", "float16 none", "float16 gzip", "waiting"),
        *("int8 none", "int8 gzip", "int4 none", "int4 gzip"),
    ],
)
def stored(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stored]:
    path = tmp_path_factory.mktemp("rows") / "f.h5"
    array = _whole_numbers((600, 6))
    if request.param == "waiting":  # in rows of several blobs
        np.hstack([array - 1, array, array + 1]).tofile(path)
        values = PlainValues(OpenFile(path), array.dtype, array.shape, 24, stride=72)
        yield Stored(StoredRows("x7", values), array)
        return
    dtype, compression = request.param.split()
    settings = {**SETTINGS, **storage_settings(compression=compression)}
    if dtype in LARGEST:
        scales = np.float32([0.5, 2, 1, 0.25, 3, 7])
        whole = array % (2 * LARGEST[dtype] + 1) - LARGEST[dtype]
        array = whole * scales
        projection = {BLOB: Projection(np.eye(6, dtype=np.float32), scales)}
        settings["projection"] = {"dimensions": 6}
    else:
        projection = None
    settings["dtype"] = dtype
    split = make_split(np.random.default_rng(0), 600, blobs={BLOB: array})
    write_features(path, settings, {"test": split}, projection=projection)
    with FeaturesFile(path) as file:
        rows = file["test"].blobs[BLOB]
        assert isinstance(rows, StoredRows)
        yield Stored(rows, array)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a features file of 600 rows."""
    split = make_split(np.random.default_rng(0), 600)
    return write_file(tmp_path / "f.h5", test=split)


KEYS = [
    slice(None), slice(3, 4), slice(-5, None), slice(250, 530), slice(9, 2), slice(700),
    slice(None, None, 7), slice(None, None, -1), 0, -1, 300, np.int64(5), ...,
    [5, 6, 7, 2, 2, 599, -1], [], np.arange(600) % 3 == 0, (), (slice(2, 9), 3),
    (slice(None), slice(2, 5)), (slice(255, 257), slice(None, None, 2)), (4, 3),
    (4, slice(None)), ([1, 2, 300], slice(1, 4)), (slice(None), [4, 0]), (..., 2),
    (slice(None), slice(3, 3)), (slice(5, 5), slice(None)), None, (None, 3),
    (slice(0, 2), ..., 1), ([1, 2], [3, 4]), ([0, 400, 1], [[2], [3]]), [[3, 4], [0]*2],
    (np.arange(600) % 2 == 0, 2), ([500, 2, 300, 2, 1], slice(1, 3)), True,
    np.arange(3600).reshape(600, 6) % 7 == 0,
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_rows_are_sliced_as_arrays_are(stored: Stored, key) -> None:
    found, expected = stored.rows[key], stored.array[key]
    assert type(found) is type(expected)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    assert found.shape == expected.shape


@pytest.mark.parametrize(
    "key",
    [600, (0, 999), [600], (0, 0, 0), "a", 1.5, np.ones(5, bool), ([0, 1, 2], [3, 4])],
)
def test_keys_of_nothing_are_index_errors(stored: Stored, key) -> None:
    with pytest.raises(IndexError):
        stored.rows[key]


def test_rows_one_by_one(stored: Stored) -> None:
    np.testing.assert_array_equal(list(stored.rows), stored.array)


def test_rows_become_an_array(stored: Stored) -> None:
    assert len(stored.rows) == 600
    assert stored.rows.ndim == 2
    assert "shape (600, 6)" in repr(stored.rows)
    np.testing.assert_array_equal(np.asarray(stored.rows), stored.array)
    assert np.asarray(stored.rows, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="expected to copy rows"):
        np.asarray(stored.rows, copy=False)


def test_threads_share_a_file(stored: Stored) -> None:
    places = np.random.default_rng(0).integers(0, 500, 300)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: stored.rows[i : i + 50], places))
    for i, values in zip(places, found, strict=True):
        np.testing.assert_array_equal(values, stored.array[i : i + 50])


def test_rows_of_many_chunks(tmp_path: Path) -> None:
    array = _whole_numbers((600, 1100))
    split = make_split(np.random.default_rng(0), 600, blobs={BLOB: array})
    path = tmp_path / "f.h5"
    write_features(path, {**SETTINGS, "compression": "gzip"}, {"test": split})
    with h5py.File(path, "a") as file:  # chunks of another shape than ours
        assert file["test"][BLOB].chunks == (256, 512)
        del file["test"][BLOB]
        odd = {"chunks": (7, 101), "compression": "gzip", "compression_opts": 9}
        file["test"].create_dataset("forward/x6", data=array, **odd)
        file["test"].create_dataset(BLOB, data=array, shuffle=True, **odd)
    rng = np.random.default_rng(1)
    with FeaturesFile(path) as file:
        for _ in range(40):
            (a, b), (c, d) = (sorted(rng.integers(0, n + 1, 2)) for n in array.shape)
            for rows in file["test"].blobs.values():
                np.testing.assert_array_equal(rows[a:b, c:d], array[a:b, c:d])


def test_rows_far_apart_are_not_read_with_all_between(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    whole = StoredRows._read

    def counting(self: StoredRows, rows: slice, columns: slice) -> np.ndarray:
        read.append(rows.stop - rows.start)
        return whole(self, rows, columns)

    monkeypatch.setattr(StoredRows, "_read", counting)
    np.testing.assert_array_equal(stored.rows[[599, 0, 1]], stored.array[[599, 0, 1]])
    assert sorted(read) == [1, 2]


def test_blocks_of_rows() -> None:
    assert [np.arange(600)[b].tolist() for b in row_blocks(600)] == [
        list(range(256)),
        list(range(256, 512)),
        list(range(512, 600)),
    ]
    assert list(row_blocks(0)) == []


# --- open files -------------------------------------------------------------------


def test_a_closed_file_says_so(path: Path) -> None:
    with FeaturesFile(path) as file:
        rows = file["test"].blobs[BLOB]
    with pytest.raises(StoreError, match=r"f\.h5: expected to read from an open file"):
        rows[:]


def test_a_file_that_nobody_uses_is_closed(path: Path) -> None:
    n_open = len(os.listdir("/dev/fd"))
    file = load(path)
    rows = file["test"].blobs[BLOB]
    del file
    assert rows[:].shape[0] == 600
    assert len(os.listdir("/dev/fd")) == n_open + 1
    del rows
    assert len(os.listdir("/dev/fd")) == n_open


def test_a_file_is_closed_once_its_bytes_are_read(path: Path) -> None:
    """Otherwise a thread could read what another one opens under the same number."""
    file = OpenFile(path)
    descriptor = file.descriptor
    assert descriptor is not None
    file.close()
    os.fstat(descriptor.number)
    number = descriptor.number
    del descriptor
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_open_files_stay_in_their_process(path: Path) -> None:
    file = load(path)
    for part in (file, file["test"], file["test"].blobs[BLOB]):
        with pytest.raises(TypeError, match="pass arrays or the path"):
            pickle.dumps(part)


def test_a_fork_reads_while_a_thread_reads(path: Path) -> None:
    with FeaturesFile(path) as file:
        rows = file["test"].blobs[BLOB]
        expected = rows[:]
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                rows[:]

        thread = threading.Thread(target=read)
        thread.start()
        try:
            for _ in range(5):
                child = os.fork()
                if child == 0:
                    signal.alarm(20)
                    os._exit(0 if np.array_equal(rows[:], expected) else 1)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            done.set()
            thread.join()


def test_the_file_that_was_opened_is_read(path: Path, tmp_path: Path) -> None:
    """A file that later takes its name is not read."""
    with FeaturesFile(path) as file:
        rows = file["test"].blobs[BLOB]
        expected = rows[:]
        other = make_split(np.random.default_rng(9), 600)
        write_file(tmp_path / "g.h5", test=other)
        os.replace(tmp_path / "g.h5", path)
        np.testing.assert_array_equal(rows[:], expected)


def test_values_that_are_gone_are_an_error(path: Path) -> None:
    with FeaturesFile(path) as file:
        os.truncate(path, 20_000)
        with pytest.raises(
            StoreError, match=r"read /test/forward/x7, found values tha"
        ):
            file["test"].blobs[BLOB][:]


def test_a_lost_disk_is_an_error(path: Path, monkeypatch) -> None:
    def lost(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with FeaturesFile(path) as file, monkeypatch.context() as patch:
        patch.setattr(os, "preadv", lost)
        with pytest.raises(StoreError, match="found Input/output error; mend the disk"):
            file["test"].blobs[BLOB][:]


def test_short_reads_are_taken_up(path: Path, monkeypatch) -> None:
    with FeaturesFile(path) as file:
        expected = file["test"].blobs[BLOB][:]
        whole = os.preadv

        def short(descriptor: int, buffers: list, offset: int) -> int:
            return whole(descriptor, [memoryview(buffers[0])[:1000]], offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", short)
            np.testing.assert_array_equal(file["test"].blobs[BLOB][:], expected)


@pytest.mark.parametrize(
    "key",
    [
        *(slice(None), slice(3, 8), slice(4, 4), slice(7, None), slice(8, 2)),
        *(slice(None, None, 2), slice(None, None, -1), 0, 9, -1, [9, 0, 4, 4], []),
        *(np.arange(10) % 3 == 0, (slice(2, 9), slice(1, 3)), ([8, 1], [0, 2])),
    ],
)
def test_stacked_rows_are_indexed_as_an_array(key: object) -> None:
    array = np.arange(40, dtype=np.float32).reshape(10, 4)
    cuts = [0, 0, 4, 5, 5, 10, 10]  # some parts have no rows
    parts = [array[a:b] for a, b in pairwise(cuts)]
    rows = StackedRows(parts)
    assert rows.shape == (10, 4)
    found = rows[key]
    assert found.shape == array[key].shape
    assert (found == array[key]).all()
    assert (np.asarray(rows) == array).all()
    assert [row.tolist() for row in rows] == array.tolist()
