"""Images that a few threads read and prepare ahead of the net, in batches.

At no time are more than a few batches of them in memory.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fishing.errors import ImageError, printable
from fishing.images import (
    ImageList,
    Note,
    Preprocess,
    catch_messages,
    collect_notes,
)
from fishing.processes import opencv_threads, usable_cores

_log = logging.getLogger(__name__)

#: What is counted of images that have a row but may be damaged.
DAMAGED = Note("may be damaged", is_damage=True)


class Read(NamedTuple):
    """An input of the net, or why there is none, and what is noted about the image."""

    input: NDArray[np.float32] | ImageError
    notes: list[Note]


@contextmanager
def read_ahead(
    images: ImageList, start: int, preprocess: Preprocess, n_ahead: int
) -> Iterator[Iterator[Read]]:
    """Read images in their order with a few threads, at most `n_ahead` in advance."""
    pool = ThreadPoolExecutor(
        max_workers=min(8, usable_cores()), initializer=catch_messages
    )

    def in_order() -> Iterator[Read]:
        waiting: deque[Future[Read]] = deque()
        for place in range(start, len(images)):
            reason = images.failed.get(place, "")
            waiting.append(pool.submit(_read, images.path[place], reason, preprocess))
            if len(waiting) > n_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    with opencv_threads(1):  # the threads of the pool are enough
        try:
            yield in_order()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _read(path: Path, reason: str, preprocess: Preprocess) -> Read:
    """Read an image, unless there is a reason to think that it cannot be read."""
    with collect_notes() as notes:
        try:
            return Read(ImageError(reason) if reason else preprocess(path), notes)
        except ImageError as error:
            return Read(error, notes)


def heard(
    read: Iterator[Read],
    images: ImageList,
    start: int,
    strict: bool,
    counts: Counter[Note],
) -> Generator[NDArray[np.float32] | ImageError]:
    """Pass inputs on, say what is noted about them, and count it.

    A damaged image is named, or fails if `strict`; other notes are said once.
    """
    for path, (item, notes) in zip(images.path[start:], read, strict=True):
        name = printable(str(path))
        damage = next((note.text for note in notes if note.is_damage), "")
        if damage and strict:
            item = ImageError(damage)
        elif damage:
            _log.warning("%s: %s; it may be damaged, and keeps its row", name, damage)
            counts[DAMAGED] += 1
        for note in notes:
            if not note.is_damage:
                if not counts[note]:
                    _log.warning("%s: %s (said once)", name, note.text)
                counts[note] += 1
        yield item


class Span(NamedTuple):
    """The images of a list that a batch covers, readable or not."""

    n_done: int  # images up to the end of the batch
    failed: dict[int, str]  # reasons by place in the list


def in_batches(
    inputs: Iterable[NDArray[np.float32] | ImageError], start: int, batch_size: int
) -> Iterator[tuple[Span, NDArray[np.float32]]]:
    """Gather inputs into batches, each with the images that it covers.

    A batch ends at a multiple of its size in the list, however many of its images can
    be read. So it is the same in work that was interrupted, and in a part of the list
    that begins at such a place.
    """
    data: list[NDArray[np.float32]] = []
    span = Span(start, {})
    for i, item in enumerate(inputs, start=start):
        span = Span(i + 1, span.failed)
        if isinstance(item, ImageError):
            span.failed[i] = str(item)
        else:
            data.append(item)
        if span.n_done % batch_size == 0:
            yield span, _stacked(data)
            data, span = [], Span(i + 1, {})
    if data or span.failed:
        yield span, _stacked(data)


def _stacked(data: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.stack(data) if data else np.empty(0, np.float32)
