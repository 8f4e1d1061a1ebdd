"""Fetch the weights of a net into the cache, and check them by SHA-256 or SHA-1.

Bytes are collected in `<file>.part`, which the next run continues after a break. The
file gets its own name only once its size and its checksum are right. Where no source
publishes a checksum, a warning says so.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fishing import __version__
from fishing.errors import NetError, one_line
from fishing.file_kinds import found_instead
from fishing.files import file_digest, file_sha256, lock, name_whole_file
from fishing.nets.spec import NetSpec
from fishing.nets.weights import cached_weights
from fishing.progress import Progress, silent

if TYPE_CHECKING:
    import requests

_log = logging.getLogger(__name__)

TRIES = 5
PAUSE = 1.0  # seconds before another try
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces of the body
MAX_BYTES = 2**31  # if no size is on record; Caffe reads no larger file
_CHUNK = 1 << 16  # bytes; a break loses no more than this


class _BreakError(Exception):
    """The connection broke, and another try of the same source may bring more."""


class _SourceError(Exception):
    """The source does not have the file; the next one is tried."""


def fetch_weights(
    spec: NetSpec, source: str | None = None, progress: Progress = silent
) -> Path:
    """Fetch the weights of a net into the cache, unless they are there already.

    A second process that fetches the same file waits for the first.

    Parameters
    ----------
    spec : NetSpec
    source : str, optional
        An http(s) address or a local path to use instead of the net's own sources.
    progress : Progress
        Called with the number of bytes.

    Returns
    -------
    Path
        The weights, whose size and checksum are those on record. They are beside
        `net.toml` if they come with the net, and otherwise in the cache.

    Raises
    ------
    NetError
        If no source has the right bytes, or if they cannot be written.
    """
    weights, beside = spec.weights, spec.folder / spec.weights.file
    if beside.is_file():
        if fault := _fault(spec, beside):
            raise NetError(f"{beside}: {fault}; put the right file there or remove it")
        return beside
    if weights.checksum is None and not weights.sources:
        raise NetError(
            f"expected a sha256 or sources in {spec.folder / 'net.toml'}, found "
            f"neither; add them, or put the weights at {beside}"
        )
    # No lock is needed here; the folder may be a shared one that cannot be written.
    target = cached_weights(spec)
    if target.is_file() and not _fault(spec, target):
        return target
    sources = weights.sources if source is None else (source,)
    if not sources:
        raise NetError(
            f"expected sources in {spec.folder / 'net.toml'}, found none; run "
            "`fishing fetch` with --from URL-or-path"
        )
    reasons = []
    with _locked(target):
        if target.is_file() and not _fault(spec, target):
            return target
        for number, address in enumerate(sources, 1):
            fetch = _from_url if "://" in address else _from_path
            try:
                fetch(spec, address, target, progress)
            except _SourceError as error:
                reasons.append(f"({number}) {address}: {error}")
            else:
                _warn_if_unchecked(spec, target)
                return target
    checksum = "with {} {} ".format(*weights.checksum) if weights.checksum else ""
    raise NetError(
        f"expected {weights.file} {checksum}from {len(sources)} source(s), found none "
        f"that has it: {' '.join(reasons)}; try later, or name another source: "
        f"`fishing fetch {spec.name} --from URL-or-path`"
    )


def _warn_if_unchecked(spec: NetSpec, target: Path) -> None:
    """Say so if nothing on record tells whether the weights are the right ones."""
    if spec.weights.checksum is None:
        _log.warning(
            "%s was not checked, as no checksum is on record; its SHA-256 is %s",
            target,
            file_sha256(target),
        )


def _from_url(spec: NetSpec, url: str, target: Path, progress: Progress) -> None:
    """Download a file, beginning with the bytes that an earlier run has left."""
    # Without a checksum, bytes of two sources could be mixed unnoticed.
    of_url = f".{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    part = _suffixed(target, f"{'' if spec.weights.checksum else of_url}.part")
    while True:
        is_resumed = _size(part) > 0
        _download(spec, url, part, progress)
        fault = _fault(spec, part)
        if fault is None:
            return _keep(part, target)
        part.unlink()
        # Bytes of an earlier run or source may be wrong: start again without them.
        if not is_resumed:
            raise _SourceError(fault)


def _from_path(spec: NetSpec, path: str, target: Path, progress: Progress) -> None:
    """Copy a file, and leave an unfinished download as it is."""
    copy = _suffixed(target, ".copy")
    try:
        source = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise _SourceError(f"expected a file, found {error.strerror}") from error
    try:
        with source, copy.open("wb") as file:
            chunks = iter(partial(source.read, _CHUNK), b"")
            _write(spec, chunks, file, os.fstat(source.fileno()).st_size, progress)
        if fault := _fault(spec, copy):
            raise _SourceError(fault)
        _keep(copy, target)
    finally:
        copy.unlink(missing_ok=True)


def _download(spec: NetSpec, url: str, part: Path, progress: Progress) -> None:
    """Download what `part` lacks; after a break, try again."""
    size = spec.weights.size
    for attempt in range(TRIES):
        before = _size(part)
        if size is not None and before >= size:
            return
        try:
            return _request(spec, url, part, progress)
        except _BreakError as error:
            reason = str(error)
        # If the first try brings nothing, the host is down: the next source is tried.
        if attempt == 0 and _size(part) == before:
            break
        time.sleep(PAUSE)
    kept = _size(part)
    raise _SourceError(f"{reason} ({kept} bytes are kept)" if kept else reason)


def _request(spec: NetSpec, url: str, part: Path, progress: Progress) -> None:
    """Request the bytes that `part` lacks once, and append what arrives."""
    import requests  # here, because it opens a socket; files that are there need none

    start = _size(part)
    # An encoded body would have other bytes and another length.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"fishing/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            start, total = _start_and_total(answer, part, start, spec.weights.size)
            with part.open("ab" if start else "wb") as file:
                done = _write(spec, answer.iter_content(_CHUNK), file, total, progress)
    # InvalidURL and its like are ValueErrors, as is what urllib3 raises for http://a..b.
    except (ValueError, requests.TooManyRedirects) as error:
        raise _SourceError(f"expected an http(s) address, found: {error}") from error
    except requests.RequestException as error:
        raise _BreakError(f"the connection broke: {_root(error)}") from error
    if total is not None and done < total:
        raise _BreakError(f"the connection broke after {done} of {total} bytes")


def _start_and_total(
    answer: requests.Response, part: Path, start: int, size: int | None
) -> tuple[int, int | None]:
    """Read from an answer's head where its body starts and how long the file is."""
    status, named = answer.status_code, answer.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", named)
    if status == 206 and match and int(match[1]) == start:
        length = match[2]
    elif status == 200:  # the whole file follows, even if a part was requested
        start, length = 0, answer.headers.get("Content-Length", "")
    elif status in (206, 416):  # the server cannot resume
        part.unlink(missing_ok=True)
        found = f"status {status} and the range {named!r}"
        raise _BreakError(f"expected the bytes from {start} on, found {found}")
    elif status >= 500:
        raise _BreakError(f"found status {status} {answer.reason}")
    else:
        raise _SourceError(f"found status {status} {answer.reason}")
    if "html" in answer.headers.get("Content-Type", ""):
        raise _SourceError("expected weights, found a web page")
    total = int(length) if length.isdecimal() else None
    if total is not None and size is not None and total != size:
        raise _SourceError(f"expected {size} bytes, found {total}")
    if total is not None and total > (size or MAX_BYTES):
        raise _SourceError(f"expected at most {MAX_BYTES} bytes, found {total}")
    return start, size or total


def _write(
    spec: NetSpec,
    chunks: Iterable[bytes],
    file: IO[bytes],
    total: int | None,
    progress: Progress,
) -> int:
    """Append to a file of limited size, and return its length."""
    done = file.tell()
    progress(spec.weights.file, done, total, "B")
    most = spec.weights.size or MAX_BYTES
    for chunk in chunks:
        done += len(chunk)
        if done > most:
            raise _SourceError(f"expected {most} bytes, found more")
        file.write(chunk)
        progress(spec.weights.file, done, total, "B")
    return done


def _fault(spec: NetSpec, path: Path) -> str | None:
    """Describe how a file differs from the weights on record, if it does."""
    size = spec.weights.size
    if size is not None and _size(path) != size and (instead := found_instead(path)):
        return f"expected weights, found {instead}"
    if size is not None and _size(path) != size:
        return f"expected {size} bytes, found {_size(path)}"
    if spec.weights.checksum is None:
        return None
    name, expected = spec.weights.checksum
    found = file_digest(path, name)
    return None if found == expected else f"expected {name} {expected}, found {found}"


def _keep(file: Path, target: Path) -> None:
    """Give a checked file its name once its bytes are on the disk."""
    name_whole_file(file, target)
    _suffixed(target, ".part").unlink(missing_ok=True)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keep the lock of `target`, and turn errors of the disk into a NetError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        waiting = partial(_log.info, "waiting for %s, which fetches the same file")
        with lock(_suffixed(target, ".lock"), waiting):
            yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise NetError(
            f"expected to write {target}, found: {one_line(error)}; "
            + ("make room, or " if is_full else "")
            + "set FISHING_HOME to a folder that can be written"
        ) from error


def _suffixed(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _root(error: BaseException) -> BaseException:
    """Find the first cause, such as `Connection refused`, below its wrappers."""
    for inner in (getattr(error, "reason", None), *error.args):
        if isinstance(inner, BaseException):
            return _root(inner)
    return error
