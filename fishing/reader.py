"""Features files read by a process of its own, which may die of them.

Over some damaged files libhdf5 crashes, over others it goes round for ever, and over
others again it writes where it should not. So no process of ours opens a file that may
come from anywhere: it sends the path to a process that does nothing else, and gets back
what is in the file, and then the values that it asks for. A process that is through
with its file is kept for the next one.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import StoreError
from fishing.layout import Split
from fishing.reader_worker import ARRAYS, Shared, receive, send

#: Of the processor's time, for one answer; the largest files take a tenth of it.
CPU_SECONDS = 30
# What comes of a pipe that ends, or holds anything but an answer.
_NO_ANSWER = (
    *(OSError, EOFError, ValueError, TypeError, LookupError),
    *(AttributeError, ArithmeticError, MemoryError),
)
_DEATHS = {-signal.SIGXCPU: "does not come to an end"}
# The process sees the modules that this one sees, not those of the current folder.
_START = (
    "import sys; sys.path[:] = {path!r}; "
    "from fishing.reader_worker import serve; serve({shared})"
)
# Rows of one answer: whole chunks, each decompressed only once.
_BLOCK_ROWS = 256

_spare: _Process | None = None
_lock = Lock()


class Reader:
    """A features file that another process has open.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    settings, format_version
        As in `fishing.store.FeaturesFile`.

    Raises
    ------
    StoreError
        As the process has it, or if it dies or does not come to an end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._is_closed = False
        self._identity = _identity(path)
        self._process: _Process | None = None
        self._outline, self._arrays = self._open()
        self.settings: dict[str, Any] = self._outline["settings"]
        self.format_version: int = self._outline["format_version"]

    def splits(self) -> dict[str, Split]:
        """Give the splits, whose blobs hold on to this reader."""
        arrays = iter(self._arrays)
        return {
            name: self._split(name, part, arrays)
            for name, part in self._outline["splits"].items()
        }

    def read(
        self, split: str, blob: str, rows: slice, columns: slice, out: NDArray[Any]
    ) -> None:
        """Read a block of values.

        Parameters
        ----------
        split, blob : str
        rows, columns : slice
            With their starts and stops.
        out : ndarray of float32, shape (rows, columns)
            Filled with the values.

        Raises
        ------
        StoreError
            If they are damaged, or the file is closed or another one by now.
        """
        question = {
            "ask": "read",
            "split": split,
            "blob": blob,
            "rows": [rows.start, rows.stop],
            "columns": [columns.start, columns.stop],
        }
        with self._lock:
            process = self._running()
            self._process = None  # gone, should it be left half-way
            answer, _ = process.ask(question, self._path)
            self._process = process
            _raise_refusal(answer, self._path)
            out[:] = process.shared.array(out.shape)

    def close(self) -> None:
        """Close the file; what was not read until then cannot be."""
        with self._lock:
            process, self._process = self._process, None
            self._is_closed = True
            if process is not None and process.is_ours():
                with suppress(StoreError):  # it died, and its file with it
                    process.ask({"ask": "close"}, self._path)
                    _give_back(process)

    def _open(self) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        process = _take()
        path = str(self._path.absolute())
        answer, arrays = process.ask({"ask": "open", "path": path}, self._path)
        if "refusal" in answer:
            _give_back(process)
        _raise_refusal(answer, self._path)
        self._process = process
        return answer, arrays

    def _running(self) -> _Process:
        """Give the process; another one after a fork, a crash or an interrupt."""
        if self._is_closed:
            raise StoreError(
                f"{self._path}: expected to read from an open file, found that it was "
                "closed; read before it is, or open it by `fishing.load`"
            )
        if self._process is None or not self._process.is_ours():
            if _identity(self._path) != self._identity:
                raise StoreError(
                    f"expected {self._path} as it was opened, found that it has "
                    "changed since; open it anew"
                )
            self._open()
        assert self._process is not None
        return self._process

    def _split(
        self, name: str, part: dict[str, Any], arrays: Iterator[NDArray[Any]]
    ) -> Split:
        found = {key: next(arrays) for key in ARRAYS if key in part["arrays"]}
        return Split(
            **{key: tuple(texts) for key, texts in part["texts"].items()},
            blobs={
                blob: _Rows(self, name, blob, tuple(shape))
                for blob, shape in part["blobs"].items()
            },
            failed_index=found["failed_index"],
            labels=found.get("labels"),
            failed_labels=found.get("failed_labels"),
            devkit=part["devkit"],
            list_sha256=part["list_sha256"],
        )


def find_damage(path: Path, progress: Callable[[int, int], None]) -> dict[str, str]:
    """Let another process do what `fishing.layout.damage_of` does.

    Raises
    ------
    StoreError
        If the process dies or does not come to an end.
    """
    process = _take()
    question = {"ask": "damage", "path": str(path.absolute())}
    answer, _ = process.ask(question, path, progress)
    _give_back(process)
    _raise_refusal(answer, path)
    damage: dict[str, str] = answer["damage"]
    return damage


class _Rows:
    """Rows of a blob, read when they are sliced; as `fishing.rows.Rows`."""

    def __init__(
        self, reader: Reader, split: str, blob: str, shape: tuple[int, ...]
    ) -> None:
        self._reader, self._split, self._blob = reader, split, blob
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<float32 rows of /{self._split}/{self._blob}, shape {self.shape}>"

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read everything; without this numpy would make an array of one object."""
        if copy is False:
            raise ValueError(
                "expected to copy rows out of their file, found copy=False"
            )
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) > 2:
            raise IndexError(f"expected rows and columns, found {len(keys)} indices")
        row_key, column_key = (*keys, slice(None), slice(None))[:2]
        rows = _chosen(row_key, self.shape[0])
        columns = _chosen(column_key, self.shape[1])
        span = _span(columns)
        values = np.empty((np.size(rows), span.stop - span.start), np.float32)
        for place, block in _blocks(rows):
            self._reader.read(self._split, self._blob, block, span, values[place])
        if not isinstance(rows, range):
            values = values.reshape(*rows.shape, values.shape[1])
        if not isinstance(columns, range):
            values = values[..., columns - span.start]
        return values


def _chosen(key: Any, length: int) -> range | NDArray[np.intp]:
    """Say which places of an axis a key means, as numpy understands it."""
    if isinstance(key, slice) and key.step in (None, 1):
        return range(length)[key]
    chosen: NDArray[np.intp] = np.asarray(np.arange(length)[key])
    if chosen.ndim > 1:
        raise IndexError(f"expected rows and columns, found the index {key}")
    return chosen


def _span(chosen: range | NDArray[np.intp]) -> slice:
    """Say from where to where chosen places go."""
    if not np.size(chosen):
        return slice(0, 0)
    return slice(int(np.min(chosen)), int(np.max(chosen)) + 1)


def _blocks(chosen: range | NDArray[np.intp]) -> Iterator[tuple[slice, slice]]:
    """Cut chosen rows into runs within a block: where they belong, which they are."""
    rows = np.ravel(chosen)
    is_new = (np.diff(rows) != 1) | (rows[1:] % _BLOCK_ROWS == 0)
    starts = [0, *(np.flatnonzero(is_new) + 1).tolist(), len(rows)]
    for start, stop in itertools.pairwise(starts):
        if start < stop:
            first = int(rows[start])
            yield slice(start, stop), slice(first, first + stop - start)


class _Process:
    """The process at the other end of a pipe, as long as it lives."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        with ExitStack() as stack:
            shared = _new_memory()
            stack.callback(os.close, shared)
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START.format(path=sys.path, shared=shared)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(shared,),
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # it multiplies none
                start_new_session=True,  # Ctrl-C is for the process that asks
            )
            stack.pop_all()
        self.shared = Shared(shared)
        self._end = weakref.finalize(self, _end, self._process, shared, self._owner)

    def is_ours(self) -> bool:
        """Tell whether this process started it: a pipe of two forks is of neither."""
        return self._owner == os.getpid()

    def ask(
        self,
        question: dict[str, Any],
        path: Path,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """Send a question and wait for its answer.

        Raises
        ------
        StoreError
            If the process dies of it, or says what cannot be an answer.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._watched(path):
            send(self._process.stdin, {**question, "seconds": CPU_SECONDS})
        while True:
            with self._watched(path):
                answer, arrays = receive(self._process.stdout)
            if "done" not in answer:
                return answer, arrays
            if progress:
                progress(*answer["done"])

    @contextmanager
    def _watched(self, path: Path) -> Iterator[None]:
        """Turn whatever the process sends that is no answer into a StoreError."""
        try:
            yield
        except _NO_ANSWER:
            self._process.kill()  # it may have gone astray instead
            code = self._process.wait()
            raise StoreError(
                f"{path}: expected a whole features file, found one over which HDF5 "
                f"{_DEATHS.get(code, f'crashes (exit code {code})')}; extract it anew "
                "with --overwrite"
            ) from None


def _take() -> _Process:
    """Take the process that is kept, or start one."""
    global _spare
    with _lock:
        process, _spare = _spare, None
    if process is not None and process.is_ours():
        return process
    try:
        return _Process()
    except OSError as error:
        raise StoreError(
            "expected to start a process that reads features files, found "
            f"{error.strerror}; close other files or programs"
        ) from None


def _give_back(process: _Process) -> None:
    """Keep a process for the next file."""
    global _spare
    with _lock:
        _spare = process


def _end(process: subprocess.Popen[bytes], shared: int, owner: int) -> None:
    """End a process that nothing asks any more, unless it is another fork's."""
    os.close(shared)
    if owner == os.getpid():
        process.kill()
        with suppress(BrokenPipeError), process:
            pass


def _new_memory() -> int:
    """Open a file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("values")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _identity(path: Path) -> tuple[int, ...]:
    """Tell a file from others, and from what it was before a change."""
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return ()


def _raise_refusal(answer: Mapping[str, Any], path: Path) -> None:
    """Raise what the other process refused, with the path as it was given."""
    if "refusal" in answer:
        raise StoreError(answer["refusal"].replace(str(path.absolute()), str(path)))
