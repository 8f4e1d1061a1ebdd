"""Several workers as one backend: several GPUs, with two workers on each.

Blobs keep the order of their batches, so that the rows of a file do not depend on the
number of workers. One thread for each worker is enough, because a worker of Caffe is a
separate process, and ONNX Runtime releases Python's lock. While one of the two workers
on a GPU transfers a batch or its blobs, the other one computes.
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
    """Several backends of one net as one; implements `fishing.backends.Backend`.

    Each of `makers` opens a backend. If one cannot be opened, the others are closed.
    """

    def __init__(self, makers: Sequence[Callable[[], Backend]]) -> None:
        self._free: SimpleQueue[Backend] = SimpleQueue()
        with ExitStack() as stack:
            backends = [stack.enter_context(closing(make())) for make in makers]
            self._closing = stack.pop_all()
        for backend in backends:
            self._free.put(backend)
        self.widths = backends[0].widths
        # All get batches of one size, or a row would depend on the worker that made it.
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
        """Close all backends."""
        self._closing.close()


def run_ahead(
    net: Backend, batches: Iterable[tuple[T, NDArray[np.float32]]]
) -> Generator[tuple[T, Blobs], None, None]:
    """Run batches ahead, while the caller uses the results of earlier ones.

    Close the iterator before the net.

    Parameters
    ----------
    net : Backend
    batches : iterable of (object, ndarray)
        Anything that identifies a batch, and its images. A batch may be empty.

    Yields
    ------
    object
        What identifies the batch. Batches keep their order.
    dict of str to ndarray
        The blobs of the batch; no blobs for an empty batch.

    Raises
    ------
    BackendError
        If a batch cannot be run; all batches before it are yielded first.
    """
    waiting: deque[tuple[T, Future[Any]]] = deque()
    pool = ThreadPoolExecutor(net.n_at_once)
    try:
        for about, data in batches:
            waiting.append((about, pool.submit(_run, net, data)))
            # All workers run while a result is used, and a crash loses no more batches.
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
