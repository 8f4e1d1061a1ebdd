"""Features files read by a process of its own, which may die of them.

Over some damaged files libhdf5 crashes, over others it goes round for ever, and over
others again it writes where it should not. So no process of ours opens a file that may
come from anywhere: it sends the path to a process that does nothing else, and gets back
what is in the file, and then the values that it asks for. A process that is through
with its file is kept for the next one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fishing.errors import StoreError, printable
from fishing.processes import python_command
from fishing.store.reader_process import ARRAYS, NoAnswerError, Shared, receive, send
from fishing.store.write import Split

#: Of the processor's time, for one answer; the largest files take a tenth of it.
CPU_SECONDS = 30
_DEATHS = {-signal.SIGXCPU: "does not come to an end"}
_START = "from fishing.store.reader_process import serve; serve({answers}, {shared})"
# Rows of one answer: whole chunks, each decompressed only once; fewer where they are
# very wide.
_BLOCK_ROWS = 256
_BLOCK_VALUES = 2**23

_spare: _Process | None = None
_lock = Lock()
_readers: weakref.WeakSet[Reader] = weakref.WeakSet()


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
        self._place = _place(path)
        self._lock = Lock()
        self._is_closed = False
        self._identity = _identity(self._place)
        self._process: _Process | None = None
        self._outline, self._arrays = self._open()
        try:
            self.settings: dict[str, Any] = self._outline["settings"]
            self.format_version: int = self._outline["format_version"]
            self.splits()
        except (LookupError, TypeError, AttributeError, StopIteration):
            assert self._process is not None
            raise self._process.failure(path) from None
        _readers.add(self)

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
            self._raise_refusal(answer)
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

    def forget_lock(self) -> None:
        """Take a lock that no thread of another process holds."""
        self._lock = Lock()

    def _open(self) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        process = _take()
        answer, arrays = process.ask({"ask": "open", "path": self._place}, self._path)
        if "refusal" in answer:
            _give_back(process)
        self._raise_refusal(answer)
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
            self._open()
            if _identity(self._place) != self._identity:
                self._process = None
                raise StoreError(
                    f"expected {self._path} as it was opened, found that it has "
                    "changed since; open it anew"
                )
        assert self._process is not None
        return self._process

    def _raise_refusal(self, answer: Mapping[str, Any]) -> None:
        """Raise what the other process refused, with the path as it was given."""
        if "refusal" in answer:
            raise StoreError(answer["refusal"].replace(self._place, str(self._path)))

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
    """Let another process do what `fishing.store.write.damage_of` does.

    Raises
    ------
    StoreError
        If the process dies or does not come to an end.
    """
    process = _take()
    answer, _ = process.ask({"ask": "damage", "path": _place(path)}, path, progress)
    if answer.keys().isdisjoint(("damage", "refusal")):
        raise process.failure(path)
    _give_back(process)
    if "refusal" in answer:
        raise StoreError(answer["refusal"].replace(_place(path), str(path)))
    damage: dict[str, str] = answer["damage"]
    return damage


class _Rows:
    """Rows of a blob, read when they are sliced; as `fishing.store.Rows`."""

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

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(self), _BLOCK_ROWS):
            yield from self[start : start + _BLOCK_ROWS]

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        n, width = self.shape
        row_key, column_key, *more = (
            *(key if isinstance(key, tuple) else (key,)),
            *(slice(None),) * 2,
        )
        values: NDArray[np.float32]
        if len(more) > 2 or not _is_of_rows(row_key):  # numpy knows what it means
            values = self[:][key]
            return values
        rows, columns = np.arange(n)[row_key], range(width)
        if isinstance(column_key, slice) and column_key.step in (None, 1):
            columns, column_key = columns[column_key], slice(None)
        values = self._read(np.ravel(rows), columns)
        if rows.ndim == 0:
            row_key = 0
        elif isinstance(row_key, slice):
            row_key = slice(None)
        else:
            row_key = np.arange(len(rows))
        values = values[row_key, column_key]
        return values

    def _read(self, rows: NDArray[np.intp], columns: range) -> NDArray[np.float32]:
        """Read rows in any order, of each block from the first to the last at once."""
        values = np.empty((len(rows), len(columns)), np.float32)
        if not values.size:
            return values
        span = slice(columns.start, columns.stop)
        n_at_once = min(_BLOCK_ROWS, max(_BLOCK_VALUES // len(columns), 1))
        blocks = rows // n_at_once
        order = np.argsort(blocks, kind="stable")
        edges = np.flatnonzero(np.diff(blocks[order])) + 1
        for places in np.split(order, edges):
            wanted = rows[places]
            block = slice(int(wanted.min()), int(wanted.max()) + 1)
            if _is_run(wanted) and _is_run(places):
                out = values[places[0] : places[-1] + 1]
                self._reader.read(self._split, self._blob, block, span, out)
            else:
                out = np.empty((block.stop - block.start, len(columns)), np.float32)
                self._reader.read(self._split, self._blob, block, span, out)
                values[places] = out[wanted - block.start]
        return values


def _is_run(numbers: NDArray[np.intp]) -> bool:
    """Tell whether each number is one more than that before it."""
    return bool((np.diff(numbers) == 1).all())


def _is_of_rows(key: Any) -> bool:
    """Tell whether an index means rows, each by its place, or those of a mask."""
    if isinstance(key, slice):
        return True
    index = np.asarray(key)
    return (index.dtype.kind in "iu" and index.ndim < 2) or (
        index.dtype.kind == "b" and index.ndim == 1
    )


class _Process:
    """The process at the other end of a pipe, as long as it lives."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        with ExitStack() as stack:
            shared = _new_memory()
            stack.callback(os.close, shared)
            answers, theirs = os.pipe()
            self._answers = stack.enter_context(open(answers, "rb", buffering=0))
            with open(theirs, "wb"):
                self._process = subprocess.Popen(
                    python_command(_START.format(answers=theirs, shared=shared)),
                    bufsize=0,  # of a question that a fork cuts off nothing is left
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs, shared),
                    # It multiplies no matrices.
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                    start_new_session=True,  # Ctrl-C is for the process that asks
                )
            stack.pop_all()
        self._questions = cast(FileIO, self._process.stdin)
        self.shared = Shared(shared)
        self._end = weakref.finalize(
            self, _end, self._process, self._answers, shared, self._owner
        )
        self._end.atexit = False  # what is read at exit can be; it ends without us
        try:
            receive(self._answers)
        except NoAnswerError:
            self._process.kill()
            raise StoreError(
                "expected to start a process that reads features files, found that it "
                f"ended with exit code {self._process.wait()}; look whether "
                f"`{sys.executable} -c 'import fishing.store.reader_process'` works"
            ) from None

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
        try:
            send(self._questions, {**question, "seconds": CPU_SECONDS})
        except BrokenPipeError:
            raise self.failure(path) from None
        while True:
            try:
                answer, arrays = receive(self._answers)
            except NoAnswerError:
                raise self.failure(path) from None
            if "done" not in answer:
                return answer, arrays
            if progress:
                progress(*answer["done"])

    def failure(self, path: Path) -> StoreError:
        """End it, and say what it died of, or that it went astray."""
        self._process.kill()
        code = self._process.wait()
        return StoreError(
            f"{path}: expected a whole features file, found one over which HDF5 "
            f"{_DEATHS.get(code, f'crashes (exit code {code})')}; extract it anew "
            "with --overwrite"
        )


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
        _, _spare = _spare, process


def _end(
    process: subprocess.Popen[bytes], answers: FileIO, shared: int, owner: int
) -> None:
    """End a process that nothing asks any more, unless it is another fork's."""
    os.close(shared)
    answers.close()
    if owner == os.getpid():
        process.kill()
        process.communicate()


def _after_fork() -> None:
    """Take locks that no thread of the other process holds."""
    global _lock
    _lock = Lock()
    for reader in _readers:
        reader.forget_lock()


os.register_at_fork(after_in_child=_after_fork)


def _new_memory() -> int:
    """Open a file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("values")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _place(path: Path) -> str:
    """Say where a file is, whatever the current folder will be."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError) as error:
        raise StoreError(
            printable(f"expected a features file at '{path}', found that {error}")
            + "; name one that is there"
        ) from None


def _identity(place: str) -> tuple[int, ...]:
    """Tell a file from others, and from what it was before a change."""
    with suppress(OSError):
        found = os.stat(place)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return ()
