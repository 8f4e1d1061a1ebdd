"""Cores, threads and child processes: how the work of one machine is spread."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def usable_cores() -> int:
    """Count the cores that this process may use.

    Returns
    -------
    int
        At least 1. Where the system does not know an affinity, all cores count.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_threads(work: Callable[[T], object], items: Iterable[T]) -> None:
    """Call a function once for each item, in one thread for each usable core.

    This helps where the function releases Python's lock, as numpy and LIBSVM do. The
    first exception is raised once all calls have ended.

    Parameters
    ----------
    work : callable
    items : iterable
        Arguments of `work`.

    Examples
    --------
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
    """Write the command line of a child process that imports what this one imports.

    Modules of the current folder, which may hold anything, are left out.

    Parameters
    ----------
    work : str
        Statements to run, including the imports of `fishing`.

    Returns
    -------
    list of str
        The arguments for `subprocess.Popen`.
    """
    entries = [p for p in sys.path if isinstance(p, str) and os.path.isabs(p)]
    entries.append(str(Path(__file__).parents[1]))
    return [sys.executable, "-c", f"import sys; sys.path[:] = {entries!r}; {work}"]
