"""A connection to a Dask scheduler, or to a cluster of this machine's own."""

from __future__ import annotations

import json
import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from fishing.errors import FishingError, needs_extra, one_line
from fishing.files import read_at_most
from fishing.processes import chosen_threads, system_cores

LOCAL = "local"
_LOOPBACK = "127.0.0.1"
_MAX_FILE = 2**20  # bytes of a scheduler file
# Their handlers or levels are set by Dask; asyncio's by nobody.
_LOGGERS = (
    *("distributed", "distributed.client", "distributed.gc"),
    *("tornado", "tornado.application", "asyncio"),
)


def lost() -> FishingError:
    """Make the error of a scheduler that went away."""
    return FishingError(
        "expected the Dask scheduler to stay, found that the connection to it is lost; "
        "once there is a scheduler, the same command goes on"
    )


@contextmanager
def open_client(scheduler: str, n_shards: int, device: str) -> Iterator[Any]:
    """Connect to a scheduler; Dask's own messages are silenced meanwhile.

    Parameters
    ----------
    scheduler : str
        An address, such as ``tcp://host:8786``, a scheduler file, or ``local``: a
        cluster of processes of this machine, which ends with the block.
    n_shards : int
        The most workers that a local cluster needs.
    device : str
        See `extract`. With GPUs, a local cluster is one worker.

    Yields
    ------
    distributed.Client

    Raises
    ------
    FishingError
        If the scheduler cannot be reached, or Dask is not installed.
    """
    with needs_extra("dask"):
        import distributed
    with ExitStack() as stack:
        stack.enter_context(_silenced())
        where: Any = None if scheduler == LOCAL else _address(scheduler)
        try:
            if where is None:
                where = stack.enter_context(_local_cluster(n_shards, device))
            client = stack.enter_context(distributed.Client(where))
        except Exception as error:  # Dask raises errors of many kinds here
            raise FishingError(
                f"expected a Dask scheduler at {scheduler}, found: {one_line(error)}; "
                "start one with `dask scheduler`, or name another --scheduler"
            ) from None
        yield client


@contextmanager
def _local_cluster(n_shards: int, device: str) -> Iterator[Any]:
    """Start workers that share the cores of this machine."""
    import distributed

    threads = chosen_threads() or 1
    n_workers = system_cores() // threads if device == "cpu" else 1
    with ExitStack() as stack:
        with _interrupts_held_back():
            cluster = distributed.LocalCluster(
                n_workers=max(1, min(n_workers, n_shards)),
                threads_per_worker=threads,
                host=_LOOPBACK,
                # Without addresses, older versions of Dask listen on all interfaces.
                dashboard_address=f"{_LOOPBACK}:0",
                worker_dashboard_address=f"{_LOOPBACK}:0",
                scheduler_kwargs={"dashboard": False},
                memory_limit=0,  # a worker would be killed at the limit
                silence_logs=logging.CRITICAL,
            )
            stack.enter_context(cluster)
        yield cluster


def _address(scheduler: str) -> str:
    """Take an address as it is, and read that in a scheduler file."""
    if "://" in scheduler:
        return scheduler
    try:
        return str(json.loads(read_at_most(Path(scheduler), _MAX_FILE))["address"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise FishingError(
            "expected --scheduler local, an address such as tcp://host:8786, or a "
            f"scheduler file, found '{scheduler}', which is none of these; "
            "`dask scheduler --scheduler-file` writes such a file"
        ) from None


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Keep Ctrl-C from the processes that are started in the block.

    A terminal sends it to them as well, and they would print where they were. This
    process gets it once the block ends, and then ends them.
    """
    resource_tracker.ensure_running()  # whoever starts it lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep Dask's messages from the terminal: what matters is raised as an error."""
    before = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="distributed")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
