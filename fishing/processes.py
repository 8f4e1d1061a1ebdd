"""Cores, threads and child processes of this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def usable_cores() -> int:
    """Count the cores that this process may use.

    On a system without CPU affinity, all cores count.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


def python_command(work: str) -> list[str]:
    """Build the command line of a child process that runs statements.

    It gets the import path of this process. The current folder is left out of the path,
    since any file in it could be imported.
    """
    entries = [p for p in sys.path if isinstance(p, str) and os.path.isabs(p)]
    entries.append(str(Path(__file__).parents[1]))
    return [sys.executable, "-c", f"import sys; sys.path[:] = {entries!r}; {work}"]
