"""Cores, threads and child processes of this machine."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from fishing.errors import FishingError
from fishing.quotas import quota_cores

T = TypeVar("T")

_chosen: int | None = None  # what `use_threads` was told


def usable_cores() -> int:
    """Count the cores that this process may use; each pool has a thread for each.

    This is what `use_threads` was told, or else what the system allows.
    """
    return system_cores() if _chosen is None else _chosen


def system_cores() -> int:
    """Count the cores that the system allows, whatever `use_threads` was told.

    This is the least of the processor affinity, the quotas of control groups,
    ``OMP_NUM_THREADS`` and the share that joblib leaves to one of its workers.
    """
    limits = [_affinity(), quota_cores(), _omp_threads(), _joblib_share()]
    return min(limit for limit in limits if limit is not None)


def chosen_threads() -> int | None:
    """Return what `use_threads` was told, if it was told a number."""
    return _chosen


def use_threads(n: int | None) -> None:
    """Set how many threads each pool and library may use, whatever the system says.

    None returns to what the system says.
    """
    global _chosen
    if n is not None and n < 1:
        raise FishingError(f"expected 1 thread or more, found {n}")
    _chosen = n


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _omp_threads() -> int | None:
    """Read OMP_NUM_THREADS, a number or a list of them by the depth of nesting."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isascii() and first.isdecimal() and int(first) else None


def _joblib_share() -> int | None:
    """Return how many cores joblib leaves to this worker, if it is one.

    Workers of loky find their share in OMP_NUM_THREADS. To others joblib does not say
    how many they are, so each takes one core.
    """
    joblib = sys.modules.get("joblib")
    if joblib is None:
        return None
    depth = int(getattr(joblib.parallel.get_active_backend()[0], "nesting_level", 0))
    if multiprocessing.current_process().name.startswith("LokyProcess"):
        depth -= 1
    return 1 if depth > 0 else None


def usable_memory() -> int:
    """Estimate the bytes of memory that this process can still take.

    That is what the system has left, or what the limit of a container (a cgroup of
    version 2) leaves, if that is less.
    """
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        free = 1024 * int(available.split()[1])
    with suppress(OSError, ValueError):  # without a limit, it is "max"
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    return max(free, 0)


def in_threads(work: Callable[[T], object], items: Iterable[T]) -> None:
    """Call a function once for each item, in one thread for each usable core.

    This is faster if the function releases Python's global interpreter lock, as those
    of numpy and LIBSVM do. If a call raises, calls that have not begun are dropped, and
    the first exception is raised once the others have ended.

    >>> found = set()
    >>> in_threads(found.add, [1, 2])
    >>> found
    {1, 2}
    """
    todo: Sequence[T] = list(items)
    if len(todo) < 2:  # starting a thread takes longer than a small piece of work
        for item in todo:
            work(item)
        return
    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in pool.map(work, todo):
            continue


_blas_lock = threading.Lock()
_blas_users: list[Any] = []  # who is in `blas_threads`: the limits, then None for each


@contextmanager
def blas_threads(most: int | None = None) -> Iterator[None]:
    """Let products of matrices in the block use no more threads than `usable_cores`.

    BLAS itself heeds no quota. Where threads compute products side by side, `most` is
    1, since the threads of BLAS would wait for each other. If several threads are in
    such a block, the limits end with the last one.
    """
    with _blas_lock:
        limits = None
        if not _blas_users:
            blas = _loaded_blas(len(sys.modules))
            # A user may have set less, by OPENBLAS_NUM_THREADS and the like.
            now = [one["num_threads"] for one in blas.info()] if not _chosen else []
            _let_any_thread_set_limits()
            limits = blas.limit(limits=min([most or usable_cores(), *now]))
        _blas_users.append(limits)
    try:
        yield
    finally:
        with _blas_lock:
            limits = _blas_users[0] if len(_blas_users) == 1 else None
            _blas_users.pop()
            if limits is not None:
                _let_any_thread_set_limits()
                limits.restore_original_limits()
                _let_any_thread_set_limits()


def _let_any_thread_set_limits() -> None:
    """Undo that newer versions of threadpoolctl listen to the first thread alone."""
    import threadpoolctl

    kind: Any = getattr(threadpoolctl, "OpenBLASController", None)
    if hasattr(kind, "clear_controlling_thread"):
        kind.clear_controlling_thread(force=True)


@lru_cache(maxsize=1)
def _loaded_blas(n_modules: int) -> Any:
    """Find the BLAS libraries, which takes milliseconds; they come with modules."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@contextmanager
def opencv_threads(n: int) -> Iterator[None]:
    """Let OpenCV use so many threads within one call, for calls in the block."""
    import cv2  # here, because few commands need it

    before = cv2.getNumThreads()
    cv2.setNumThreads(n)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def thread_environment(n: int) -> dict[str, str]:
    """Say in environment variables how many threads a child's libraries may use."""
    names = ("OMP", "OPENBLAS", "MKL")
    return {f"{name}_NUM_THREADS": str(n) for name in names}


def open_standard_streams() -> None:
    """Open the null device in place of standard streams that are closed.

    Otherwise the next file or pipe would take the place of one of them: a library would
    print into it, and a child process would lose or inherit it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def start_python(
    work: Callable[..., str],
    *descriptors: int,
    environment: Mapping[str, str],
    **streams: Any,
) -> subprocess.Popen[bytes]:
    """Start a child process that runs Python statements.

    Parameters
    ----------
    work : callable
        Returns the statements, given the numbers of the descriptors in the child.
    *descriptors : int
        Open files that the child inherits, never as one of its standard streams.
    environment : mapping of str to str
        Variables in addition to those of this process.
    **streams
        ``stdin``, ``stdout``, ``stderr`` and ``start_new_session`` of
        `subprocess.Popen`.

    Raises
    ------
    OSError
        If the process cannot be started.
    """
    open_standard_streams()
    passed: list[int] = []
    try:
        for descriptor in descriptors:
            passed.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3))
        return subprocess.Popen(
            python_command(work(*passed)),
            pass_fds=passed,
            env={**os.environ, **environment},
            **streams,
        )
    finally:
        for descriptor in passed:
            with suppress(OSError):
                os.close(descriptor)


def python_command(work: str) -> list[str]:
    """Build the command line of a child process that runs statements.

    It gets the import path of this process. The current folder is left out of the path,
    since any file in it could be imported.
    """
    entries = [p for p in sys.path if isinstance(p, str) and os.path.isabs(p)]
    entries.append(str(Path(__file__).parents[1]))
    return [sys.executable, "-c", f"import sys; sys.path[:] = {entries!r}; {work}"]
