"""The task that makes one shard, on a worker of a Dask cluster."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from fishing.errors import FishingError
from fishing.extract.cut_lists import n_images
from fishing.extract.to_file import NetOnDemand
from fishing.extract.to_shards import circumstances, make_shard, of_all
from fishing.images import ImageList
from fishing.processes import use_threads
from fishing.progress import Progress
from fishing.store import ExtractionSettings, begin_shards, read_manifest

_SECONDS = 0.5  # between two reports of progress


@dataclass(frozen=True)
class Work:
    """What the shards of one folder have in common.

    Attributes
    ----------
    settings : ExtractionSettings
    folder : Path
        Absolute.
    device, batch_size, strict
        See `extract_shards`.
    topic : str
        The topic of Dask's events under which workers report what they did.
    """

    settings: ExtractionSettings
    folder: Path
    device: str
    batch_size: int
    strict: bool
    topic: str


_alone = Lock()  # one shard at a time in a process, by all of its threads
_kept: list[tuple[object, NetOnDemand]] = []  # the net of the last shard, and its key


def make_on_worker(work: Work, number: int, parts: Sequence[ImageList]) -> None:
    """Make a shard on this worker; a FishingError names the worker.

    What was done is reported as an event: a result would be lost with the worker.
    """
    from distributed import get_worker

    worker: Any = get_worker()
    with _alone, _messages(worker, work.topic):
        try:
            use_threads(worker.state.nthreads)
            net = _net(work)
            _check_same(net, work, worker.state.nthreads)
            done = make_shard(
                *(net, parts, work.folder, number, work.batch_size, work.strict),
                _progress(worker, work.topic, number, parts),
            )
            made = [asdict(one) for one in done]
            worker.log_event(work.topic, {"shard": number, "made": made})
        except BaseException as error:
            _let_go()  # whatever state the net is in
            if isinstance(error, FishingError):
                name = f"{worker.address} on {os.uname().nodename}"
                raise type(error)(f"worker {name}: {error}") from None
            raise


def _net(work: Work) -> NetOnDemand:
    """Take the net of the last shard, unless it is another one."""
    key = (work.settings, work.device, work.batch_size)
    if _kept and _kept[0][0] != key:
        _let_go()
    if not _kept:
        settings, device, batch_size = key
        net = NetOnDemand(settings, device=device, batch_size=batch_size)
        _kept.append((key, net))
    return _kept[0][1]


def _let_go() -> None:
    while _kept:
        _kept.pop()[1].__exit__()


def _check_same(net: NetOnDemand, work: Work, threads: int) -> None:
    """Refuse to work with other files, versions or threads than the manifest names."""
    run = circumstances(net.settings.backend, work.device, work.batch_size, threads)
    found = read_manifest(work.folder)
    begin_shards(work.folder, replace(found, settings=net.record, run=run))


def _progress(
    worker: Any, topic: str, number: int, parts: Sequence[ImageList]
) -> Progress:
    """Report how many images of a shard are done, now and then."""
    reported = 0.0
    part = {images.split: (0, len(images)) for images in parts}

    def report(label: str, done: int, total: int | None, unit: str) -> None:
        nonlocal reported
        if time.monotonic() >= reported + _SECONDS or done == total:
            reported = time.monotonic()
            worker.log_event(topic, {"shard": number, "done": done})

    return of_all(report, "", 0, n_images(part), part)


class _ToClient(logging.Handler):
    """Sends messages to the client."""

    def __init__(self, worker: Any, topic: str) -> None:
        super().__init__(logging.WARNING)
        self._worker, self._topic = worker, topic

    def emit(self, record: logging.LogRecord) -> None:
        """Send a message."""
        message = {"level": record.levelno, "message": record.getMessage()}
        self._worker.log_event(self._topic, message)


@contextmanager
def _messages(worker: Any, topic: str) -> Iterator[None]:
    """Send the warnings of this package to the client."""
    logger, handler = logging.getLogger("fishing"), _ToClient(worker, topic)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
