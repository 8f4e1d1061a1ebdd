"""The process that reads features files, at the other end of `fishing.store.reader`.

In come questions on standard input, out go answers by another pipe: a message is JSON
and, behind it, the bytes of arrays. Values are put into memory that both processes
share. What libhdf5 does over a damaged file it does to this process and no other.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import resource
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import StoreError
from fishing.files import write_all
from fishing.store.write import StoredFile, damage_of

#: Bytes that the process may take.
MEMORY = 2**33
#: What a split holds beside its blobs.
ARRAYS = ("failed_index", "labels", "failed_labels")
TEXTS = ("image_id", "classes", "failed_id", "failed_reason")

_LENGTH = struct.Struct("<Q")


class NoAnswerError(Exception):
    """A pipe ended, or held something that is no message."""


class Shared:
    """Memory that two processes share, and that grows as it is needed.

    Parameters
    ----------
    descriptor : int
        Of a file of nobody else.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory: mmap.mmap | bytes = b""

    def array(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """View it as an array of float32, of one value at least."""
        n_bytes = 4 * math.prod(shape)
        if len(self._memory) < n_bytes:
            if os.fstat(self._descriptor).st_size < n_bytes:
                os.ftruncate(self._descriptor, n_bytes)
            self._memory = mmap.mmap(self._descriptor, n_bytes)
        return np.frombuffer(self._memory, np.float32, math.prod(shape)).reshape(shape)


def serve(answers: int, shared: int) -> None:
    """Answer the process at the other end of the pipes until it hangs up.

    Parameters
    ----------
    answers, shared : int
        Descriptors of the pipe, and of the memory that both share.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    _set_limit(resource.RLIMIT_AS, MEMORY if soft < 0 else min(MEMORY, soft))
    _set_limit(resource.RLIMIT_CORE, 0)
    server = _Server(FileIO(answers, "w"), Shared(shared))
    with suppress(NoAnswerError, BrokenPipeError):
        server.greet()
        while True:
            question, _ = receive(sys.stdin.buffer)
            server.answer(**question)


class _Server:
    """What the process does that opens features files, one at a time."""

    def __init__(self, pipe: FileIO, shared: Shared) -> None:
        self._pipe, self._shared = pipe, shared
        self._path = ""
        self._file: StoredFile | None = None

    def greet(self) -> None:
        """Say that this process is there."""
        send(self._pipe, {})

    def answer(self, ask: str, seconds: int, **question: Any) -> None:
        """Do what is asked within so many seconds, and send what comes of it."""
        _allow(seconds)
        self._path = question.get("path", self._path)
        head: dict[str, Any] = {}
        arrays: Sequence[NDArray[Any]] = ()
        try:
            if ask == "open":
                self._file = StoredFile(Path(question["path"]))
                head, arrays = _outline(self._file)
            elif ask == "read":
                self._read(**question)
            elif ask == "damage":
                head = {"damage": self._damage(Path(question["path"]), seconds)}
            else:
                self._close()
        except StoreError as error:
            head = {"refusal": str(error)}
        except MemoryError:
            head = {
                "refusal": f"{self._path}: expected to read it within the memory that "
                "is allowed, found that it takes more; allow more, or extract it anew"
            }
        send(self._pipe, head, arrays)

    def _read(
        self, split: str, blob: str, rows: Sequence[int], columns: Sequence[int]
    ) -> None:
        """Put a block of values into the shared memory."""
        assert self._file is not None
        stored = self._file.splits[split].blobs[blob]
        values = stored[slice(*rows), slice(*columns)]
        self._shared.array(values.shape)[:] = values

    def _damage(self, path: Path, seconds: int) -> dict[str, str]:
        def report(done: int, total: int) -> None:
            _allow(seconds)
            send(self._pipe, {"done": [done, total]})

        return damage_of(path, report)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _outline(file: StoredFile) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Put into words and arrays what is in a file, but for its values."""
    parts, arrays = {}, []
    for name, split in file.splits.items():
        there = [key for key in ARRAYS if getattr(split, key) is not None]
        arrays += [getattr(split, key) for key in there]
        parts[name] = {
            "arrays": there,
            "texts": {key: getattr(split, key) for key in TEXTS},
            "blobs": {blob: rows.shape for blob, rows in split.blobs.items()},
            "devkit": split.devkit,
            "list_sha256": split.list_sha256,
        }
    head = {
        "settings": file.settings,
        "format_version": file.format_version,
        "splits": parts,
    }
    return head, arrays


def send(
    pipe: FileIO, head: Mapping[str, Any], arrays: Sequence[NDArray[Any]] = ()
) -> None:
    """Send a message: texts and numbers as JSON, and the bytes of arrays behind it."""
    forms = [[a.dtype.str, a.shape] for a in arrays]
    text = json.dumps({**head, "forms": forms}).encode()
    write_all(pipe, _LENGTH.pack(len(text)) + text)
    for array in arrays:
        write_all(pipe, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def receive(pipe: IO[bytes]) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Receive a message.

    Raises
    ------
    NoAnswerError
        If the pipe ends, or holds something else.
    """
    (length,) = _LENGTH.unpack(_read(pipe, _LENGTH.size))
    message, forms = _parse(_read(pipe, length))
    arrays = [
        np.frombuffer(_read(pipe, math.prod(shape) * dtype.itemsize), dtype)
        for dtype, shape in forms
    ]
    shapes = (shape for _, shape in forms)
    return message, [a.reshape(s) for a, s in zip(arrays, shapes, strict=True)]


def _parse(
    text: bytearray,
) -> tuple[dict[str, Any], list[tuple[np.dtype[Any], tuple[int, ...]]]]:
    """Take a message apart: what it says, and the types and shapes of its arrays."""
    try:
        message = json.loads(text)
        forms = [(np.dtype(d), tuple(map(int, s))) for d, s in message.pop("forms")]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise NoAnswerError from None
    if any(dtype.hasobject or min(shape, default=0) < 0 for dtype, shape in forms):
        raise NoAnswerError
    return message, forms


def _read(pipe: IO[bytes], n_bytes: int) -> bytearray:
    """Read so many bytes."""
    try:
        content = bytearray(n_bytes)
    except (MemoryError, OverflowError):
        raise NoAnswerError from None
    rest = memoryview(content)
    while rest:
        n = pipe.readinto(rest)  # type: ignore[attr-defined]
        if not n:
            raise NoAnswerError
        rest = rest[n:]
    return content


def _allow(seconds: int) -> None:
    """Let this process compute for so long from now on."""
    _set_limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + seconds)


def _set_limit(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if hard < 0 else min(limit, hard), hard))
