"""Run functions in a separate process, which frees all memory when it ends."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from fishing.errors import BackendError

T = TypeVar("T")


def in_child(function: Callable[..., T], *arguments: Any) -> T:
    """Run a function in a fresh process.

    Raises
    ------
    BackendError
        If the process aborts, as it does when a check of Caffe fails.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise BackendError(
                f"expected {function.__name__} to end, found that its process was "
                "aborted; see the lines above"
            ) from None
