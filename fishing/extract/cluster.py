"""Extraction into a folder of shards by the workers of a Dask cluster.

The client hands each worker one shard at a time, and keeps account itself: a shard is
done once its file lies in the folder and has the SHA-256 in the manifest.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from fishing.errors import FishingError, InUseError, one_line
from fishing.extract.cut_lists import cut, n_images, parts_of
from fishing.extract.dask_client import lost, open_client
from fishing.extract.shard_task import Work, make_on_worker
from fishing.extract.to_file import Extracted, NetOnDemand
from fishing.extract.to_shards import (
    BATCH_SIZE,
    circumstances,
    conclude,
    find_whole,
    new_manifest,
)
from fishing.images import ImageList
from fishing.nets import NetSpec
from fishing.processes import chosen_threads, usable_cores
from fishing.progress import Progress, silent
from fishing.store import (
    ExtractionSettings,
    Shard,
    begin_shards,
    one_client,
    read_manifest,
    shard_path,
)

_log = logging.getLogger(__name__)

_SECONDS = 1.0  # between two looks at the workers
_MOST_FAILURES = 10  # of one shard in a row, in which no image of it was done
_NO_WORKER = "waiting for a worker, since the Dask scheduler has none"
_WAIT = 2.0  # seconds until a shard that another process makes is tried again


def extract_on_cluster(
    settings: ExtractionSettings,
    lists: Sequence[ImageList],
    folder: Path,
    n_shards: int,
    scheduler: str,
    *,
    data: Path | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    strict: bool = False,
    progress: Progress = silent,
) -> list[Extracted]:
    """Write the paired blobs of all images into a folder of shards, by Dask's workers.

    All machines have to see the folder and the images under the same names, and to have
    the same versions of libraries. Each worker makes one shard at a time, with all of
    its threads. Shards of lost workers are made by others.

    Parameters
    ----------
    settings, lists, folder, n_shards
        See `extract_shards`.
    scheduler : str
        The address of a Dask scheduler, such as ``tcp://host:8786``, the path of a
        scheduler file, or ``local``: processes of this machine, with as many threads
        each as `use_threads` was told, or else 1. They import the script that runs,
        whose statements have to stand below ``if __name__ == "__main__":``.
    data, device, batch_size, strict, progress
        See `extract_shards`.

    Returns
    -------
    list of Extracted
        One for each list.

    Raises
    ------
    StoreError
        If the folder holds other work, another client hands out its shards, a worker
        has other versions or threads, or a disk is full.
    FishingError
        If the scheduler cannot be reached or is lost, or as `extract_shards` does.
    """
    size, folder = batch_size or BATCH_SIZE, folder.absolute()
    cuts = cut(lists, n_shards, size)
    settings = dataclasses.replace(settings, net=_absolute_net(settings.net))
    with NetOnDemand(settings, device=device, batch_size=size) as net:
        record, backend = net.record, net.settings.backend
    work = Work(
        settings, folder, device, size, strict, f"fishing-{secrets.token_hex(8)}"
    )
    with one_client(folder), open_client(scheduler, n_shards, device) as client:
        run = circumstances(backend, device, size, _threads(client))
        begin_shards(folder, new_manifest(record, run, lists, cuts))
        with ThreadPoolExecutor(usable_cores()) as checks:
            shards = _Shards(client, work, lists, cuts, checks, progress)
            try:
                done = shards.make_all()
            finally:
                checks.shutdown(wait=False, cancel_futures=True)
    return conclude(lists, folder, data, done)


def _absolute_net(net: NetSpec) -> NetSpec:
    """Name the files of a net for processes that run elsewhere."""
    return dataclasses.replace(
        net, folder=net.folder.absolute(), model=net.model.absolute()
    )


def _absolute_list(images: ImageList) -> ImageList:
    """Name images for processes that run elsewhere."""
    return dataclasses.replace(
        images, path=tuple(path.absolute() for path in images.path)
    )


def _threads(client: Any) -> int:
    """Say how many threads each worker is to have: those of the first, if need be."""
    chosen = chosen_threads()
    if chosen is not None:
        return chosen
    if not _workers(client):
        _log.info(_NO_WORKER)
    while not (found := _workers(client)):
        time.sleep(_SECONDS)
    return next(iter(found.values()))


def _workers(client: Any) -> dict[str, int]:
    """Ask for the addresses of the workers and their numbers of threads."""
    # Exceptions of many kinds mean that nobody answers.
    with suppress(Exception):
        if client.status == "running":
            return dict(client.nthreads())
    raise lost()


class _Shards:
    """The shards of a folder while workers make them."""

    def __init__(
        self,
        client: Any,
        work: Work,
        lists: Sequence[ImageList],
        cuts: Sequence[dict[str, list[int]]],
        checks: ThreadPoolExecutor,
        progress: Progress,
    ) -> None:
        self._client, self._work, self._checks = client, work, checks
        self._lists, self._cuts, self._progress = lists, cuts, progress
        self._events: Queue[Callable[[], None]] = Queue()
        self._sizes = [n_images(one) for one in cuts]
        self._n_done = [0] * len(cuts)  # images of each shard
        self._failures: Counter[int] = Counter()  # in a row, see _MOST_FAILURES
        self._told: set[int] = set()  # shards of which it was said who makes them
        self._not_before: dict[int, float] = {}  # shards to make, and since when
        self._making: dict[int, tuple[str, Any]] = {}  # the worker and its future
        self._made: dict[int, list[Extracted]] = {}  # what workers told
        self._whole: dict[int, list[Extracted]] = {}  # what lies in the folder
        self._looked, self._has_workers = 0.0, True
        self._idle: list[str] = []

    def make_all(self) -> list[Extracted]:
        """Make all shards, those that are there excepted."""
        self._client.subscribe_topic(self._work.topic, self._hear)
        for number, shard in enumerate(read_manifest(self._work.folder).shards):
            if shard.sha256:
                self._check(number, shard)
            else:
                self._not_before[number] = 0.0
        while len(self._whole) < len(self._cuts) or self._find_gone():
            self._look_at_workers()
            self._hand_out()
            with suppress(Empty):
                self._events.get(timeout=_SECONDS)()
        return [
            one
            for number in range(len(self._cuts))
            for one in self._made.get(number) or self._whole[number]
        ]

    def _find_gone(self) -> bool:
        """Find shards that have gone since they were checked; they are made again."""
        shards = read_manifest(self._work.folder).shards
        for number, shard in enumerate(shards):
            if not (shard.sha256 and shard_path(self._work.folder, number).is_file()):
                del self._whole[number]
                self._fail(number, "that its file is gone")
        return len(self._whole) < len(shards)

    def _look_at_workers(self) -> None:
        """Find workers without a shard, and shards without their worker."""
        if time.monotonic() < self._looked + _SECONDS:
            return
        self._looked = time.monotonic()
        workers = _workers(self._client)
        for number, (address, future) in list(self._making.items()):
            if address not in workers:
                del self._making[number]
                future.cancel()
                self._fail(number, f"that worker {address} is lost")
        if not workers and self._has_workers:
            _log.info(_NO_WORKER)
        self._has_workers = bool(workers)
        busy = {address for address, _ in self._making.values()}
        self._idle = [address for address in workers if address not in busy]

    def _hand_out(self) -> None:
        """Give each idle worker a shard that may be made now."""
        if not self._idle:
            return
        now = time.monotonic()
        ready = [n for n, since in self._not_before.items() if since <= now]
        for number in ready[: len(self._idle)]:
            del self._not_before[number]
            address = self._idle.pop(0)
            parts = parts_of(self._lists, self._cuts[number])
            future = self._client.submit(
                *(make_on_worker, self._work, number, list(map(_absolute_list, parts))),
                key=f"{self._work.topic}-{number}-{secrets.token_hex(4)}",
                workers=[address],
            )
            self._making[number] = address, future
            future.add_done_callback(
                lambda done, n=number: self._events.put(lambda: self._end(n, done))
            )

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        """Take what a worker reports; this is called in a thread of Dask's."""
        self._events.put(lambda: self._tell(event[1]))

    def _tell(self, report: dict[str, Any]) -> None:
        """Pass on a message of a worker, or how far it has come."""
        if "message" in report:
            _log.log(report["level"], "%s", report["message"])
        elif "made" in report:
            self._made[report["shard"]] = [Extracted(**one) for one in report["made"]]
        elif report["done"] > self._n_done[report["shard"]]:
            self._failures[report["shard"]] = 0
            self._count(report["shard"], report["done"])

    def _count(self, number: int, n_done: int) -> None:
        self._n_done[number] = n_done
        total = sum(self._sizes)
        self._progress(self._work.folder.name, sum(self._n_done), total, "images")

    def _end(self, number: int, future: Any) -> None:
        """Take note that a worker has ended with a shard, one way or another."""
        if self._making.get(number, ("", None))[1] is not future:
            return  # of a worker that was lost
        self._idle.append(self._making.pop(number)[0])
        if future.status == "cancelled":
            raise lost()
        if future.status == "finished":
            self._check(number)
            return
        error = future.exception()
        if isinstance(error, InUseError):
            if number not in self._told:
                self._told.add(number)
                _log.warning("%s; it is tried again", error)
            self._not_before[number] = time.monotonic() + _WAIT
        elif isinstance(error, FishingError):
            raise error
        else:
            self._fail(number, f"{type(error).__name__}: {one_line(error)}")

    def _check(self, number: int, shard: Shard | None = None) -> None:
        """Compare the SHA-256 of a shard, beside whatever else is done."""
        folder = self._work.folder

        def find() -> list[Extracted]:
            recorded = shard or read_manifest(folder).shards[number]
            return find_whole(shard_path(folder, number), recorded)

        check = self._checks.submit(find)
        check.add_done_callback(
            lambda done: self._events.put(lambda: self._checked(number, done.result()))
        )

    def _checked(self, number: int, found: list[Extracted]) -> None:
        if found:
            self._whole[number] = found
            self._count(number, self._sizes[number])
        else:
            self._fail(number, "that it is not whole")

    def _fail(self, number: int, found: str) -> None:
        """Have a shard made again, a little later each time, or give up."""
        self._failures[number] += 1
        if self._failures[number] > _MOST_FAILURES:
            raise FishingError(
                f"expected shard {number} of {self._work.folder}, found {found}, "
                f"{_MOST_FAILURES + 1} times in a row; look at the workers' logs, and "
                "run the same command again"
            )
        wait = self._failures[number] - 1
        self._not_before[number] = time.monotonic() + wait
