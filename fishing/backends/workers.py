"""Several workers as one backend: GPUs beside each other, two workers on each.

In go batches, out come their blobs in the same order, so that the rows of a file do not
tell how many workers made them. A worker of Caffe is a process of its own and one of
ONNX Runtime lets Python's lock go, so a thread for each is enough here. While one of
two workers on a GPU brings a batch there and blobs back, the net of the other runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fishing.backends.interface import Backend

Blobs = Mapping[str, NDArray[np.float32]]
T = TypeVar("T")


class Workers:
    """Backends of one net as one; implements `fishing.backends.Backend`.

    Parameters
    ----------
    makers : sequence of callables
        Each opens a backend; all of the same net.

    Raises
    ------
    FishingError
        As they have it; those that were opened are closed.
    """

    def __init__(self, makers: Sequence[Callable[[], Backend]]) -> None:
        self._free: SimpleQueue[Backend] = SimpleQueue()
        with ExitStack() as stack:
            backends = [stack.enter_context(closing(make())) for make in makers]
            self._closing = stack.pop_all()
        for backend in backends:
            self._free.put(backend)
        self.widths = backends[0].widths
        # The same batches for all, lest a row depend on who made it.
        self.batch_size = min(backend.batch_size for backend in backends)
        self.n_at_once = len(backends)

    def run(self, data: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run a batch on a worker that is free; see `fishing.backends.Backend.run`."""
        backend = self._free.get()
        try:
            return backend.run(data)
        finally:
            self._free.put(backend)

    def close(self) -> None:
        """Close all of them."""
        self._closing.close()


def run_ahead(
    net: Backend, batches: Iterable[tuple[T, NDArray[np.float32]]]
) -> Generator[tuple[T, Blobs], None, None]:
    """Run batches while the results of those before them are used.

    Close the iterator before the net.

    Parameters
    ----------
    net : Backend
    batches : iterable of (object, ndarray)
        What is to be known of a batch, and its images; there may be none.

    Yields
    ------
    object
    dict of str to ndarray
        The blobs of the batch, in the order of the batches; empty if it was.

    Raises
    ------
    BackendError
        At the batch that cannot be run, after all before it.
    """
    waiting: deque[tuple[T, Future[Any]]] = deque()
    pool = ThreadPoolExecutor(net.n_at_once)
    try:
        for about, data in batches:
            waiting.append((about, pool.submit(_run, net, data)))
            # While a result is used all workers run, and no more is lost if all ends.
            if len(waiting) > net.n_at_once:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run(net: Backend, data: NDArray[np.float32]) -> Blobs:
    return net.run(data) if len(data) else {}
